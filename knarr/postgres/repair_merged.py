"""Repairing one partition of a table that has rows of its own: merged once more, with the undo log kept true.

An undo needs of each key what its row was before the run, once. So where the run has an entry of a key already, the
entry stays the only one and keeps that pre-image; a repair changes what it says of the row as the run left it. Where
somebody has changed columns of the row that the mapping does not carry, it says what it said, and an undo stops there.
"""

from collections.abc import Sequence
from functools import partial

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from knarr.errors import DataError
from knarr.postgres import before, ledger, merge_sql, others, repair_sql
from knarr.postgres.copy import CopyJob, OnProgress, stream_rows
from knarr.postgres.merge import AFTERWARDS, BEFOREHAND, change_rows, deletes_missing, refuse_out_of_scope, shown
from knarr.postgres.merge_sql import MergeSql, Operation
from knarr.postgres.pointing import refuse_changes_elsewhere
from knarr.postgres.selection import phase_predicate
from knarr.postgres.session import Connection
from knarr.postgres.stream import Reconnect
from knarr.postgres.undo_sql import TableColumn


class Rewritten(BaseModel):
    """What a repair did to an occupied table's rows, and how many of them others have had their hands in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deleted: int = Field(default=0, ge=0)
    updated: int = Field(default=0, ge=0)
    inserted: int = Field(default=0, ge=0)
    asked: int = Field(default=0, ge=0, description="others' values stand in columns not carried: an undo stops there")
    unasked: int = Field(default=0, ge=0, description="it can't be told, or they went with the row: an undo does not")


async def rewrite_merged(
    source: Connection,
    target: Connection,
    job: CopyJob,
    doing: str,
    on_progress: OnProgress,
    reconnect: Reconnect,
    *,
    spares: bool = False,
) -> Rewritten:
    """Merges all that was moved through the job's phase once more, within the caller's fenced transaction.

    What differs is updated, what is missing inserted, and, where the last phase deletes, what the source does not have
    goes. Undo log and ledger agree with the rows when this returns. Memory is flat: no row comes to the worker.

    Args:
        spares: what others have done since to rows that the run had written is not to be written over.

    Raises:
        DataError: others have, and it is not; the partition was never merged; a row lies outside the mapping's scope; a
            key is not unique; a key to append is somebody else's; rows elsewhere depend on one that must go; the target
            does not take a row.
        LostLease, TransientError.
    """
    # The keys that an append has staged are the run's own: it tells its rows by them, as a merge does.
    mapping = job.mapping.model_copy(update={"mode": "merge"})
    sql = MergeSql(mapping, job.partition)
    for statement in sql.stage:
        await target.execute(statement)
    phase = await _stage(source, target, job, doing, on_progress, reconnect)
    for statement in sql.after_staging:
        await target.execute(statement)
    columns = await before.read_columns(target, mapping)
    await before.require_same_columns(target, job.run_id, mapping, columns)
    work = _Repair(target, job, sql, phase, columns, spares=spares)
    for template in (repair_sql.LOCK, repair_sql.MAKE_CHANGED, repair_sql.MAKE_ENTRIES):
        await work.execute(template)
    await refuse_out_of_scope(target, sql, BEFOREHAND)
    deletes = deletes_missing(job)
    if deletes:
        await refuse_changes_elsewhere(target, mapping, f"(t.tableoid, t.ctid) IN ({sql.surplus})", [])
    run = job.run_id, mapping.number
    changes = await change_rows(target, sql, run, work.change, deletes=deletes)
    await refuse_out_of_scope(target, sql, AFTERWARDS)
    return Rewritten(
        deleted=changes.deleted,
        updated=changes.updated,
        inserted=changes.inserted,
        asked=work.asked,
        unasked=work.unasked,
    )


async def _stage(
    source: Connection, target: Connection, job: CopyJob, doing: str, on_progress: OnProgress, reconnect: Reconnect
) -> str:
    """Stages what the source says of all phases up to the job's; returns the last that moves rows of the mapping."""
    stream = partial(stream_rows, source, target, job, doing)
    into = merge_sql.STAGED, on_progress, reconnect
    last = job.phase
    for phase in job.phase_order[: job.phase_order.index(job.phase) + 1]:
        moved = phase_predicate(job.mapping, job.phase_order, phase)
        if moved is None:
            continue
        last, rows, size = phase, None, None
        if not deletes_missing(job):
            streamed = await stream(moved, *into)
            rows, size = streamed.rows, streamed.bytes
        elif phase == job.phase:
            # All at once, in one snapshot: a row that went from one phase to another meanwhile must not look missing.
            streamed = await stream("TRUE", *into)
            rows, size = streamed.rows, streamed.bytes
        place = job.run_id, job.mapping.number, phase, job.partition.number
        if not await ledger.note_repair(target, job.lease, *place, rows=rows, size=size):
            raise DataError(
                f"the ledger has no row of {job.mapping.name}, phase {phase}, partition {job.partition.number}: it was "
                "never merged, so there is nothing to repair"
            )
    return last


