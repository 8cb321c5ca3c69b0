"""The rows of one phase, deleted from among those of others: told by who wrote them, and in doubt by the source."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from knarr.errors import DataError, KnarrError, PlanError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import others, writers
from knarr.postgres.doubt import ReachSource, answers, same
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease
from knarr.postgres.pointing import refuse_changes_elsewhere
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from knarr.postgres.writers import IN_DOUBT, WRITTEN_BY_PHASE
from knarr.wording import counted


@dataclass(frozen=True)
class Removal:
    """One phase's rows of one mapping, on their way out."""

    connection: Connection
    lease: Lease
    run_id: str
    mapping: ResolvedMapping
    phase: str
    changed_since: ChangedSince
    limits: Limits | None

    @property
    def place(self) -> tuple[str, int, str]:
        return self.run_id, self.mapping.number, self.phase

    @property
    def table(self) -> str:
        return qualified(self.mapping.target)

    async def note(self, summary: str) -> None:
        """What became of rows of others, for the audit trail."""
        place = f"{self.mapping.number}/{self.phase}"
        await others.note(self.connection, self.lease, self.run_id, place, self.changed_since, summary)


class _UntoldError(Exception):
    """It can't be told which rows are the phase's; the plan or a person may have decided what to do then."""

    def __init__(self, error: KnarrError) -> None:
        super().__init__(error.message)
        self.error = error


async def delete_written(
    work: Removal, reach_source: ReachSource | None, phase_order: Sequence[str], own: int, of_others: int
) -> int:
    """Deletes the phase's rows from among those of other phases, and returns how many rows stay.

    Where it can't be told exactly which they are, a decision lets those go that the phase's transactions wrote beyond
    doubt. The others stay; 'restore ours' takes them out with the last phase that has rows there.
    """
    connection = work.connection
    found = await connection.fetchrow(
        writers.COUNT_PHASE.format(table=work.table, inside=writers.inside(work.mapping)), *work.place
    )
    if found is None:
        raise RuntimeError("counting returned no row")
    choices: list[ChangedSince] = []
    if await writers.all_known(connection, work.run_id, work.mapping):
        # What a repair of the run wrote is nobody else's to keep, and after this its transaction is not known any more.
        choices = ["restore ours"] if found["repaired"] else ["keep theirs", "restore ours"]
    way_out = others.way_out(work.run_id, work.mapping.name, choices)
    try:
        async with connection.transaction():  # a savepoint: what was deleted before it came out wrong
            doubtful = await _delete_known(work, found, own, of_others, way_out)
            if doubtful:
                await _delete_doubtful(work, reach_source, phase_order, doubtful, way_out)
            return of_others
    except _UntoldError as untold:
        if work.changed_since not in choices:
            raise untold.error from None
        reason = untold.error.message
    await refuse_changes_elsewhere(connection, work.mapping, WRITTEN_BY_PHASE, work.place)
    await connection.execute(f"DELETE FROM {work.table} AS t WHERE {WRITTEN_BY_PHASE}", *work.place)
    until = ", until the last phase is taken back" if work.changed_since == "restore ours" else ""
    await work.note(
        f"{reason}. {counted(found['own'], 'row')} written by phase {work.phase} went; kept "
        f"{counted(found['doubt'], 'row')} written since it began{until}"
    )
    return int(found["all"] - found["own"])


async def _delete_known(work: Removal, found: asyncpg.Record, own: int, of_others: int, way_out: str) -> int:
    """Deletes the rows that are the phase's beyond doubt, and returns how many more it has among those in doubt.

    Args:
        own: how many rows the phase has, by the ledger.
        of_others: how many the other phases have.
    """
    name, phase = work.mapping.name, work.phase
    if found["all"] != own + of_others:
        raise _UntoldError(
            DataError(
                f"{name} holds {counted(found['all'], 'row')}, the ledger says that the run put {own + of_others:,} "
                f"there, {own:,} of them in phase {phase}: somebody else has written to it",
                hint=f"put the table's rows right, or {way_out}",
            )
        )
    doubtful, not_ours = own - found["own"], found["doubt"] - (own - found["own"])
    if doubtful < 0 or not_ours < 0:
        raise DataError(
            f"{name} holds {found['own']:,} rows that phase {phase} copied and {found['doubt']:,} that were written "
            f"anew since; the ledger gives the phase {own:,} rows and the others {of_others:,}",
            hint="a repair followed rows of the source from one phase into another; roll back to the start, or skip "
            "this step with a reason; nothing was changed",
        )
    # What a repair of this run wrote can only be of the phase when no other phase misses a row. What somebody else has
    # written may be a row of theirs in the place of one that they deleted, however well the counts agree.
    all_ours = doubtful > 0 and not_ours == 0 and found["repaired"] == found["doubt"]
    doomed = f"({WRITTEN_BY_PHASE} OR {IN_DOUBT}) AND {writers.inside(work.mapping)}" if all_ours else WRITTEN_BY_PHASE
    await refuse_changes_elsewhere(work.connection, work.mapping, doomed, work.place)
    await work.connection.execute(f"DELETE FROM {work.table} AS t WHERE {doomed}", *work.place)
    return 0 if all_ours else doubtful


async def _delete_doubtful(
    work: Removal, reach_source: ReachSource | None, phase_order: Sequence[str], expected: int, way_out: str
) -> None:
    """Deletes those of the rows in doubt that the source counts to the phase: as many as expected, and all known."""
    connection, mapping = work.connection, work.mapping
    doubt = f"rows of {mapping.name} were written anew since phase {work.phase} began, {expected:,} of them are its own"
    if not mapping.key:
        raise _UntoldError(PlanError(f"{mapping.name} has no key, and {doubt}: which ones can't be told", hint=way_out))
    if reach_source is None:
        error = PlanError(f"{doubt}: which ones only the source can tell, and there is no connection to it")
        raise _UntoldError(error)
    found = same(mapping)
    of_phase = of_others = unknown = 0
    asking = answers(connection, reach_source, mapping, work.place, phase_order, work.limits)
    async with contextlib.aclosing(asking):
        async for answer in asking:
            kept = gone = 0
            if answer.others:
                count = f"SELECT count(*) FROM {work.table} AS t, {found}"
                kept = await connection.fetchval(count, *work.place, *answer.others)
            if answer.ours:
                arguments = *work.place, *answer.ours
                await refuse_changes_elsewhere(connection, mapping, f"EXISTS (SELECT FROM {found})", arguments)
                status = await connection.execute(f"DELETE FROM {work.table} AS t USING {found}", *arguments)
                gone = int(status.rpartition(" ")[2])
            of_phase, of_others, unknown = of_phase + gone, of_others + kept, unknown + answer.asked - gone - kept
    if of_phase != expected or unknown:
        raise _UntoldError(
            DataError(
                f"{doubt}; the source counts {of_phase} to the phase and {of_others} to others, and {unknown} are no "
                "longer there as they were copied: it has moved on since, so it can't tell whose they are",
                hint=f"roll back to the start, or {way_out}",
            )
        )
