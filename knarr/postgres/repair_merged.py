"""Repairing one partition of a table that has rows of its own: merged once more, with the undo log kept true.

An undo needs of each key what its row was before the run, once. So where the run has an entry of a key already, the
entry stays the only one and keeps that pre-image; a repair changes what it says of the row as the run left it. Where
somebody has changed columns of the row that the mapping does not carry, it says what it said, and an undo stops there.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from knarr.errors import DataError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import before, ledger, merge_sql
from knarr.postgres.copy import CopyJob, OnProgress, stream_rows
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.merge import AFTERWARDS, BEFOREHAND, change_rows, deletes_missing, refuse_out_of_scope, shown
from knarr.postgres.merge_sql import MergeSql, Operation
from knarr.postgres.pointing import refuse_changes_elsewhere
from knarr.postgres.selection import phase_predicate
from knarr.postgres.session import Connection
from knarr.postgres.stream import Reconnect
from knarr.postgres.undo_sql import TableColumn

CHANGED: Final = "pg_temp.knarr_changed"
ENTRIES: Final = "pg_temp.knarr_entries"
LOST: Final = '"knarr lost"'

# Nobody may change a row between what is compared here and the commit.
LOCK: Final = "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
MAKE_CHANGED: Final = """
CREATE TEMPORARY TABLE {changed} (
    number bigint, key text[], before text, left_hash bigint, others boolean, {key_columns}
) ON COMMIT DROP
"""
MAKE_ENTRIES: Final = """
CREATE TEMPORARY TABLE {entries} (
    number bigint, place tid, phase text, operation text, left_hash bigint, at_start text, theirs boolean
) ON COMMIT DROP
"""
EMPTY: Final = "TRUNCATE {changed}, {entries}"
CHANGE: Final = """
WITH done AS ({change})
INSERT INTO {changed}
SELECT row_number() OVER (), key, before, left_hash, others, {key_values} FROM done
"""
# The last word of the log on each key. Without nested loops, because the log may have millions of entries and no index
# over keys: with old statistics the planner would walk through them once for each row.
ANALYZE_CHANGED: Final = "ANALYZE {changed}; SET LOCAL enable_nestloop = off"
# A merge updates no column that it does not carry: who has a value there that was not there before the run is others.
FIND: Final = """
INSERT INTO {entries}
SELECT number, place, phase, operation, left_hash, before, operation <> 'insert' AND stands AND {unlike}
  FROM (SELECT DISTINCT ON (c.number) c.number, u.ctid AS place, u.phase, u.operation, u.left_hash, u.before,
               c.before IS NOT NULL AND c.left_hash IS NOT NULL AS stands,
               u.before::{table} AS at_start, c.before::{table} AS found
          FROM {changed} AS c JOIN knarr.undo AS u ON {same_key}
         WHERE u.run_id = $1 AND u.mapping = $2 AND u.partition = $3
         ORDER BY c.number, u.sequence DESC) AS newest
"""
ANALYZE_ENTRIES: Final = "ANALYZE {entries}; SET LOCAL enable_nestloop TO DEFAULT"
# A row that others deleted comes back with what it held in the columns that the mapping does not carry.
RESTORE: Final = """
WITH back AS (
    UPDATE {table} SET {assignments}
      FROM (SELECT c.*, e.at_start::{table} AS image FROM {changed} AS c JOIN {entries} AS e USING (number)
             WHERE e.operation <> 'insert' OFFSET 0) AS {lost}
     WHERE {lost_key}
    RETURNING {lost}.number, {left_hash} AS left_hash)
UPDATE {changed} AS c SET left_hash = back.left_hash FROM back WHERE c.number = back.number
"""
OF_OTHERS: Final = """
SELECT key, count(*) OVER () AS total
  FROM {changed} WHERE number NOT IN (SELECT number FROM {entries}) ORDER BY number LIMIT {shown}
"""
# An entry without a pre-image is an 'insert'; one whose row is gone as it was before the run says nothing any more.
# A key without an entry that is not there may have been deleted by somebody, which no row tells: it counts as theirs.
SETTLE: Final = """
WITH settled AS (
    SELECT c.key, c.before, c.others, e.place, coalesce(e.phase, $3::text) AS phase, e.operation AS was,
           e.left_hash AS was_hash, e.theirs,
           CASE WHEN e.theirs THEN e.left_hash ELSE c.left_hash END AS left_hash,
           CASE WHEN e.number IS NULL THEN '{operation}'
                WHEN e.theirs THEN e.operation
                WHEN e.operation = 'insert' AND c.left_hash IS NULL THEN NULL
                WHEN e.operation = 'insert' THEN 'insert'
                WHEN c.left_hash IS NULL THEN 'delete'
                ELSE 'update' END AS becomes
      FROM {changed} AS c LEFT JOIN {entries} AS e USING (number)),
rewritten AS (
    UPDATE knarr.undo AS u SET operation = s.becomes, left_hash = s.left_hash
      FROM settled AS s WHERE u.ctid = s.place AND s.becomes IS NOT NULL
    RETURNING 1),
dropped AS (
    DELETE FROM knarr.undo AS u USING settled AS s WHERE u.ctid = s.place AND s.becomes IS NULL
    RETURNING 1),
added AS (
    INSERT INTO knarr.undo (run_id, mapping, phase, partition, operation, key, before, left_hash)
    SELECT $1, $2, phase, $4, becomes, key, before, left_hash FROM settled WHERE place IS NULL
    RETURNING 1),
