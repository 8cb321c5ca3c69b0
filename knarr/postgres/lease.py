"""Who may write to the target: claims, the lease with its epoch, the fence, and ending those that came before.

Each step follows from a measurement (research/reliability.md, parts 0 and 3): M1 to M4 for the fence and the raise,
M13 for ending older backends, M7 and M8 for asking the ledger.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Final, Literal

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import ClaimRefused, LostLease, PlanError, TransientError
from knarr.plan.models import Limits, Plan
from knarr.plan.resolved import TableName
from knarr.postgres import claims
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection, end
from knarr.postgres.transactions import transaction

LEASE_LOCK: Final = 1802396018  # classid of knarr.fence's advisory lock
STEP_LOCK: Final = 1937007984  # classid of the lock that an attempt of a step holds while it writes
RUN_LOCK: Final = 1920298603  # 'runk'
ATTEMPT_LOCK: Final = 1635021941  # classid of the lock that all connections of one attempt of an activity share
RAISE_SECONDS: Final = 60.0
RAISING: Final = "raising the epoch of run"

INSERT_RUN: Final = """
INSERT INTO knarr.run (run_id, plan_name, plan_hash, plan, source_alias, target_alias)
VALUES ($1, $2, $3, $4::text::json, $5, $6)
ON CONFLICT (run_id) DO NOTHING
RETURNING true
"""
READ_RUN: Final = "SELECT plan_hash, state FROM knarr.run WHERE run_id = $1"
INSERT_LEASE: Final = "INSERT INTO knarr.lease (run_id) VALUES ($1) ON CONFLICT (run_id) DO NOTHING"
READ_LEASE: Final = "SELECT lease_id, epoch, released FROM knarr.lease WHERE run_id = $1"
# Holders and waiters alike: whoever waits for the lock would write next.
END_HOLDERS: Final = """
SELECT pg_terminate_backend(l.pid)
  FROM pg_locks l
 WHERE l.locktype = 'advisory' AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid = 2
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid <> pg_backend_pid()
"""
RAISE: Final = "UPDATE knarr.lease SET epoch = epoch + 1 WHERE lease_id = $1 RETURNING epoch"
DELETE_CLAIMS: Final = "DELETE FROM knarr.claim WHERE run_id = $1"
MARK_RELEASED: Final = "UPDATE knarr.lease SET released = true WHERE lease_id = $1"
END_RUN: Final = "UPDATE knarr.run SET state = $2, ended_at = clock_timestamp() WHERE run_id = $1"

IS_GIVEN_UP: Final = "SELECT EXISTS (SELECT FROM knarr.never_claimed WHERE run_id = $1)"
GIVE_UP: Final = "INSERT INTO knarr.never_claimed (run_id) VALUES ($1) ON CONFLICT DO NOTHING"

RunEnd = Literal["completed", "rolled back", "aborted"]


class Lease(BaseModel):
    """What a writer shows at the fence: which lease, and the epoch that was current when it was given its work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease_id: int = Field(ge=1)
    epoch: int = Field(ge=1)


async def claim(
    connection: Connection, run_id: str, plan: Plan, plan_hash: str, tables: Sequence[TableName], *, actor: str = ""
) -> Lease:
    """Takes the target tables for a run and gives it a lease, in one transaction; called again, returns the lease.

    Raises:
        ClaimRefused: another run holds one of the tables, or one above or below it, or this run has ended; nothing is
            written.
        PlanError: the run exists with another plan.
        TransientError: the server was in the way.
    """
    document = plan.model_dump_json(by_alias=True, exclude_defaults=True)
    with classified(f"claiming the target tables for run {run_id}"):
        async with transaction(connection):
            await _alone_with(connection, run_id)
            if await connection.fetchval(IS_GIVEN_UP, run_id):
                raise ClaimRefused(f"run {run_id} ended before it had claimed its tables")
            started = await connection.fetchval(
                INSERT_RUN, run_id, plan.name, plan_hash, document, plan.source, plan.target
            )
            run = await connection.fetchrow(READ_RUN, run_id)
            if run is None or run["plan_hash"] != plan_hash:
                raise PlanError(
                    f"run {run_id} was started with another plan (digest {run['plan_hash'] if run else 'unknown'}, "
                    f"now {plan_hash})",
                    hint="a plan must not change under its run: finish or roll back the run, then start a new one",
                )
            await connection.execute(INSERT_LEASE, run_id)
            lease = await connection.fetchrow(READ_LEASE, run_id)
            if lease is None or lease["released"]:
                raise ClaimRefused(f"run {run_id} has ended ({run['state']}) and can't write again")
            _refuse(await claims.take(connection, run_id, tables))
            if started:
                body = {"plan": plan.name, "plan_hash": plan_hash, "source": plan.source, "target": plan.target}
                body |= {"actor": actor} if actor else {}
                await chain.append(connection, run_id, "claim", "run started", body)
            return Lease(lease_id=lease["lease_id"], epoch=lease["epoch"])


