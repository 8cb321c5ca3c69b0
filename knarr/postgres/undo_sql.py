"""What taking back one batch of the undo log asks of the target.

Entries move from the log into a temporary table, meet the rows that stand under their keys, and each is told what is
to be done; then at most three statements do it. As in `merge_sql` the target is called by schema and name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.merge_sql import row_hash

ChangedSince = Literal["stop", "keep theirs", "restore ours"]
Action = Literal["delete", "update", "insert"]

BATCH: Final = "pg_temp.knarr_batch"
FOUND: Final = "pg_temp.knarr_found"
PLANNED: Final = "pg_temp.knarr_planned"
POINTS: Final = '"knarr referencing"'
SHOWN_KEYS: Final = 20

COLUMNS: Final = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       a.attgenerated <> '' AS generated, a.attidentity = 'a' AS always
  FROM pg_attribute a
 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""
# A batch is small and its keys have an index. Without statistics the planner would read the whole table for each.
ONLY_BY_INDEX: Final = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
)
ANY_WAY: Final = (
    "SET LOCAL enable_seqscan TO DEFAULT; SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"
)

MAKE_BATCH: Final = """
CREATE TEMPORARY TABLE {batch} (
    sequence bigint, operation text, key text[], before text, left_hash bigint, {key_columns}
) ON COMMIT DROP
"""
# From below what has been taken already: the dead entries above would be walked through again for each batch.
LOWEST: Final = """
SELECT min(sequence)
  FROM (SELECT sequence FROM knarr.undo
         WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND sequence < $4
         ORDER BY sequence DESC LIMIT $5) AS newest
"""
# A range, and not a join with the above: with old statistics the planner walked through it once for each entry.
TAKE: Final = """
WITH taken AS (
    DELETE FROM knarr.undo
     WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND sequence >= $4 AND sequence < $5
    RETURNING sequence, operation, key, before, left_hash),
put AS (
    INSERT INTO {batch} SELECT sequence, operation, key, before, left_hash, {key_values} FROM taken)
SELECT count(*) FROM taken
"""
# The rows under the entries' keys, locked, as they are at that moment.
FIND: Final = """
CREATE TEMPORARY TABLE {found} ON COMMIT DROP AS
SELECT {b}.sequence, {table}.tableoid AS part, {table}.ctid AS place, {hash} AS hash
  FROM {batch} AS {b} JOIN {table} ON {same_key}
   FOR UPDATE OF {name}
"""
# A row that we inserted and that is gone needs nothing: that is what it was.
PLAN: Final = """
CREATE TEMPORARY TABLE {planned} ON COMMIT DROP AS
SELECT sequence, operation, key, before, part, place, conflict,
       CASE WHEN conflict IS NOT NULL AND NOT {ours} THEN NULL
            WHEN before IS NULL THEN CASE WHEN place IS NOT NULL THEN 'delete' END
            WHEN place IS NULL THEN 'insert'
            ELSE 'update' END AS action
  FROM (SELECT b.*, f.part, f.place,
               CASE WHEN b.operation = 'insert' AND f.hash <> b.left_hash THEN 'changed'
                    WHEN b.operation = 'update' AND f.hash IS NULL THEN 'deleted'
                    WHEN b.operation = 'update' AND f.hash <> b.left_hash THEN 'changed'
                    WHEN b.operation = 'delete' AND f.hash IS NOT NULL THEN 'inserted again' END AS conflict
          FROM {batch} AS b LEFT JOIN {found} AS f USING (sequence)) AS entry
"""
CONFLICTS: Final = """
SELECT key, conflict, count(*) OVER () AS total
  FROM pg_temp.knarr_planned WHERE conflict IS NOT NULL ORDER BY sequence DESC LIMIT {shown}
"""
ACTIONS: Final = """
SELECT action, count(*) AS rows FROM pg_temp.knarr_planned WHERE action IS NOT NULL GROUP BY action
"""
KEPT: Final = """
SELECT count(*) AS kept, count(before) AS rows,
       coalesce(sum(hashtextextended(before COLLATE "C", 0)), 0) AS checksum
  FROM pg_temp.knarr_planned WHERE conflict IS NOT NULL AND action IS NULL
"""

ONE_BY_ONE: Final = "SELECT sequence, action FROM pg_temp.knarr_planned WHERE action IS NOT NULL ORDER BY sequence DESC"
LEAVE_OUT: Final = """
UPDATE pg_temp.knarr_planned SET action = NULL, conflict = 'in the way' WHERE sequence = ANY ($1::bigint[])
"""
# A row that was written in a savepoint shows the savepoint's own transaction, which is later than the one around it. It
# is to be known for the run's, as that of the whole batch is.
NOTE_WRITERS: Final = """
INSERT INTO knarr.undone (run_id, mapping, phase, xid, entries, kept, kept_rows, kept_checksum)
SELECT DISTINCT $1::text, $2::integer, $3::text,
       (top.id + (({table}.xmin::text::bigint - top.id) & 4294967295))::text::xid8, 0, 0, 0, 0
  FROM (SELECT pg_current_xact_id()::text::bigint AS id) AS top, {planned} AS planned
  JOIN {batch} AS {b} USING (sequence) JOIN {table} ON {same_key}
 WHERE planned.action IN ('update', 'insert')
    ON CONFLICT DO NOTHING
