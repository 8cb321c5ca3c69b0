"""What need not be compared again: partitions none of whose rows has changed, on either side, since a verdict passed.

How that can be known: PostgreSQL stamps every row version with the transaction that wrote it (xmin). A partition whose
rows were all written by transactions that had ended before the verdict's snapshot, and that has as many rows as it had
then, holds the same rows: an insert or an update would show a younger stamp, a delete alone a smaller number. The
snapshot's own xmin is the border, not the snapshot: subtransactions are not listed in it, and are younger than their
parents. Counting so reads the table, and neither makes nor hashes a text: about eight times as fast.

What can't be known so is compared in full: rows that are joined or computed by something other than their own columns,
rows of views and foreign tables, transforms, tables that the mapping shares. And what can't be known at all: that a
server was restored to an earlier time and has gone on past the border since.
"""

import time
from dataclasses import dataclass
from typing import Final

from knarr.errors import PlanError
from knarr.plan.resolved import Partition, ResolvedMapping, Survey
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.session import Connection
from knarr.verify.at_once import both
from knarr.verify.canonical import actual_value, expected_value
from knarr.verify.checksum import Relation
from knarr.verify.expected import actual_rows, expected_rows, target_scope
from knarr.verify.models import CheckResult
from knarr.verify.snapshot import snapshot
from knarr.verify.steady import why_unsteady

HAS_VERDICTS: Final = "SELECT to_regclass('knarr.verdict') IS NOT NULL"
NEWEST: Final = """
SELECT v.run_id, v.round, v.document ->> 'source_identity' AS source, v.document ->> 'target_identity' AS target
  FROM knarr.verdict v
  JOIN knarr.run r USING (run_id)
 WHERE r.plan_hash = $1 AND v.phase = $2 AND v.passed AND NOT v.withdrawn
 ORDER BY (v.document ->> 'ended_at')::timestamptz DESC
 LIMIT 1
"""
RESULTS: Final = """
SELECT result::text
  FROM knarr.check_result
 WHERE run_id = $1 AND phase = $2 AND round = $3 AND kind = 'parity' AND outcome = 'passed'
 ORDER BY mapping, partition
"""
MAPPINGS: Final = "SELECT resolved::text FROM knarr.mapping WHERE run_id = $1"
NEXT: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
# The table and all parts of it, at any depth.
PARTS: Final = """
WITH RECURSIVE part (oid) AS (
    SELECT to_regclass($1::text)::oid
    UNION
    SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.oid)
"""
# A definition that has changed may change texts without touching a row: a label, a default, another table of that name,
# another part in the place of one, what an operator or a cast stands for.
DEFINITIONS: Final = f"""
{PARTS}
SELECT EXISTS (SELECT FROM part JOIN pg_class c USING (oid) WHERE age(c.xmin) <= $2)
    OR EXISTS (SELECT FROM part JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE age(n.xmin) <= $2)
    OR EXISTS (SELECT FROM part JOIN pg_attribute a ON a.attrelid = part.oid WHERE age(a.xmin) <= $2)
    OR EXISTS (SELECT FROM part JOIN pg_attrdef d ON d.adrelid = part.oid WHERE age(d.xmin) <= $2)
    OR EXISTS (SELECT FROM part JOIN pg_inherits i ON i.inhparent = part.oid WHERE age(i.xmin) <= $2)
    OR EXISTS (SELECT FROM pg_enum WHERE age(xmin) <= $2)
    OR EXISTS (SELECT FROM pg_proc WHERE age(xmin) <= $2)
    OR EXISTS (SELECT FROM pg_operator WHERE age(xmin) <= $2)
    OR EXISTS (SELECT FROM pg_cast WHERE age(xmin) <= $2)
"""
ORDINARY: Final = f"""
{PARTS}
SELECT coalesce(bool_and(c.relkind IN ('r', 'p') AND coalesce(a.amname, 'heap') = 'heap'), false)
  FROM part JOIN pg_class c USING (oid) LEFT JOIN pg_am a ON a.oid = c.relam
"""


@dataclass(frozen=True)
class Baseline:
    """A verdict that passed and stands: whose it is, its mappings as they were, its partitions' results."""

    run_id: str
    mappings: dict[str, ResolvedMapping]
    results: dict[str, list[CheckResult]]

    def partitions(self, mapping: ResolvedMapping) -> list[Partition]:
        """The ranges of keys that were compared then."""
        return [
            Partition(
                mapping=mapping.number,
                number=result.partition,
                lower=result.lower,
                upper=result.upper,
                estimated_rows=result.source_rows or 0,
            )
            for result in self.results[mapping.name]
        ]


async def read_baseline(target: Connection, surveyed: Survey, plan_hash: str, phase: str) -> Baseline:
    """The newest verdict on the plan's last phase that passed and stands.

    Raises:
        PlanError: there is none, or it was about other servers; the message says which.
    """
    why = "--since-last needs a verdict that passed and stands"
    with classified("reading the last verdict"):
        known = await target.fetchval(HAS_VERDICTS)
        row = await target.fetchrow(NEWEST, plan_hash, phase) if known else None
        if row is None:
            raise PlanError(f"{why}; the target has none of this very plan", hint="knarr verify without --since-last")
        for side, was, now in (
            ("source", row["source"], surveyed.source_identity),
            ("target", row["target"], surveyed.target_identity),
        ):
            if was != now:
                raise PlanError(
                    f"{why}; that of run {row['run_id']} is about the {side} {was}, this one is {now}",
                    hint="row versions of another server tell nothing: knarr verify without --since-last",
                )
        stored = await target.fetch(RESULTS, row["run_id"], phase, row["round"])
        resolved = await target.fetch(MAPPINGS, row["run_id"])
    mappings = [ResolvedMapping.model_validate_json(one["resolved"]) for one in resolved]
    results: dict[str, list[CheckResult]] = {}
    for one in stored:
        result = CheckResult.model_validate_json(one["result"])
        results.setdefault(result.name, []).append(result)
    return Baseline(row["run_id"], {mapping.name: mapping for mapping in mappings}, results)