def _refuse(held: Sequence[claims.Held]) -> None:
    if not held:
        return
    lines: list[str] = []
    for one in held:
        kinship = one.kinship(str(one.wanted))
        lines.append(
            f"{one.table}{f'{kinship},' if kinship else ''} is held by run {one.run_id} (plan '{one.plan_name}', "
            f"started {one.started_at:%Y-%m-%d %H:%M:%S} UTC)"
        )
    run_id = held[0].run_id
    hint = f"wait for run {run_id} to end, or complete it or roll it back; if its workflow is gone: "
    hint += f"knarr doctor --unwind {run_id}"
    raise ClaimRefused("; ".join(lines), hint=hint)


async def fence(connection: Connection, lease: Lease) -> None:
    """Passes the fence inside the caller's READ COMMITTED transaction, or raises LostLease."""
    await connection.execute("SELECT knarr.fence($1, $2)", lease.lease_id, lease.epoch)


@contextlib.asynccontextmanager
async def fenced(connection: Connection, lease: Lease, *, limits: Limits | None = None) -> AsyncIterator[None]:
    """A transaction that writes to the target: READ COMMITTED, behind the fence, with the plan's time limits.

    Raises:
        LostLease: the epoch has moved on; nothing was written.
        asyncpg's errors, unclassified: callers wrap it in `classified(doing)`.
    """
    async with transaction(connection, limits):
        await fence(connection, lease)
        yield


def lock_number(key: str) -> int:
    """The step's key as a signed 32-bit number; two steps that meet there merely disturb each other once."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=4).digest(), "big", signed=True)


async def step_lock(connection: Connection, key: str) -> None:
    """Ends older backends of this step, whatever they are doing, then takes the step's lock until the transaction ends.

    Only pg_terminate_backend ends a backend whose client froze in mid COPY (measured, M4).
    """
    number = lock_number(key)
    await connection.execute(END_HOLDERS, STEP_LOCK, number % 2**32)
    await connection.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", STEP_LOCK, number)


async def attempt_lock(connection: Connection, key: str, *, end_others: bool) -> None:
    """Marks the connection as one of an attempt's, until it goes back to its pool; first ends those of older attempts.

    An attempt whose worker froze between two statements holds its transaction open, and with it whatever row the next
    attempt needs; else only idle_in_transaction_session_timeout would end it, after 15 minutes.
    """
    number = lock_number(key)
    if end_others:
        await connection.execute(END_HOLDERS, ATTEMPT_LOCK, number % 2**32)
    await connection.execute("SELECT pg_advisory_lock_shared($1::int, $2::int)", ATTEMPT_LOCK, number)


async def raise_epoch(connection: Connection, run_id: str, *, reason: str = "") -> Lease:
    """Takes the right to write away from everybody who has it, and returns the lease with its new epoch.

    The intent is in the audit trail before anything is ended; compensation may start when this returns.

    Raises:
        PlanError: the run has no lease, or the role may not end the backends.
        TransientError: writers could not be ended within a minute.
    """
    with classified(f"{RAISING} {run_id}"):
        lease = await read_lease(connection, run_id)
        summary = f"writers of epoch {lease.epoch} lose the right to write; epoch {lease.epoch + 1} follows"
        body = {"summary": summary, "reason": reason}
        try:
            await _note(connection, run_id, f"raise epoch {lease.epoch}", body, wait="5s")
        except asyncpg.LockNotAvailableError:
            # A writer that froze between its audit entry and its COMMIT holds the trail's head: it has to go first.
            await connection.execute(END_HOLDERS, LEASE_LOCK, lease.lease_id)
            await _note(connection, run_id, f"raise epoch {lease.epoch}", body, wait="30s")
        async with _exclusively(connection, lease.lease_id):
            epoch = await connection.fetchval(RAISE, lease.lease_id)
        return Lease(lease_id=lease.lease_id, epoch=epoch)


async def _note(connection: Connection, run_id: str, key: str, body: dict[str, str], *, wait: str) -> None:
    async with transaction(connection):
        await connection.execute("SELECT set_config('lock_timeout', $1, true)", wait)
        await chain.append(connection, run_id, key, "decision", body)


@contextlib.asynccontextmanager
async def _exclusively(connection: Connection, lease_id: int) -> AsyncIterator[None]:
    """A transaction that holds the lease's lock alone, after ending whoever had it."""
    deadline = asyncio.get_running_loop().time() + RAISE_SECONDS
    while True:
        await connection.execute(END_HOLDERS, LEASE_LOCK, lease_id)
        begun = connection.transaction(isolation="read_committed")
        await begun.start()
        try:
            await connection.execute("SET LOCAL lock_timeout = '250ms'")
            await connection.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", LEASE_LOCK, lease_id)
        except asyncpg.LockNotAvailableError:
            await begun.rollback()
        except BaseException:
            await end(connection)
            raise
        else:
            break
        if asyncio.get_running_loop().time() > deadline:
            raise TransientError(
                f"writers of lease {lease_id} did not end within {RAISE_SECONDS:.0f} s",
                hint=f"see pg_locks, classid {LEASE_LOCK}, objid {lease_id}, for who they are",
            )
    try:
        await connection.execute("SET LOCAL lock_timeout = '30s'")
        yield
    except BaseException:
        await end(connection)
        raise
    await begun.commit()


