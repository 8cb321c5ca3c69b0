"""What a merge of one partition asks of the target: rows staged beside the table, then one statement for each change.

The staged table has the target's column names, so in every statement the target is called by schema and name.
"""

from dataclasses import dataclass
from typing import Final, Literal

from knarr.plan.resolved import Partition, ResolvedMapping, TableName
from knarr.postgres.identifiers import enclosed, qualified, quote
from knarr.postgres.selection import INTEGERS, joined_range, range_literal, target_key

Operation = Literal["insert", "update", "delete"]

STAGED: Final = TableName(schema_name="pg_temp", name="knarr_staged")
MATCHED: Final = "pg_temp.knarr_matched"
SHOWN_KEYS: Final = 5

_STAGED: Final = 'pg_temp.knarr_staged AS "knarr staged"'
_S: Final = '"knarr staged"'

# Columns, types and lengths of the target, nothing of its constraints: those speak when the rows go in.
STAGE: Final = "CREATE TEMPORARY TABLE {staged} ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
# Proves that the key is unique and never NULL, without which an UPDATE would pick one of two rows as it likes.
KEY_STAGED: Final = "ALTER TABLE {staged} ADD PRIMARY KEY ({key})"
ANALYZE_STAGED: Final = "ANALYZE {staged}"

# The rows that differ, locked, as they are at that moment: the pre-image is what this transaction overwrites, whatever
# somebody else committed just before. The UPDATE is a statement of its own, because only a newer snapshot sees such
# rows. Compared as images (*<>): `=` takes 1.0 for 1.00 and -0 for 0, and json, point and others have none.
MATCH: Final = """
CREATE TEMPORARY TABLE {matched} ON COMMIT DROP AS
SELECT {table}.tableoid AS part, {table}.ctid AS place, {s}.ctid AS staged, ({table}.*)::text AS before,
       {others} AS others
  FROM {table} JOIN {staged} ON {same_key}
 WHERE {range} AND ROW({there})::record *<> ROW({wanted})::record
   FOR UPDATE OF {name}
"""
UPDATE: Final = """
UPDATE {table} SET {assignments}
  FROM {matched} JOIN {staged} ON {s}.ctid = {matched}.staged
 WHERE {table}.ctid = {matched}.place AND {table}.tableoid = {matched}.part
RETURNING {key} AS key, {matched}.before AS before, {left_hash} AS left_hash, {matched}.others AS others
"""
INSERT: Final = """
INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {columns} FROM {staged}{only_new}
RETURNING {key} AS key, NULL::text AS before, {left_hash} AS left_hash, false AS others
"""
ONLY_NEW: Final = "\n WHERE NOT EXISTS (SELECT FROM {table} WHERE {same_key} AND {range})"
MISSING: Final = "{whole_range}{scope} AND NOT EXISTS (SELECT FROM {staged} WHERE {same_key})"
SURPLUS: Final = f"SELECT {{table}}.tableoid, {{table}}.ctid FROM {{table}} WHERE {MISSING}"
DELETE: Final = f"""
DELETE FROM {{table}}
 WHERE {MISSING}
RETURNING {{key}} AS key, ({{table}}.*)::text AS before, NULL::bigint AS left_hash, {{others}} AS others
"""
CHANGE: Final[dict[Operation, str]] = {"insert": INSERT, "update": UPDATE, "delete": DELETE}
# In the same statement as the change, so that there is no change without its entry.
NOTED: Final = """
WITH changed AS ({change}),
     noted AS (
         INSERT INTO knarr.undo (run_id, mapping, phase, partition, operation, key, before, left_hash)
         SELECT $1::text, $2::integer, $3::text, $4::integer, '{operation}', key, before, left_hash FROM changed)
SELECT count(*) AS rows, count(*) FILTER (WHERE others) AS others,
       coalesce(sum(left_hash), 0) - coalesce(sum(hashtextextended(before COLLATE "C", 0)), 0) AS checksum_change
  FROM changed
"""
# Keys that stand in the target; with the scope's negation: rows that are somebody else's.
STANDING: Final = """
SELECT {key} AS key, count(*) OVER () AS total
  FROM {table}
 WHERE {range}{elsewhere} AND EXISTS (SELECT FROM {staged} WHERE {same_key})
 ORDER BY {order}
 LIMIT {shown}
"""
# The run's own transactions: those that wrote its rows, rewrote them in a repair, and took them back.
OURS: Final = """
ARRAY(SELECT xid FROM knarr.ledger WHERE run_id = $1::text AND xid IS NOT NULL
      UNION SELECT unnest(repair_xids) FROM knarr.ledger WHERE run_id = $1::text
      UNION SELECT xid FROM knarr.undone WHERE run_id = $1::text)
""".strip()
# Whether somebody else wrote the row since the run recorded what the table held.
OTHERS: Final = f"""
knarr.is_others({{table}}.xmin,
                (SELECT snapshot FROM knarr.table_before WHERE run_id = $1::text AND mapping = $2::integer),
                {OURS})
"""
SELF_REFERENCING: Final = """
SELECT EXISTS (SELECT FROM pg_constraint
                WHERE contype = 'f' AND conrelid = to_regclass($1) AND confrelid = conrelid)
"""


