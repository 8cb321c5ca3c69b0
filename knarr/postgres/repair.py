"""Repairing one partition: what the source says is staged beside the table, and the rows that differ are rewritten.

One fenced transaction with the ledger and the audit trail, so that compensation finds the rows it knows of. A row that
differs is updated and not deleted: rows of other tables may point at it. A table that has rows of its own is merged
once more, in `repair_merged`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.resolved import Partition, ResolvedMapping, TableName
from knarr.postgres import ledger, others, writers
from knarr.postgres.copy import CopyJob, OnProgress, code_of, stream_rows
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import enclosed, qualified, quote
from knarr.postgres.lease import fence, step_lock
from knarr.postgres.pointing import refuse_changes_elsewhere
from knarr.postgres.repair_merged import Rewritten, rewrite_merged
from knarr.postgres.repair_sql import LOCK
from knarr.postgres.selection import phase_predicate, range_literal, target_key
from knarr.postgres.session import Connection, end, rename
from knarr.postgres.stream import Reconnect
from knarr.postgres.transactions import transaction
from knarr.postgres.undo_sql import ChangedSince

STAGED: Final = TableName(schema_name="pg_temp", name="knarr_expected")

STAGE: Final = "CREATE TEMPORARY TABLE {staged} ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
# Proves that the key is unique and never NULL, without which an UPDATE would pick one of two rows as it likes.
KEY_STAGED: Final = "ALTER TABLE {staged} ADD PRIMARY KEY ({keys})"
ANALYZE_STAGED: Final = "ANALYZE {staged}"
# A row whose key is equal and yet written otherwise (0 and -0, 'a' and 'A' where case does not count) is another row.
SAME_KEY: Final = "{equal} AND ROW({t_keys})::record *= ROW({s_keys})::record"
SURPLUS: Final = "{mine} AND NOT EXISTS (SELECT FROM {staged} AS s WHERE {same_key})"
DELETE_DOUBLES: Final = """
DELETE FROM {table} AS t
 USING (SELECT t.tableoid AS part, t.ctid AS place,
               row_number() OVER (PARTITION BY {t_keys} ORDER BY t.tableoid, t.ctid) AS copy
          FROM {table} AS t WHERE {mine}) AS d
 WHERE d.copy > 1 AND t.ctid = d.place AND t.tableoid = d.part
"""
DELETE: Final = "DELETE FROM {table} AS t WHERE {surplus}"
UPDATE: Final = """
UPDATE {table} AS t SET {assignments}
  FROM {staged} AS s, (SELECT t.tableoid AS part, t.ctid AS place FROM {table} AS t WHERE {mine}) AS own
 WHERE t.ctid = own.place AND t.tableoid = own.part AND {same_key}
   AND ROW({t_values})::record *<> ROW({s_values})::record
"""
INSERT: Final = """
INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {columns} FROM {staged} AS s
 WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE {mine} AND {same_key})
"""
INSERT_ALL: Final = "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {staged}"
OF_OTHERS: Final = f"SELECT count(*) FROM {{table}} AS t WHERE {{mine}} AND NOT ({writers.WRITTEN_BY_RUN})"
WAS_DONE: Final = "SELECT EXISTS (SELECT FROM knarr.audit WHERE run_id = $1 AND entry_key = $2)"


class Repaired(BaseModel):
    """What became of a partition's rows; `already_done` when an earlier attempt of the same round had repaired it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deleted: int = Field(default=0, ge=0)
    updated: int = Field(default=0, ge=0)
    inserted: int = Field(default=0, ge=0)
    already_done: bool = False
    head: chain.AuditHead | None = None

    @property
    def rows(self) -> int:
        """How many rows were rewritten."""
        return self.deleted + self.updated + self.inserted


async def repair_partition(
    source: Connection,
    target: Connection,
    job: CopyJob,
    round: int,
    on_progress: OnProgress,
    *,
    reconnect: Reconnect,
    changed_since: ChangedSince = "stop",
) -> Repaired:
    """Makes a partition what the source says it is after the job's phase; all or nothing.

    In an occupied table other people's rows stay: what is repaired there is what a merge would have done. In a table
    that the run makes or fills a repair would write over them, without an undo: once a phase is in use it does not.

    Args:
        source, target: idle pinned connections; both are ended when this fails half-way.
        job: what to repair; all rows moved through its phase are.
        round: of the verification that found the difference; a partition is repaired once a round.
        on_progress: called with (rows, bytes) staged so far.
        reconnect: gives another connection to the target.
        changed_since: 'restore ours' lets a repair write over rows of others; so does a person's decision.

    Raises:
        DataError: rows of others are in the way, in a table that is in use; the target does not take a row; rows
            elsewhere depend on one that must go; a key is not unique; a row lies outside the mapping's scope, or a key
            to append is somebody else's.
        LostLease, TransientError: nothing was written.
    """
    doing = f"repairing {job.mapping.name}, partition {job.partition.number}"
    with classified(doing):
        try:
            await rename(source, job.application_name)
            await rename(target, job.application_name)
            async with transaction(target, job.limits):
                await step_lock(target, job.step)
                await fence(target, job.lease)
                return await _repair(source, target, job, round, doing, on_progress, reconnect, changed_since)
        except BaseException:
            for connection in (source, target):
                if connection.is_closed() or connection.is_in_transaction():
                    await end(connection)
            raise


