"""Where the rows of unlike buckets lie: ranges of a whole-number key, so that an index finds them.

Buckets of such a key are runs of neighbours (knarr.verify.checksum), so a few of them are a few ranges. Without this a
partition with one changed row is read as a whole a second time.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres.identifiers import quote
from knarr.verify.at_once import both
from knarr.verify.checksum import KEYS_IN_RUN_BITS
from knarr.verify.ranges import INTEGERS, source_operand
from knarr.verify.sides import SqlSide

MOST_RUNS: Final = 64  # of more, reading the partition again is as quick


async def narrowed(
    expected: SqlSide, found: SqlSide, mapping: ResolvedMapping, partition: Partition, mask: int, buckets: Sequence[int]
) -> tuple[SqlSide, SqlSide]:
    """Both sides with the ranges of keys that the buckets are, as a condition; as they are where that is of no use.

    Args:
        expected: what the source says, in its snapshot.
        found: what the target holds, likewise.
        mapping: whose rows they are.
        partition: whose rows they are.
        mask: of the buckets.
        buckets: the unlike ones, ascending; -1 is that of the rows whose key is NULL.
    """
    if len(mapping.key) != 1 or not expected.relation.key[0].integer or buckets[0] < 0:
        return expected, found
    column = mapping.key[0]
    if column.source_type not in INTEGERS:  # no index on the source knows the key as a number
        return expected, found
    operands = source_operand(column), quote(column.name)
    if partition.lower is None:
        lowest = min(await _asked(expected, found, "min", operands), default=0)
    else:
        lowest = int(partition.lower[0])
    if partition.upper is None:
        highest = max(await _asked(expected, found, "max", operands), default=0)
    else:
        highest = int(partition.upper[0])
    runs = runs_of(buckets, mask, lowest, highest)
    if len(runs) > MOST_RUNS:
        return expected, found
    return _within(expected, operands[0], runs), _within(found, operands[1], runs)


def runs_of(buckets: Sequence[int], mask: int, lowest: int, highest: int) -> list[tuple[int, int]]:
    """The keys from `lowest` to `highest` whose bucket is one of these, as ranges with both ends, ascending.

    Stops one beyond `MOST_RUNS`: sparse keys come round to a bucket again and again.
    """
    runs: list[tuple[int, int]] = []
    keys_in_round = (mask + 1) << KEYS_IN_RUN_BITS
    for start in range(lowest // keys_in_round * keys_in_round, highest + 1, keys_in_round):
        for bucket in buckets:
            begin = start + (bucket << KEYS_IN_RUN_BITS)
            first, last = max(begin, lowest), min(begin + (1 << KEYS_IN_RUN_BITS) - 1, highest)
            if first > last:
                continue
            if runs and runs[-1][1] + 1 == first:
                runs[-1] = runs[-1][0], last
            else:
                runs.append((first, last))
            if len(runs) > MOST_RUNS:
                return runs
    return runs


async def _asked(expected: SqlSide, found: SqlSide, which: str, operands: tuple[str, str]) -> list[int]:
    """The least or the greatest key of each side that has any."""
    ends = await both(expected.value(f"{which}({operands[0]})"), found.value(f"{which}({operands[1]})"))
    return [end for end in ends if isinstance(end, int)]


def _within(side: SqlSide, operand: str, runs: Sequence[tuple[int, int]]) -> SqlSide:
    """The side's rows in these ranges; what is asked from now on is said among the statements of the side itself."""
    arguments, conditions = list(side.relation.arguments), []
    for first, last in runs:
        arguments += str(first), str(last)
        conditions.append(f"{operand} BETWEEN ${len(arguments) - 1}::text::bigint AND ${len(arguments)}::text::bigint")
    relation = side.relation.with_condition(" OR ".join(conditions))
    return replace(side, relation=replace(relation, arguments=tuple(arguments)))