def row_hash(row_text: str) -> str:
    """The hash of a row's text, as the undo log and the sums over whole tables use it."""
    return f'hashtextextended({row_text} COLLATE "C", 0)'


def key_texts(mapping: ResolvedMapping) -> str:
    """The key of a target row as an array of texts."""
    table = qualified(mapping.target)
    return f"ARRAY[{', '.join(f'({table}.{quote(column.name)})::text' for column in mapping.key)}]"


@dataclass(frozen=True)
class MergeSql:
    """The statements of one partition of a mapping, whose key and target are known."""

    mapping: ResolvedMapping
    partition: Partition

    @property
    def stage(self) -> list[str]:
        """Makes the staged table, before the rows arrive."""
        return [self._sql(STAGE)]

    @property
    def after_staging(self) -> list[str]:
        """Holds the staged rows against what a merge relies on, and tells the planner about them."""
        return [self._sql(KEY_STAGED), self._sql(ANALYZE_STAGED)]

    @property
    def updates(self) -> bool:
        """Whether there is a column that an update could change."""
        return self.mapping.mode == "merge" and bool(self._values)

    @property
    def _values(self) -> list[str]:
        """Columns that an update sets: the key's too, since 'a' may be equal to 'A'; not of whole numbers, which have
        one form and may be an identity that can't be set.
        """
        fixed = [column.name for column in self.mapping.key if column.base_type in INTEGERS]
        return [quote(column.name) for column in self.mapping.columns if column.name not in fixed]

    @property
    def match(self) -> str:
        """Locks the rows that differ and keeps what they are."""
        return self._sql(MATCH)

    def change(self, operation: Operation) -> str:
        """Makes one kind of change, and returns key, before, left_hash and others of each row.

        An insert adds the staged rows, when merging those whose key is not there; an update changes the rows that
        `match` kept; a delete takes away the rows of the partition's range and of the mapping's scope that were not
        staged, and binds run and mapping.
        """
        return self._sql(CHANGE[operation])

    def noted(self, operation: Operation) -> str:
        """Makes that change with its entries in the undo log, and counts. Binds run, mapping, phase and partition."""
        return NOTED.format(change=self.change(operation), operation=operation)

    @property
    def surplus(self) -> str:
        """Where the rows lie that a delete takes away: their tableoid and ctid."""
        return self._sql(SURPLUS)

    @property
    def standing(self) -> str:
        """The staged keys that the target has already."""
        return self._sql(STANDING, elsewhere="")

    @property
    def out_of_scope(self) -> str:
        """Those of them whose row is not in the mapping's scope."""
        return self._sql(STANDING, elsewhere=f" AND {enclosed(self.mapping.scope or 'TRUE')} IS NOT TRUE")

    def _sql(self, template: str, **more: str) -> str:
        mapping, table = self.mapping, qualified(self.mapping.target)
        keys = [quote(column.name) for column in mapping.key]
        values = self._values
        parts = {
            "table": table,
            "name": quote(mapping.target.name),
            "columns": ", ".join(quote(column.name) for column in mapping.columns),
            "staged": qualified(STAGED) if template in (STAGE, KEY_STAGED, ANALYZE_STAGED) else _STAGED,
            "s": _S,
            "matched": MATCHED,
            "same_key": " AND ".join(f"{table}.{name} = {_S}.{name}" for name in keys),
            "order": ", ".join(f"{table}.{name}" for name in keys),
            "range": joined_range(target_key(mapping, table), self.partition),
            "whole_range": range_literal(target_key(mapping, table), self.partition),
            "scope": f" AND {enclosed(mapping.scope)}" if mapping.scope else "",
            "there": ", ".join(f"{table}.{name}" for name in values),
            "wanted": ", ".join(f"{_S}.{name}" for name in values),
            "assignments": ", ".join(f"{name} = {_S}.{name}" for name in values),
            "key": ", ".join(keys) if template == KEY_STAGED else key_texts(mapping),
            "left_hash": row_hash(f"({table}.*)::text"),
            "others": OTHERS.format(table=table).strip(),
            "only_new": "",
            "shown": str(SHOWN_KEYS),
        }
        if mapping.mode == "merge":
            parts["only_new"] = ONLY_NEW.format_map(parts)
        return template.format_map(parts | more)
