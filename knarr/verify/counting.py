"""Finding differences between two queries: counted bucket by bucket by hashes alone; keys are read of what is shown.

Half a million changed rows in five million took 256 seconds key by key. Two keys with one 64-bit hash would be counted
as one here; what is named is told apart by the keys themselves.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from knarr.verify.at_once import both
from knarr.verify.sides import Bucket, Entry, Hash, Key, Rows, SqlSide
from knarr.verify.unlike import Differences, merge, tell_apart

ALL_KEYS: Final[Key] = ()

Hashes = list[tuple[int, int, int]]


async def find(
    expected: SqlSide, found: SqlSide, mask: int, buckets: Sequence[int], shown: int
) -> tuple[Differences, Rows, Rows]:
    """All differences in some buckets counted, the first `shown` told apart by their keys, and the rows behind those.

    Args:
        expected: what the source says.
        found: what the target holds.
        mask: of the buckets.
        buckets: the unlike ones, ascending.
        shown: how many differences are kept.
    """
    counts, named, hashes = await _count(expected.buckets(mask, buckets), found.buckets(mask, buckets), shown)
    ours, theirs = await both(expected.exact(mask, named, hashes), found.exact(mask, named, hashes))
    differences = await merge(_listed(ours[0]), _listed(theirs[0]), shown)
    if counts.total() > differences.counts.total():
        differences.counts = counts
    return differences, ours[1], theirs[1]


async def _count(
    expected: AsyncIterator[Bucket], found: AsyncIterator[Bucket], shown: int
) -> tuple[Counter[str], list[int], list[int]]:
    """How many differences there are of each kind; of the first `shown` the buckets and the hashes of their keys."""
    differences, named, hashes = Differences(0), list[int](), list[int]()
    left, right = await both(_next(expected), _next(found))
    while left is not None or right is not None:
        number = min(bucket.number for bucket in (left, right) if bucket is not None)
        wanted = left.rows if left is not None and left.number == number else []
        there = right.rows if right is not None and right.number == number else []
        unlike = _tell_bucket(wanted, there, differences)
        if unlike and len(hashes) < shown:
            named.append(number)
            hashes += sorted(unlike)[: shown - len(hashes)]
        if left is not None and left.number == number:
            left = await _next(expected)
        if right is not None and right.number == number:
            right = await _next(found)
    return differences.counts, named, hashes


async def _listed(entries: Sequence[Entry]) -> AsyncIterator[Entry]:
    for entry in entries:
        yield entry


async def _next(buckets: AsyncIterator[Bucket]) -> Bucket | None:
    return await anext(buckets, None)


def _tell_bucket(wanted: Hashes, there: Hashes, differences: Differences) -> set[int]:
    unlike = {key_hash for key_hash, _, _ in set(wanted) ^ set(there)}
    if len(set(wanted)) < len(wanted) or len(set(there)) < len(there):  # rows that are there more than once
        ours, theirs = Counter(wanted), Counter(there)
        unlike |= {row[0] for row in ours | theirs if ours[row] != theirs[row]}
    left, right = _by_key(wanted, unlike), _by_key(there, unlike)
    for key_hash in unlike:
        tell_apart(key_hash, _one(left.get(key_hash)), _one(right.get(key_hash)), differences, others=False)
    return unlike


def _by_key(rows: Hashes, unlike: set[int]) -> dict[int, Counter[Hash]]:
    found: dict[int, Counter[Hash]] = {}
    for key_hash, first, second in rows:
        if key_hash in unlike:
            found.setdefault(key_hash, Counter())[first, second] += 1
    return found


def _one(rows: Counter[Hash] | None) -> dict[Key, Counter[Hash]]:
    return {ALL_KEYS: rows} if rows else {}