async def why_not(baseline: Baseline, source: Connection, target: Connection, mapping: ResolvedMapping) -> str:
    """Why nothing can be known of a mapping's rows by their versions; empty where it can."""
    before, results = baseline.mappings.get(mapping.name), baseline.results.get(mapping.name, [])
    if before is None or not results or results[0].lower is not None or results[-1].upper is not None:
        return "it was not compared in full then"
    if _what_counts(before) != _what_counts(mapping):
        return "its columns or their types are not what they were"
    if mapping.transform:
        return f"the transform {mapping.transform} may have changed"
    if mapping.occupied:
        return f"others write to its table too (mode: {mapping.mode})"
    one_table = f"{qualified(mapping.source_table)} AS {quote(mapping.source_alias)}"
    if mapping.from_clause not in (one_table, f"ONLY {one_table}"):
        return "it reads more than one table"
    for connection, table in ((source, mapping.source_table), (target, mapping.target)):
        if not await connection.fetchval(ORDINARY, qualified(table)):
            return f"{table} is no ordinary table"
    expected = [(column.expression, expected_value(column).hashed) for column in mapping.columns]
    expected += [(mapping.where, mapping.where)] if mapping.where else []
    if reason := await why_unsteady(source, mapping.from_clause, expected):
        return reason
    actual = [(column.name, actual_value(column).hashed) for column in mapping.columns]
    actual += [(scope, scope) for scope in target_scope(mapping)]
    return await why_unsteady(target, qualified(mapping.target), actual)


def _what_counts(mapping: ResolvedMapping) -> object:
    return (
        mapping.target, mapping.source_table, mapping.from_clause, mapping.where, mapping.scope, mapping.key,
        mapping.columns, mapping.mode, mapping.transform,
    )  # fmt: skip


async def unchanged(
    source: Connection, target: Connection, mapping: ResolvedMapping, partition: Partition, before: CheckResult
) -> CheckResult | None:
    """The result that stands because no row has changed since; None if one has, or a definition.

    Args:
        source: pinned session, not in a transaction.
        target: likewise.
        mapping: one of which `why_not` says nothing.
        partition: the range of keys.
        before: its result then.

    Raises:
        TransientError: a server was in the way.
    """
    started = time.monotonic()
    sides = (
        _Side(source, qualified(mapping.source_table), quote(mapping.source_alias), before.source_snapshot),
        _Side(target, qualified(mapping.target), qualified(mapping.target), before.target_snapshot),
    )
    with classified(f"asking {mapping.name}, partition {partition.number}, for rows that have changed"):
        async with snapshot(source) as source_seen, snapshot(target) as target_seen:
            ours, theirs = await both(
                sides[0].rows(expected_rows(mapping, partition)), sides[1].rows(actual_rows(mapping, partition))
            )
    if ours is None or theirs is None or (ours, theirs) != (before.source_rows, before.target_rows):
        return None
    since = before.source_snapshot.split(" ")[0]
    return before.model_copy(
        update={
            "mapping": mapping.number,
            "message": f"{theirs:,} rows, none of them changed since {since}, when all were as the source says",
            "seconds": time.monotonic() - started,
            "sql": [*before.sql, *sides[0].statements, *sides[1].statements],
            "compared": [*before.compared, f"row versions since {since}; the rows themselves were compared then"],
            "source_snapshot": source_seen,
            "target_snapshot": target_seen,
        }
    )


class _Side:
    """One side of a partition: how many rows it has, if none of them is younger than the border."""

    def __init__(self, connection: Connection, table: str, alias: str, seen: str) -> None:
        self._connection = connection
        self._table = table
        self._alias = alias
        # "<time> <xmin>:<xmax>:<in progress>", as knarr.verify.snapshot writes it.
        border, _, rest = seen.rpartition(" ")[2].partition(":")
        self._border, self._latest = int(border), int(rest.partition(":")[0])
        self.statements: list[str] = []

    async def rows(self, relation: Relation) -> int | None:
        following: int = await self._connection.fetchval(NEXT)
        # Stamps have 32 bits: farther back than half of that they can't be told from younger ones.
        if following < self._latest or following - self._border >= 2**31 - 10_000_000:
            return None
        border_age: int = await self._connection.fetchval(f"SELECT age('{self._border % 2**32}'::xid)")
        if await self._connection.fetchval(DEFINITIONS, self._table, border_age):
            return None
        place = len(relation.arguments) + 1
        sql = (
            f"SELECT count(*) AS rows, "
            f"count(*) FILTER (WHERE age({self._alias}.xmin) <= ${place}::integer) AS younger\n{relation.source}"
        )
        self.statements.append(sql)
        row = await self._connection.fetchrow(sql, *relation.arguments, border_age)
        if row is None:
            raise RuntimeError("a count returned no row")
        return None if row["younger"] else int(row["rows"])