class _Repair:
    """One partition's changes, and what they mean for the undo log and the ledger."""

    def __init__(
        self,
        target: Connection,
        job: CopyJob,
        sql: MergeSql,
        phase: str,
        columns: Sequence[TableColumn],
        *,
        spares: bool,
    ) -> None:
        self.asked = self.unasked = 0
        self._spares = spares
        self._target = target
        self._job = job
        self._sql = sql
        self._phase = phase
        self._parts = repair_sql.parts(job.mapping, columns)

    async def execute(self, template: str, *arguments: object, **more: str) -> int:
        """How many rows the statement was about, as far as it says so."""
        status = await self._target.execute(template.format_map(self._parts | more), *arguments)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def change(self, operation: Operation) -> asyncpg.Record:
        """Makes one kind of change and settles it with the log and the ledger, before the next may meet the same key.

        Raises:
            DataError: a key to append is somebody else's; the ledger lacks the row that an entry belongs to.
        """
        job = self._job
        run = job.run_id, job.mapping.number
        await self.execute(repair_sql.EMPTY)
        binds = run if operation == "delete" else ()
        if await self.execute(repair_sql.CHANGE, *binds, change=self._sql.change(operation)):
            await self.execute(repair_sql.ANALYZE_CHANGED)
            await self.execute(repair_sql.FIND, *run, job.partition.number)
            await self.execute(repair_sql.ANALYZE_ENTRIES)
            if self._spares:
                await self._spare_others()
            if operation == "insert" and self._parts["assignments"]:
                await self.execute(repair_sql.RESTORE)
        if job.mapping.mode == "append" and operation == "update":
            await self._refuse_others()
        settle = repair_sql.SETTLE.format_map(self._parts | {"operation": operation})
        row = await self._target.fetchrow(settle, *run, self._phase, job.partition.number)
        if row is None:
            raise RuntimeError("settling returned no count")
        if row["entries"] != row["rows"] or not row["balanced"]:
            raise DataError(
                f"{job.mapping.name}, partition {job.partition.number}: of {row['rows']:,} rows repaired "
                f"{row['entries']} have an entry in the undo log whose phase is in the ledger",
                hint="somebody has written to knarr.undo or knarr.ledger; nothing was changed",
            )
        self.asked += row["asked"]
        self.unasked += row["unasked"]
        return row

    async def _spare_others(self) -> None:
        found: int = await self._target.fetchval(repair_sql.WRITTEN_OVER.format_map(self._parts))
        if found:
            raise others.in_use(self._job.run_id, self._job.mapping, self._job.partition.number, found)

    async def _refuse_others(self) -> None:
        others: Sequence[asyncpg.Record] = await self._target.fetch(repair_sql.OF_OTHERS.format_map(self._parts))
        if others:
            total = others[0]["total"]
            found = (
                f"{total:,} keys to append to {self._job.mapping.name} are there, and the run did not put them there"
            )
            raise DataError(
                found,
                hint="they have come to the source since: leave them out with `where`, or write `mode: merge`",
                detail=f"{found}: {shown([row['key'] for row in others], total)}",
            )
