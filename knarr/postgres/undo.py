"""Taking back what a phase did to a table that has rows of its own: the undo log, newest entry first, in batches.

Each batch is one fenced transaction that takes entries out of the log and does what they say, so every entry is taken
back exactly once, whatever dies and when; a new attempt goes on with what is left. What the rows become is compared,
text for text, with what they were; at the end the table as a whole is.
"""

from collections.abc import Callable
from typing import Final

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import before, ledger, merge_sql, others, sequences
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease, fence, step_lock
from knarr.postgres.pointing import POINTING_HERE, pointed_at
from knarr.postgres.same_table import require_same_table
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction
from knarr.postgres.undo_batch import MEETING, Work, take_back
from knarr.postgres.undo_sql import Action, ChangedSince, UndoSql

BATCH: Final = 10_000  # entries taken back by one transaction
_END: Final = 2**63 - 1  # beyond every entry

ORDER: Final[tuple[Action, ...]] = ("delete", "update", "insert")
SELF_REFERENCING_ORDER: Final[tuple[Action, ...]] = ("insert", "update", "delete")

# What the ledger says that there was to take back, and what was.
BALANCE: Final = """
SELECT (SELECT coalesce(sum(inserted + updated + deleted), 0)::bigint FROM knarr.ledger
         WHERE run_id = $1 AND mapping = $2 AND phase = $3) AS changes,
       coalesce(sum(entries), 0)::bigint AS entries, coalesce(sum(kept), 0)::bigint AS kept
  FROM knarr.undone
 WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND NOT finished
"""
# What later proofs must know of this phase once its ledger rows are gone.
REMEMBER_OTHERS: Final = """
UPDATE knarr.table_before
   SET others = others + $4
       + (SELECT coalesce(sum(others), 0) FROM knarr.ledger WHERE run_id = $1 AND mapping = $2 AND phase = $3)
 WHERE run_id = $1 AND mapping = $2
"""
FINISH: Final = "UPDATE knarr.undone SET finished = true WHERE run_id = $1 AND mapping = $2 AND phase = $3"
IS_LAST: Final = "SELECT NOT EXISTS (SELECT FROM knarr.ledger WHERE run_id = $1 AND mapping = $2)"


class Undone(BaseModel):
    """What taking a phase back came to: entries of the log, rows left to others, and what the proof found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entries: int = Field(default=0, ge=0)
    kept: int = Field(default=0, ge=0)
    proof: str = ""
    left: list[str] = Field(default_factory=list, description="what is not as it was, since others have written")


async def undo_phase(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    *,
    changed_since: ChangedSince = "stop",
    limits: Limits | None = None,
    on_progress: Callable[[int], None] = lambda entries: None,
) -> Undone:
    """Takes back what a phase did to an occupied table, and proves that the table holds again what it held.

    Holds when the phase did nothing, half or all of it, and goes on where an earlier attempt ended. Memory is flat:
    rows never leave the server.

    Args:
        changed_since: what becomes of rows that somebody else has changed since the run wrote them; a decision that a
            person left with `knarr.decide` comes first.
        on_progress: called with the entries taken back so far by this call.

    Raises:
        DataError: rows were changed since and the policy is to stop; a row did not become what it was; rows elsewhere
            depend on rows that must go; the table is not what it was. The batch is rolled back.
        LostLease, TransientError, PlanError.
    """
    with classified(f"taking back what phase {phase} did to {mapping.name}", taking_back=True):
        totals = await ledger.phase_totals(connection, run_id, mapping.number)
        if phase not in totals:
            return Undone(left=await others.left_before(connection, run_id, _key(mapping, phase, lease)))
        decided = await others.policy(connection, run_id, mapping.number, changed_since)
        await require_same_table(connection, run_id, mapping.number)
        columns = await before.read_columns(connection, mapping)
        await before.require_same_columns(connection, run_id, mapping, columns)
        itself = await connection.fetchval(merge_sql.SELF_REFERENCING, qualified(mapping.target))
        pointing = await connection.fetch(POINTING_HERE, qualified(mapping.target))
        work = Work(
            connection=connection,
            lease=lease,
            run_id=run_id,
            mapping=mapping,
            phase=phase,
            limits=limits,
            sql=UndoSql(mapping, columns, decided),
            pointing=[row for row in pointing if row["changes_rows"] and not row["itself"]],
            order=SELF_REFERENCING_ORDER if itself else ORDER,
        )
        # What a row of the table points at may be in any batch, so that such a table is taken back in one.
        await _take_all_back(work, _END if itself else BATCH, on_progress)
        return await _finish(work)


async def _take_all_back(work: Work, size: int, on_progress: Callable[[int], None]) -> None:
    below, done = _END, 0
    while True:
        entries, below = await _next_batch(work, below, size)
        if not entries:
            return
        done += entries
        on_progress(done)


async def _next_batch(work: Work, below: int, size: int) -> tuple[int, int]:
    """One batch in one transaction; row by row where the order matters, and all that is left where that isn't enough.

    Returns how many entries it had and the lowest of their numbers.
    """
    met: asyncpg.PostgresError | None = None
    for entries, singly in ((size, False), (size, True), (_END, True)):
        try:
            async with transaction(work.connection, work.limits):
                await step_lock(work.connection, work.step)
                await fence(work.connection, work.lease)
                return await take_back(work, below, entries, singly=singly, last=entries == _END)
        except MEETING as error:
            met = error
        except asyncpg.ObjectNotInPrerequisiteStateError:
            # ON CONFLICT, by which theirs are kept, can't be asked of a constraint that is deferrable.
            if singly or work.sql.changed_since != "keep theirs":
                raise
    raise _in_the_way(work.mapping, met)


def _in_the_way(mapping: ResolvedMapping, met: asyncpg.PostgresError | None) -> DataError:
    """What of somebody else's stands in the way of rows that are to become what they were."""
    name, table = getattr(met, "constraint_name", None) or "", getattr(met, "table_name", None) or ""
    if isinstance(met, asyncpg.ForeignKeyViolationError) and table != mapping.target.name:
        return pointed_at(mapping, table, name)
    if isinstance(met, asyncpg.ForeignKeyViolationError):
        return DataError(
            f"rows of {mapping.name} are to become what they were; what they pointed at by foreign key {name} is gone",
            hint="put the rows back that they point at, and retry; nothing of this batch was changed",
        )
    return DataError(
        f"rows of {mapping.name} are to become what they were, and rows of others have their values under {name}",
        hint="give those rows other values or take them out, and retry; nothing of this batch was changed",
    )


