"""Taking a mapping's copied rows of a phase back out of the target, and leaving what somebody else has written."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import DataError, PlanError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import ledger, others, sequences, writers
from knarr.postgres.doubt import ReachSource
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.pointing import POINTING_HERE, pointed_at, refuse_changes_elsewhere
from knarr.postgres.remove_phase import Removal, delete_written
from knarr.postgres.same_table import require_same_table
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from knarr.postgres.writers import WRITTEN_BY_RUN
from knarr.wording import counted

EXISTS: Final = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)"


class Removed(BaseModel):
    """How many rows a phase had copied that are taken back, and what is not as it was, since others have written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(default=0, ge=0)
    sequences: int = Field(default=0, ge=0, description="put back to where they stood before the phase")
    left: list[str] = Field(default_factory=list)


async def remove_rows(
    connection: Connection,
    reach_source: ReachSource | None,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    phase_order: Sequence[str],
    *,
    changed_since: ChangedSince = "stop",
    limits: Limits | None = None,
) -> Removed:
    """Takes back the rows that a phase copied into a table that the run fills, and then puts its sequences back.

    One transaction with the phase's ledger rows, so that the phase can be copied again. A table that holds only this
    phase's rows is emptied, unless it holds rows of somebody else (`Written.of_others`). With rows of other phases in
    it, the rows that the phase's transactions wrote are deleted. Rows that were written anew since (by a repair, or by
    who uses them already) show another transaction: where it was a repair of this run and the ledger's counts leave
    only one phase that they can be of, they are of that one. Else the source is asked about them; a row counts as known
    when source and target still agree in all that was copied, and every number must come out as the ledger has it. What
    the run did not carry (a column that only a phase's predicate reads) can't be compared.

    Args:
        reach_source: called only when there are rows in doubt; None: those stop it.
        phase_order: names of the plan's phases in rollout order.
        changed_since: what becomes of rows that somebody else has written or changed; a decision that a person left
            with `knarr.decide` comes first. 'keep theirs' deletes only what the run's own transactions wrote.

    Raises:
        DataError: the table holds rows of somebody else, or has another name now; it can't be told which are the
            phase's, or rows elsewhere depend on them; nothing is changed.
        PlanError: the mapping appends or merges, which has an undo of its own; rows are in doubt, and there is no key
            or no source to tell them by.
        LostLease, TransientError.
    """
    if mapping.mode not in ("create", "fill"):
        raise PlanError(f"the rows of {mapping.name} are not taken back by phase: its mode is '{mapping.mode}'")
    removed = await _remove(connection, reach_source, lease, run_id, mapping, phase, phase_order, changed_since, limits)
    # Only now: until the rows are gone those who use the table would be given the keys of rows that stand there.
    reset = await sequences.reset_sequences(
        connection,
        lease,
        run_id,
        mapping.number,
        phase,
        stay=await _rows_stay(connection, run_id, mapping),
        limits=limits,
    )
    return removed.model_copy(update={"sequences": reset.put_back, "left": [*removed.left, *reset.stay]})


async def _remove(
    connection: Connection,
    reach_source: ReachSource | None,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    phase_order: Sequence[str],
    changed_since: ChangedSince,
    limits: Limits | None,
) -> Removed:
    with classified(f"taking back the rows of {mapping.name}, phase {phase}", taking_back=True), _pointed_at(mapping):
        async with fenced(connection, lease, limits=limits):
            totals = await ledger.phase_totals(connection, run_id, mapping.number)
            own = totals.pop(phase, None)
            if own is None:
                return Removed(left=await others.left_before(connection, run_id, _key(mapping, phase, lease)))
            left: list[str] = []
            await require_same_table(connection, run_id, mapping.number)
            kind = await connection.fetchval(EXISTS, qualified(mapping.target))
            if kind is not None:
                # Nobody may add a row between the count and the commit.
                await connection.execute(f"LOCK TABLE {qualified(mapping.target)} IN SHARE ROW EXCLUSIVE MODE")
                decided = await others.policy(connection, run_id, mapping.number, changed_since)
                work = Removal(connection, lease, run_id, mapping, phase, decided, limits)
                if of_others := sum(total.rows for total in totals.values()):
                    standing = await delete_written(work, reach_source, phase_order, own.rows, of_others)
                    left = others.stay(max(0, standing - of_others), mapping)
                else:
                    standing = await _take_out(work, kind, own.rows)
                    left = others.stay(standing, mapping)
                await _prove(work, standing)
            await connection.execute(ledger.DELETE_PHASE, run_id, mapping.number, phase)
            gone = f"; {mapping.name} itself was gone, and all rows with it" if kind is None else ""
            await _audit(connection, lease, run_id, mapping, phase, f"{own.rows:,} rows{gone}", left)
    return Removed(rows=own.rows, left=left)


