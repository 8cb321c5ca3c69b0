"""Where a mapping is cut: bounds from the quantiles of its key, kept in the ledger's schema and read by number."""

import itertools
import math
from collections.abc import Sequence
from typing import Final

import asyncpg

from knarr.errors import PlanError
from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.selection import KeyColumn, source_key, source_where
from knarr.postgres.session import Connection

SORT_EXACTLY: Final = 1_000_000  # rows; sorting their keys takes about a second
SAMPLE_PER_PARTITION: Final = 200  # keys; sizes then differ by some 7 % (1 / sqrt(200))
# Neighbours share a block, so of keys in the order of the table it is the blocks that count; 50 are 400 kB of 64 MiB.
BLOCKS_PER_PARTITION: Final = 50
BLOCK_BYTES: Final = 8192
MOST_PARTITIONS: Final = 100_000
FIRST_TEXT: Final = ""
LIKELY_ROW_BYTES: Final = 100  # for a table that was never analysed

# The lowest key of each bucket but the first, in the order in which the predicates compare.
BOUNDS: Final = """
SELECT {texts}
  FROM (SELECT DISTINCT ON (bucket) *
          FROM (SELECT {keys}, ntile({buckets}) OVER (ORDER BY {order}) AS bucket
                  FROM {source}
                 WHERE {where}) AS keyed
         WHERE {known}
         ORDER BY bucket, {order_out}) AS bound
 WHERE bucket > 1
 ORDER BY bucket
"""
LOCK_MAPPING: Final = "SELECT FROM knarr.mapping WHERE run_id = $1 AND mapping = $2 FOR UPDATE"
STORE: Final = """
INSERT INTO knarr.partition (run_id, mapping, partition, lower_bound, upper_bound, estimated_rows)
VALUES ($1, $2, $3, $4, $5, $6)
"""
LOAD: Final = """
SELECT mapping, partition AS number, lower_bound AS lower, upper_bound AS upper, estimated_rows
  FROM knarr.partition
 WHERE run_id = $1 AND mapping = $2
 ORDER BY partition
"""
LOAD_ONE: Final = """
SELECT mapping, partition AS number, lower_bound AS lower, upper_bound AS upper, estimated_rows
  FROM knarr.partition
 WHERE run_id = $1 AND mapping = $2 AND partition = $3
"""
COUNT: Final = "SELECT count(*) FROM knarr.partition WHERE run_id = $1 AND mapping = $2"
COUNT_ALL: Final = "SELECT mapping, count(*) AS parts FROM knarr.partition WHERE run_id = $1 GROUP BY mapping"


async def plan_partitions(source: Connection, mapping: ResolvedMapping, partition_bytes: int) -> list[Partition]:
    """Cuts a mapping into contiguous key ranges of about `partition_bytes` each; one when it is small or has no key.

    The bounds decide only how even the pieces are. Whatever they are, each row is in exactly one piece; that equal keys
    are too, where they may differ in their bytes, is why there are none between two values of some columns.

    Raises:
        PlanError: the plan's expressions do not work on the source.
        TransientError: the source was in the way.
    """
    pieces = min(math.ceil(mapping.estimated_bytes / partition_bytes), MOST_PARTITIONS)
    if pieces < 2 or not _cuttable(mapping):
        return _between(mapping, [])
    with classified(f"finding the partitions of {mapping.name}"):
        async with source.transaction(isolation="repeatable_read", readonly=True):
            return _between(mapping, await _find_bounds(source, mapping, pieces))