def _key(mapping: ResolvedMapping, phase: str, lease: Lease) -> str:
    return f"remove {mapping.number}/{phase}/epoch {lease.epoch}"


async def _finish(work: Work) -> Undone:
    """The end of a phase: the log is empty, the balance is right, the table is what it was; the ledger forgets it."""
    connection = work.connection
    async with transaction(connection, work.limits):
        await step_lock(connection, work.step)
        await fence(connection, work.lease)
        balance = await connection.fetchrow(BALANCE, *work.place)
        if balance is None:
            raise RuntimeError("counting returned no row")
        if balance["changes"] != balance["entries"]:
            raise DataError(
                f"phase {work.phase} made {balance['changes']:,} changes to {work.mapping.name}, and the undo log had "
                f"{balance['entries']:,} of them",
                hint="the log was dropped, or somebody has written to knarr.undo: restore the rest from a backup",
            )
        proof = await before.prove(connection, work.run_id, work.mapping, work.phase)
        await connection.execute(REMEMBER_OTHERS, *work.place, balance["kept"])
        await connection.execute(FINISH, *work.place)
        await connection.execute(ledger.DELETE_PHASE, *work.place)
        name, moved_on = work.mapping.name, list[str]()
        if await connection.fetchval(IS_LAST, work.run_id, work.mapping.number):
            moved_on = await before.put_sequences_back(connection, work.run_id, work.mapping)
        kept = f"; {balance['kept']:,} rows of others kept" if balance["kept"] else ""
        stay = f"; sequences that others may have drawn from stay: {', '.join(moved_on)}" if moved_on else ""
        left = others.stay(balance["kept"], work.mapping) + sequences.stay(moved_on)
        left += [] if proof.whole else [f"{name} can't be proved as a whole, since others have written to it"]
        summary = f"{balance['entries']:,} changes taken back{kept}; the table holds {proof.said}{stay}"
        body = {
            "step": f"take back the rows of {work.mapping.name}",
            "outcome": "done",
            "summary": summary,
            "mapping": work.mapping.name,
            "phase": work.phase,
            **({"left": left} if left else {}),
        }
        await chain.append(connection, work.run_id, _key(work.mapping, work.phase, work.lease), "compensation", body)
    return Undone(entries=balance["entries"], kept=balance["kept"], proof=proof.said, left=left)