async def _rows_stay(connection: Connection, run_id: str, mapping: ResolvedMapping) -> bool:
    """Whether rows of others stand where the run has none left."""
    table = qualified(mapping.target)
    with classified(f"looking for what stays in {mapping.name}", taking_back=True):
        if await ledger.phase_totals(connection, run_id, mapping.number) or not await connection.fetchval(
            EXISTS, table
        ):
            return False
        query = f"SELECT EXISTS (SELECT FROM {table} AS t WHERE {writers.inside(mapping)})"
        return bool(await connection.fetchval(query))


@contextlib.contextmanager
def _pointed_at(mapping: ResolvedMapping) -> Iterator[None]:
    """Says of a row elsewhere that points at one that is to go what the server says of it, in words for a rollback."""
    try:
        yield
    except asyncpg.ForeignKeyViolationError as error:
        raise pointed_at(mapping, error.table_name or "", error.constraint_name or "") from error


async def _take_out(work: Removal, kind: str, expected: int) -> int:
    """Empties the table, but for rows of others that are to stay, and returns how many stay."""
    connection, name = work.connection, work.mapping.name
    found = await writers.count_written(connection, work.run_id, work.mapping)
    theirs = found.of_others(expected, in_use=await others.was_in_use(connection, work.run_id))
    if theirs:
        others.require_decision(work.changed_since, work.run_id, work.mapping, found, expected)
    if not theirs or work.changed_since == "restore ours":
        await _empty(work, kind)
        if theirs:
            await work.note(f"{name}: {counted(theirs, 'row')} written or changed by others went with those of the run")
        return 0
    await refuse_changes_elsewhere(connection, work.mapping, WRITTEN_BY_RUN, work.place[:2])
    await connection.execute(f"DELETE FROM {work.table} AS t WHERE {WRITTEN_BY_RUN}", *work.place[:2])
    went = counted(found.ours or 0, "row")
    await work.note(f"{name}: kept {counted(theirs, 'row')} written or changed by others; {went} of the run went")
    return theirs


async def _empty(work: Removal, kind: str) -> None:
    connection, table, inside = work.connection, work.table, writers.inside(work.mapping)
    # ONLY: tables that inherit from it hold other people's rows; a partitioned table can't do without its parts.
    only = "" if kind == "p" else "ONLY "
    pointed = not all(row["itself"] for row in await connection.fetch(POINTING_HERE, table))
    if not pointed and work.mapping.scope is None and await _truncate(connection, f"{only}{table}"):
        return
    await refuse_changes_elsewhere(connection, work.mapping, inside, [])
    await connection.execute(f"DELETE FROM {only}{table} AS t WHERE {inside}")


async def _truncate(connection: Connection, table: str) -> bool:
    """Whether the table could be emptied at one blow; DELETE needs less of disk, rights and other sessions."""
    before = await connection.fetchval("SELECT current_setting('lock_timeout')")
    try:
        async with connection.transaction():
            # Who reads the table is not to be waited for, with all later readers behind us; nor to be deadlocked with,
            # which a server looks for after a second.
            await connection.execute("SET LOCAL lock_timeout = '500ms'")
            await connection.execute(f"TRUNCATE {table}")
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", before)
    except (
        asyncpg.DiskFullError,  # it writes each index anew, a page at least
        asyncpg.InsufficientPrivilegeError,
        asyncpg.LockNotAvailableError,
        asyncpg.DeadlockDetectedError,
    ):
        return False
    return True


async def _prove(work: Removal, expected: int) -> None:
    found = await work.connection.fetchval(
        f"SELECT count(*) FROM {work.table} AS t WHERE {writers.inside(work.mapping)}"
    )
    if found != expected:
        raise DataError(
            f"after taking back phase {work.phase}, {work.mapping.name} holds {counted(found, 'row')} where {expected} "
            "should stay",
            hint="a trigger or a rule on the table keeps rows from being deleted, or they are in tables that inherit "
            "from it; nothing was changed",
        )


async def _audit(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    summary: str,
    left: list[str],
) -> None:
    body = {
        "step": f"take back the rows of {mapping.name}",
        "outcome": "done",
        "summary": summary,
        "mapping": mapping.name,
        "phase": phase,
        **({"left": left} if left else {}),
    }
    await chain.append(connection, run_id, _key(mapping, phase, lease), "compensation", body)


def _key(mapping: ResolvedMapping, phase: str, lease: Lease) -> str:
    return f"remove {mapping.number}/{phase}/epoch {lease.epoch}"
