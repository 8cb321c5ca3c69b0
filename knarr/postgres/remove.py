"""Taking a mapping's copied rows of a phase back out of the target, and leaving what somebody else has written."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from knarr.audit import chain
from knarr.errors import DataError, KnarrError, PlanError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import ledger, others, writers
from knarr.postgres.doubt import ReachSource, answers, same
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.pointing import POINTING_HERE, pointed_at, refuse_changes_elsewhere
from knarr.postgres.same_table import require_same_table
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from knarr.postgres.writers import IN_DOUBT, WRITTEN_BY_PHASE, WRITTEN_BY_RUN
from knarr.wording import counted

EXISTS: Final = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)"


@dataclass(frozen=True)
class _Removal:
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
) -> int:
    """Takes back the rows that a phase copied into a table that the run fills, and returns how many it had copied.

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
    with classified(f"taking back the rows of {mapping.name}, phase {phase}"), _pointed_at(mapping):
        async with fenced(connection, lease, limits=limits):
            totals = await ledger.phase_totals(connection, run_id, mapping.number)
            own = totals.pop(phase, None)
            if own is None:
                return 0
            await require_same_table(connection, run_id, mapping.number)
            kind = await connection.fetchval(EXISTS, qualified(mapping.target))
            if kind is not None:
                # Nobody may add a row between the count and the commit.
                await connection.execute(f"LOCK TABLE {qualified(mapping.target)} IN SHARE ROW EXCLUSIVE MODE")
                decided = await others.policy(connection, run_id, mapping.number, changed_since)
                work = _Removal(connection, lease, run_id, mapping, phase, decided, limits)
                if of_others := sum(total.rows for total in totals.values()):
                    left = await _delete_written(work, reach_source, phase_order, own.rows, of_others)
                else:
                    left = await _take_out(work, kind, own.rows)
                await _prove(work, left)
            await connection.execute(ledger.DELETE_PHASE, run_id, mapping.number, phase)
            gone = f"; {mapping.name} itself was gone, and all rows with it" if kind is None else ""
            await _audit(connection, lease, run_id, mapping, phase, f"{own.rows:,} rows{gone}")
    return own.rows


@contextlib.contextmanager
def _pointed_at(mapping: ResolvedMapping) -> Iterator[None]:
    """Says of a row elsewhere that points at one that is to go what the server says of it, in words for a rollback."""
    try:
        yield
    except asyncpg.ForeignKeyViolationError as error:
        raise pointed_at(mapping, error.table_name or "", error.constraint_name or "") from error


async def _take_out(work: _Removal, kind: str, expected: int) -> int:
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


async def _empty(work: _Removal, kind: str) -> None:
    connection, table = work.connection, work.table
    # ONLY: tables that inherit from it hold other people's rows; a partitioned table can't do without its parts.
    only = "" if kind == "p" else "ONLY "
    if all(row["itself"] for row in await connection.fetch(POINTING_HERE, table)):
        try:
            async with connection.transaction():
                await connection.execute(f"TRUNCATE {only}{table}")
        except (asyncpg.DiskFullError, asyncpg.InsufficientPrivilegeError):
            # TRUNCATE writes each index anew, a page at least, and needs a right of its own; DELETE needs neither.
            await connection.execute(f"DELETE FROM {only}{table}")
        return
    await refuse_changes_elsewhere(connection, work.mapping, "TRUE", [])
    await connection.execute(f"DELETE FROM {only}{table}")


async def _delete_written(
    work: _Removal, reach_source: ReachSource | None, phase_order: Sequence[str], own: int, of_others: int
) -> int:
    """Deletes the phase's rows from among those of other phases, and returns how many rows stay.

    Where it can't be told exactly which they are, a decision lets those go that the phase's transactions wrote beyond
    doubt. The others stay; 'restore ours' takes them out with the last phase that has rows there.
    """
    connection = work.connection
    found = await connection.fetchrow(writers.COUNT_PHASE.format(table=work.table), *work.place)
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


async def _delete_known(work: _Removal, found: asyncpg.Record, own: int, of_others: int, way_out: str) -> int:
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
    doomed = f"({WRITTEN_BY_PHASE} OR {IN_DOUBT})" if all_ours else WRITTEN_BY_PHASE
    await refuse_changes_elsewhere(work.connection, work.mapping, doomed, work.place)
    await work.connection.execute(f"DELETE FROM {work.table} AS t WHERE {doomed}", *work.place)
    return 0 if all_ours else doubtful


async def _delete_doubtful(
    work: _Removal, reach_source: ReachSource | None, phase_order: Sequence[str], expected: int, way_out: str
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


async def _prove(work: _Removal, expected: int) -> None:
    found = await work.connection.fetchval(f"SELECT count(*) FROM {work.table}")
    if found != expected:
        raise DataError(
            f"after taking back phase {work.phase}, {work.mapping.name} holds {counted(found, 'row')} where {expected} "
            "should stay",
            hint="a trigger or a rule on the table keeps rows from being deleted, or they are in tables that inherit "
            "from it; nothing was changed",
        )


async def _audit(
    connection: Connection, lease: Lease, run_id: str, mapping: ResolvedMapping, phase: str, summary: str
) -> None:
    body = {
        "step": f"take back the rows of {mapping.name}",
        "outcome": "done",
        "summary": summary,
        "mapping": mapping.name,
        "phase": phase,
    }
    key = f"remove {mapping.number}/{phase}/epoch {lease.epoch}"
    await chain.append(connection, run_id, key, "compensation", body)