async def _repair(
    source: Connection,
    target: Connection,
    job: CopyJob,
    round: int,
    doing: str,
    on_progress: OnProgress,
    reconnect: Reconnect,
    changed_since: ChangedSince,
) -> Repaired:
    key = f"repair {job.step}/round {round}/epoch {job.lease.epoch}"
    if await target.fetchval(WAS_DONE, job.run_id, key):
        return Repaired(already_done=True)
    decided = await others.policy(target, job.run_id, job.mapping.number, changed_since)
    spares = decided != "restore ours" and await others.was_in_use(target, job.run_id)
    if job.mapping.occupied:
        rewritten = await rewrite_merged(source, target, job, doing, on_progress, reconnect, spares=spares)
        done = Repaired(**rewritten.model_dump(exclude={"asked", "unasked"}))
    else:
        rewritten = None
        done = await _refill(source, target, job, doing, on_progress, reconnect, spares)
    summary = (
        f"{job.mapping.name}, partition {job.partition.number}: "
        f"{done.updated:,} rows updated, {done.inserted:,} inserted, {done.deleted:,} deleted"
    )
    summary += _others(rewritten) if rewritten else ""
    body: dict[str, object] = {"step": "repair", "outcome": "done", "summary": summary, "mapping": job.mapping.name}
    body |= {"phase": job.phase, "round": round} | code_of(job, done.updated + done.inserted)
    head = await chain.append(target, job.run_id, key, "step", body)
    return done.model_copy(update={"head": head})


def _others(rewritten: Rewritten) -> str:
    """What an auditor must know of rows in which somebody may have changed columns that the mapping does not carry."""
    words = ""
    if rewritten.asked:
        words += f"; {rewritten.asked} hold values of others in columns that are not carried: an undo will stop at them"
    if rewritten.unasked:
        words += (
            f"; {rewritten.unasked} are not as the run had left them, and an undo will not stop at them: the source "
        )
        words += "has moved on, or others have changed columns that are not carried"
    return words


async def _refill(
    source: Connection,
    target: Connection,
    job: CopyJob,
    doing: str,
    on_progress: OnProgress,
    reconnect: Reconnect,
    spares: bool,
) -> Repaired:
    parts = _parts(job.mapping, job.partition)
    await target.execute(LOCK.format_map(parts))
    if spares:
        await _refuse_others(target, job, parts)
    await target.execute(STAGE.format_map(parts))
    for phase in job.phase_order[: job.phase_order.index(job.phase) + 1]:
        moved = phase_predicate(job.mapping, job.phase_order, phase)
        if moved is None:
            continue
        streamed = await stream_rows(source, target, job, doing, moved, STAGED, on_progress, reconnect)
        place = job.run_id, job.mapping.number, phase, job.partition.number
        if not await ledger.note_repair(target, job.lease, *place, rows=streamed.rows, size=streamed.bytes):
            raise DataError(f"the ledger has no row of {job.mapping.name}, phase {phase}, {place[-1]}: never copied")
    return await _rewrite(target, job.mapping, parts)


async def _refuse_others(target: Connection, job: CopyJob, parts: dict[str, str]) -> None:
    if found := await target.fetchval(OF_OTHERS.format_map(parts), job.run_id, job.mapping.number):
        raise others.in_use(job.run_id, job.mapping, job.partition.number, found)


async def _rewrite(target: Connection, mapping: ResolvedMapping, parts: dict[str, str]) -> Repaired:
    execute = partial(_execute, target, parts)
    if not mapping.key:  # rows can't be told apart, so all are written anew
        await refuse_changes_elsewhere(target, mapping, parts["mine"], [])
        deleted = await execute("DELETE FROM {table} AS t WHERE {mine}")
        return Repaired(deleted=deleted, inserted=await execute(INSERT_ALL))
    await target.execute(KEY_STAGED.format_map(parts))
    await target.execute(ANALYZE_STAGED.format_map(parts))
    doubles = await execute(DELETE_DOUBLES)
    await refuse_changes_elsewhere(target, mapping, parts["surplus"], [])
    deleted = doubles + await execute(DELETE)
    updated = await execute(UPDATE) if parts["assignments"] else 0
    return Repaired(deleted=deleted, updated=updated, inserted=await execute(INSERT))


async def _execute(target: Connection, parts: dict[str, str], template: str) -> int:
    return int((await target.execute(template.format_map(parts))).rpartition(" ")[2])


def _parts(mapping: ResolvedMapping, partition: Partition) -> dict[str, str]:
    keys = [quote(column.name) for column in mapping.key]
    values = [quote(column.name) for column in mapping.columns if column not in mapping.key]
    mine = range_literal(target_key(mapping, "t"), partition)
    parts = {
        "table": qualified(mapping.target),
        "staged": qualified(STAGED),
        "columns": ", ".join(quote(column.name) for column in mapping.columns),
        "keys": ", ".join(keys),
        "t_keys": _of("t", keys),
        "s_keys": _of("s", keys),
        "equal": " AND ".join(f"t.{name} = s.{name}" for name in keys),
        "t_values": _of("t", values),
        "s_values": _of("s", values),
        "assignments": ", ".join(f"{name} = s.{name}" for name in values),
        "mine": f"{mine} AND {enclosed(mapping.scope)}" if mapping.scope else mine,
    }
    parts["same_key"] = SAME_KEY.format_map(parts)
    parts["surplus"] = SURPLUS.format_map(parts)
    return parts


def _of(table: str, names: Sequence[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in names)