difference AS (
    SELECT phase,
           count(*) FILTER (WHERE becomes = 'insert') - count(*) FILTER (WHERE was = 'insert') AS inserted,
           count(*) FILTER (WHERE becomes = 'update') - count(*) FILTER (WHERE was = 'update') AS updated,
           count(*) FILTER (WHERE becomes = 'delete') - count(*) FILTER (WHERE was = 'delete') AS deleted,
           count(*) FILTER (WHERE theirs OR (place IS NULL AND (others OR becomes = 'insert'))) AS others,
           coalesce(sum(left_hash), 0) - coalesce(sum(was_hash), 0)
           - coalesce(sum(hashtextextended(before COLLATE "C", 0)) FILTER (WHERE place IS NULL), 0) AS checksum_change
      FROM settled GROUP BY phase),
booked AS (
    UPDATE knarr.ledger AS l
       SET inserted = coalesce(l.inserted, 0) + d.inserted, updated = coalesce(l.updated, 0) + d.updated,
           deleted = coalesce(l.deleted, 0) + d.deleted, others = coalesce(l.others, 0) + d.others,
           checksum_change = coalesce(l.checksum_change, 0) + d.checksum_change
      FROM difference AS d
     WHERE l.run_id = $1 AND l.mapping = $2 AND l.phase = d.phase AND l.partition = $4
    RETURNING d.others, d.checksum_change)
SELECT (SELECT count(*) FROM settled) AS rows,
       (SELECT coalesce(sum(others), 0)::bigint FROM booked) AS others,
       (SELECT coalesce(sum(checksum_change), 0) FROM booked) AS checksum_change,
       (SELECT count(*) FROM settled WHERE theirs) AS asked,
       (SELECT count(*) FROM settled
         WHERE (was = 'insert' AND left_hash <> was_hash)
            OR (left_hash IS NULL AND hashtextextended(before COLLATE "C", 0) <> was_hash)) AS unasked,
       (SELECT count(*) FROM rewritten) + (SELECT count(*) FROM dropped) + (SELECT count(*) FROM added) AS entries,
       (SELECT count(*) FROM difference) = (SELECT count(*) FROM booked) AS balanced
"""


class Rewritten(BaseModel):
    """What a repair did to an occupied table's rows, and how many of them others have had their hands in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deleted: int = Field(default=0, ge=0)
    updated: int = Field(default=0, ge=0)
    inserted: int = Field(default=0, ge=0)
    asked: int = Field(default=0, ge=0, description="others' values stand in columns not carried: an undo stops there")
    unasked: int = Field(default=0, ge=0, description="it can't be told, or they went with the row: an undo does not")


async def rewrite_merged(
    source: Connection, target: Connection, job: CopyJob, doing: str, on_progress: OnProgress, reconnect: Reconnect
) -> Rewritten:
    """Merges all that was moved through the job's phase once more, within the caller's fenced transaction.

    What differs is updated, what is missing inserted, and, where the last phase deletes, what the source does not have
    goes. Undo log and ledger agree with the rows when this returns. Memory is flat: no row comes to the worker.

    Raises:
        DataError: the partition was never merged; a row lies outside the mapping's scope; a key is not unique; a key
            to append is somebody else's; rows elsewhere depend on one that must go; the target does not take a row.
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
    work = _Repair(target, job, sql, phase, columns)
    for template in (LOCK, MAKE_CHANGED, MAKE_ENTRIES):
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
        self, target: Connection, job: CopyJob, sql: MergeSql, phase: str, columns: Sequence[TableColumn]
    ) -> None:
        self.asked = self.unasked = 0
        self._target = target
        self._job = job
        self._sql = sql
        self._phase = phase
        self._parts = _parts(job.mapping, columns)

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
        await self.execute(EMPTY)
        binds = run if operation == "delete" else ()
        if await self.execute(CHANGE, *binds, change=self._sql.change(operation)):
            await self.execute(ANALYZE_CHANGED)
            await self.execute(FIND, *run, job.partition.number)
            await self.execute(ANALYZE_ENTRIES)
            if operation == "insert" and self._parts["assignments"]:
                await self.execute(RESTORE)
        if job.mapping.mode == "append" and operation == "update":
            await self._refuse_others()
        settle = SETTLE.format_map(self._parts | {"operation": operation})
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

    async def _refuse_others(self) -> None:
        others: Sequence[asyncpg.Record] = await self._target.fetch(OF_OTHERS.format_map(self._parts))
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


def _parts(mapping: ResolvedMapping, columns: Sequence[TableColumn]) -> dict[str, str]:
    key, carried = list(enumerate(mapping.key)), {column.name for column in mapping.columns}
    # An identity that is ALWAYS generated takes no value in an UPDATE.
    plain = [column for column in columns if not column.generated and not column.always]
    rest = [quote(column.name) for column in plain if column.name not in carried]
    at_start, found = (", ".join(f"(newest.{image}).{name}" for name in rest) for image in ("at_start", "found"))
    table = qualified(mapping.target)
    return {
        "table": table,
        "changed": CHANGED,
        "entries": ENTRIES,
        "lost": LOST,
        "key_columns": ", ".join(f"k{place} {column.target_type}" for place, column in key),
        "key_values": ", ".join(f"key[{place + 1}]::{column.target_type}" for place, column in key),
        # As values and not as texts, as an undo finds its rows: 1.0 and 1.00 are one key.
        "same_key": " AND ".join(f"(u.key[{place + 1}])::{column.target_type} = c.k{place}" for place, column in key),
        "unlike": f"ROW({at_start})::record *<> ROW({found})::record" if rest else "FALSE",
        "assignments": ", ".join(f"{name} = ({LOST}.image).{name}" for name in rest),
        "lost_key": " AND ".join(f"{table}.{quote(column.name)} = {LOST}.k{place}" for place, column in key),
        "left_hash": merge_sql.row_hash(f"({table}.*)::text"),
        "shown": str(merge_sql.SHOWN_KEYS),
    }