async def _find_bounds(source: Connection, mapping: ResolvedMapping, pieces: int) -> list[list[str]]:
    rows = max(mapping.estimated_rows, mapping.estimated_bytes // LIKELY_ROW_BYTES)
    if rows > SORT_EXACTLY:
        wanted = pieces * SAMPLE_PER_PARTITION
        percent = min(100.0, 100.0 * wanted / rows)
        blocks = pieces * BLOCKS_PER_PARTITION * BLOCK_BYTES / mapping.estimated_bytes
        share = min(100.0, max(percent, 100.0 * blocks))
        # Blocks of the base table alone: quick, but only where key and filter need no joined table, and where it is a
        # table. What the server says against it here it will say again below, if it matters.
        table = f"{qualified(mapping.source_table)} AS {quote(mapping.source_alias)} TABLESAMPLE SYSTEM ({share:.6f})"
        try:
            async with source.transaction():
                found = await _cut(source, mapping, pieces, table, "TRUE")
        except (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError):
            found = []
        # Few blocks, or rows that the filter leaves out: too few keys for even pieces.
        if len(found) >= pieces * 0.9 - 1:
            return found
        return await _cut(source, mapping, pieces, mapping.from_clause, f"random() < {percent / 100:.9f}")
    return await _cut(source, mapping, pieces, mapping.from_clause, "TRUE")


async def _cut(source: Connection, mapping: ResolvedMapping, pieces: int, table: str, sample: str) -> list[list[str]]:
    key = source_key(mapping)
    names = [f"k{place}" for place in range(len(key))]
    query = BOUNDS.format(
        keys=", ".join(f"{column.sql} AS {name}" for column, name in zip(key, names, strict=True)),
        texts=", ".join(f"{name}::text" for name in names),
        order=", ".join(column.compared for column in key),
        order_out=", ".join(_collated(name, column) for name, column in zip(names, key, strict=True)),
        known=" AND ".join(f"{name} IS NOT NULL" for name in names),
        buckets=pieces,
        source=table,
        where=source_where(mapping, sample),
    )
    bounds: list[list[str]] = []
    cuttable = _cuttable(mapping)
    for row in await source.fetch(query):
        # Before the first text there is: where the columns that can be cut begin to have these values.
        bound = [*list(row)[:cuttable], *[FIRST_TEXT] * (len(key) - cuttable)]
        if not bounds or bounds[-1] != bound:
            bounds.append(bound)
    return bounds


def _cuttable(mapping: ResolvedMapping) -> int:
    """How many of the key's columns, from the first, have values between which a range may end."""
    for place, column in enumerate(mapping.key):
        if column.uncuttable:
            # The rest must have a lowest value that can be written down, and only what is compared as text has one.
            rest = source_key(mapping)[place:]
            return place if all(later.collatable and not later.type.endswith("[]") for later in rest) else 0
    return len(mapping.key)


def _collated(name: str, column: KeyColumn) -> str:
    return f'{name} COLLATE "C"' if column.collatable else name


def _between(mapping: ResolvedMapping, bounds: Sequence[list[str]]) -> list[Partition]:
    edges: list[list[str] | None] = [None, *bounds, None]
    each = math.ceil(mapping.estimated_rows / (len(edges) - 1))
    return [
        Partition(mapping=mapping.number, number=number, lower=lower, upper=upper, estimated_rows=each)
        for number, (lower, upper) in enumerate(itertools.pairwise(edges))
    ]


async def store_partitions(connection: Connection, lease: Lease, run_id: str, partitions: Sequence[Partition]) -> int:
    """Stores the partitions of one mapping and returns how many there are; those that are stored already stay.

    Raises:
        PlanError: none, or of several mappings.
        LostLease, TransientError.
    """
    mappings = {partition.mapping for partition in partitions}
    if len(mappings) != 1:
        raise PlanError(f"partitions are stored for one mapping at a time, found {len(mappings)}")
    mapping = mappings.pop()
    with classified(f"storing the partitions of mapping {mapping}"):
        async with fenced(connection, lease):
            # A retried activity may have cut elsewhere; rows of the ledger refer to the first cut.
            await connection.execute(LOCK_MAPPING, run_id, mapping)
            stored: int = await connection.fetchval(COUNT, run_id, mapping)
            if stored:
                return stored
            await connection.executemany(
                STORE, [(run_id, mapping, p.number, p.lower, p.upper, p.estimated_rows) for p in partitions]
            )
    return len(partitions)


async def load_partitions(connection: Connection, run_id: str, mapping: int) -> list[Partition]:
    """All partitions of a mapping, by number."""
    with classified(f"reading the partitions of mapping {mapping}"):
        return [Partition.model_validate(dict(row)) for row in await connection.fetch(LOAD, run_id, mapping)]


async def load_partition(connection: Connection, run_id: str, mapping: int, number: int) -> Partition:
    """One partition by its number.

    Raises:
        PlanError: it is not stored here.
    """
    with classified(f"reading partition {number} of mapping {mapping}"):
        row = await connection.fetchrow(LOAD_ONE, run_id, mapping, number)
    if row is None:
        raise PlanError(f"run {run_id} has no partition {number} of mapping {mapping} in this database")
    return Partition.model_validate(dict(row))


async def count_partitions(connection: Connection, run_id: str, mapping: int) -> int:
    """How many partitions a mapping was cut into; 0 before it was."""
    with classified(f"counting the partitions of mapping {mapping}"):
        return int(await connection.fetchval(COUNT, run_id, mapping))


async def count_all_partitions(connection: Connection, run_id: str) -> dict[int, int]:
    """How many partitions each mapping of a run was cut into; a mapping that was not cut is not in it."""
    with classified("counting the partitions of all mappings"):
        rows = await connection.fetch(COUNT_ALL, run_id)
    return {row["mapping"]: row["parts"] for row in rows}