"""
ONE: Final = f"(SELECT * FROM {PLANNED} WHERE sequence = $1)"

# `rows` done, and how many of them are not, text for text, what they were.
DELETE: Final = """
WITH back AS (
    DELETE FROM {table} USING {planned} AS {p}
     WHERE {p}.action = 'delete' AND {table}.ctid = {p}.place AND {table}.tableoid = {p}.part
    RETURNING 1)
SELECT count(*) AS rows, 0::bigint AS wrong FROM back
"""
# OFFSET 0 keeps the record from being read anew for each of its columns.
UPDATE: Final = """
WITH back AS (
    UPDATE {table} SET {assignments}
      FROM (SELECT part, place, before, before::{table} AS image FROM {planned} AS planned
             WHERE action = 'update' OFFSET 0) AS {p}
     WHERE {table}.ctid = {p}.place AND {table}.tableoid = {p}.part
    RETURNING ({table}.*)::text IS DISTINCT FROM {p}.before AS wrong)
SELECT count(*) AS rows, count(*) FILTER (WHERE wrong) AS wrong FROM back
"""
INSERT: Final = """
WITH back AS (
    INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
    SELECT {values}
      FROM (SELECT before::{table} AS image FROM {planned} AS planned
             WHERE action = 'insert' ORDER BY sequence DESC OFFSET 0) AS {p}
    {conflict}
    RETURNING ({table}.*)::text AS row),
wrong AS (SELECT row FROM back EXCEPT ALL SELECT before FROM {planned} AS planned WHERE action = 'insert'),
left_out AS (SELECT before FROM {planned} AS planned WHERE action = 'insert' EXCEPT ALL SELECT row FROM back)
SELECT (SELECT count(*) FROM back) AS rows, (SELECT count(*) FROM wrong) AS wrong,
       (SELECT count(*) FROM left_out) AS left_out,
       (SELECT coalesce(sum(hashtextextended(before COLLATE "C", 0)), 0) FROM left_out) AS left_out_checksum
"""
# Rows elsewhere that a DELETE here would delete or change.
POINTED_AT: Final = """
SELECT EXISTS (SELECT FROM {planned} AS {p}
                 JOIN {table} ON {table}.ctid = {p}.place AND {table}.tableoid = {p}.part
                 JOIN {referencing} AS {points} ON {pointing}
                WHERE {p}.action = 'delete')
"""


@dataclass(frozen=True)
class TableColumn:
    """A column of the target as it is now."""

    name: str
    type: str
    generated: bool
    always: bool

    @property
    def described(self) -> str:
        """As `knarr.table_before` keeps it."""
        return f"{quote(self.name)} {self.type}"


@dataclass(frozen=True)
class UndoSql:
    """The statements that take entries of one mapping back, under one policy."""

    mapping: ResolvedMapping
    columns: Sequence[TableColumn]
    changed_since: ChangedSince

    @property
    def make_batch(self) -> str:
        """Makes the batch's table."""
        return self._sql(MAKE_BATCH)

    @property
    def take(self) -> str:
        """Moves the entries of a range of sequence numbers out of the log."""
        return self._sql(TAKE)

    @property
    def find(self) -> str:
        """Locks the rows under their keys."""
        return self._sql(FIND)

    @property
    def plan(self) -> str:
        """Says of each entry what is to be done, and what somebody else has done meanwhile."""
        return self._sql(PLAN, ours="TRUE" if self.changed_since == "restore ours" else "FALSE")

    def act(self, action: Action, *, one: bool = False) -> str:
        """Does it, for all entries with that action; or for one, whose number it binds."""
        planned = {"planned": ONE} if one else {}
        match action:
            case "delete":
                return self._sql(DELETE, **planned)
            case "update":
                return self._sql(UPDATE, **planned)
            case "insert":
                # Another unique column may be taken by a row of theirs, which then stays.
                skips = self.changed_since == "keep theirs" and not one
                return self._sql(INSERT, conflict="ON CONFLICT DO NOTHING" if skips else "", **planned)

    @property
    def note_writers(self) -> str:
        """Notes the savepoints that have written rows; binds run, mapping and phase."""
        return self._sql(NOTE_WRITERS)

    def pointed_at(self, referencing: str, pointing: str) -> str:
        """Whether rows of another table, called `POINTS`, point at rows that are to be deleted."""
        return self._sql(POINTED_AT, referencing=referencing, points=POINTS, pointing=pointing)

    def _sql(self, template: str, **more: str) -> str:
        mapping, table = self.mapping, qualified(self.mapping.target)
        b, p = '"knarr batch"', '"knarr planned"'
        key = list(enumerate(mapping.key))
        plain = [column for column in self.columns if not column.generated]
        parts = {
            "table": table,
            "name": quote(mapping.target.name),
            "batch": BATCH,
            "found": FOUND,
            "planned": PLANNED,
            "b": b,
            "p": p,
            "key_columns": ", ".join(f"k{place} {column.target_type}" for place, column in key),
            "key_values": ", ".join(f"key[{place + 1}]::{column.target_type}" for place, column in key),
            "same_key": " AND ".join(f"{table}.{quote(column.name)} = {b}.k{place}" for place, column in key),
            "hash": row_hash(f"({table}.*)::text"),
            "columns": ", ".join(quote(column.name) for column in plain),
            "values": ", ".join(f"({p}.image).{quote(column.name)}" for column in plain),
            "assignments": ", ".join(
                # An identity that is ALWAYS generated takes no value in an UPDATE; a merge could not change it either.
                f"{quote(column.name)} = ({p}.image).{quote(column.name)}"
                for column in plain
                if not column.always
            ),
        }
        return template.format_map(parts | more)