async def read_lease(connection: Connection, run_id: str) -> Lease:
    """The lease of a run as it stands.

    Raises:
        PlanError: the run is not known here.
        LostLease: it was released.
    """
    row = await connection.fetchrow(READ_LEASE, run_id)
    if row is None:
        raise PlanError(f"run {run_id} has no lease in this database", hint="is the target's alias the one of the run?")
    if row["released"]:
        raise LostLease(f"the lease of run {run_id} was released: the run has ended")
    return Lease(lease_id=row["lease_id"], epoch=row["epoch"])


async def give_up_claim(connection: Connection, run_id: str) -> bool:
    """Sees to it that a run which ended without a lease never gets one; False when it has one after all.

    An activity that Temporal has given up may still be on its way with the run's claim. Both take the run's own lock,
    so either this finds the lease, or the claim finds the run given up and is refused.
    """
    with classified(f"giving up the claim of run {run_id}"):
        async with transaction(connection):
            await _alone_with(connection, run_id)
            if await connection.fetchrow(READ_LEASE, run_id) is not None:
                return False
            await connection.execute(GIVE_UP, run_id)
            return True


async def _alone_with(connection: Connection, run_id: str) -> None:
    """One transaction at a time decides whether a run holds tables."""
    await connection.execute("SELECT pg_advisory_xact_lock($1::int, $2::int)", RUN_LOCK, lock_number(run_id))


async def release(connection: Connection, run_id: str, state: RunEnd) -> None:
    """Gives the run's tables free and closes its lease, after ending whoever still writes; again is a no-op.

    Raises:
        PlanError: the run is not known here.
        TransientError: the server was in the way.
    """
    with classified(f"releasing the tables of run {run_id}"):
        row = await connection.fetchrow(READ_LEASE, run_id)
        if row is None:
            raise PlanError(f"run {run_id} has no lease in this database")
        if row["released"]:
            return
        async with _exclusively(connection, row["lease_id"]):
            await _alone_with(connection, run_id)
            await connection.execute(RAISE, row["lease_id"])
            await connection.execute(MARK_RELEASED, row["lease_id"])
            await connection.execute(DELETE_CLAIMS, run_id)
            await connection.execute(END_RUN, run_id, state)
            await chain.append(connection, run_id, "release", "run ended", {"state": state})
