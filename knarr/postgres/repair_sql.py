"""What repairing one partition of an occupied table asks of the target, so that undo log and ledger stay true."""

from collections.abc import Sequence
from typing import Final

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import merge_sql
from knarr.postgres.identifiers import qualified, quote
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
# Rows that others wrote, and those that the run had written and somebody has deleted.
WRITTEN_OVER: Final = """
SELECT count(*) FROM {changed} AS c LEFT JOIN {entries} AS e USING (number)
 WHERE c.others OR (c.before IS NULL AND e.operation <> 'delete')
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


def parts(mapping: ResolvedMapping, columns: Sequence[TableColumn]) -> dict[str, str]:
    """What the templates here name, for one mapping and the columns of its table."""
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
