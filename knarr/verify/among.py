"""The rows of the target whose keys the source has, where the target holds other people's rows too.

Hashes of the source's keys are sent to the target, some millions at a time, and narrow its rows down. A row of theirs
with the hash of one of ours would be seen as a difference of sums, and then told apart by its whole key.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from knarr.postgres.session import Connection
from knarr.verify.checksum import Method, Relation, in_buckets, key_hash
from knarr.verify.sides import SqlSide, Sums

MOST_KEYS: Final = 2_000_000  # eight bytes each on the wire, some sixty in Python


async def narrowed_sums(
    source: Connection,
    target: Connection,
    wanted: Relation,
    held: Relation,
    method: Method,
    mask: int,
    expected: Mapping[int, Sums],
    found: Mapping[int, Sums],
    statements: list[str],
) -> dict[int, Sums]:
    """Sums by bucket of those rows of `held` whose keys `wanted` has.

    Args:
        source, target: in their snapshots.
        wanted, held: both sides' rows; without a key nothing could be narrowed.
        expected, found: their sums; a bucket that is alike holds nobody else's row.
        statements: what is asked of the target is added to them.
    """
    sums = {bucket: found[bucket] for bucket in expected if found.get(bucket) == expected[bucket]}
    unlike = {bucket: expected[bucket].rows for bucket in sorted(expected) if bucket not in sums}
    for buckets in _portions(unlike):
        hashes = [row[0] for row in await source.fetch(_keys(wanted, method, mask), *wanted.arguments, buckets)]
        among = f"{key_hash(held, method)} IN (SELECT unnest(${len(held.arguments) + 1}::bigint[]))"
        mine = replace(held.with_condition(among), arguments=(*held.arguments, hashes))
        side = SqlSide(target, mine, method)
        sums |= await side.sums(mask)
        statements += [statement for statement in side.statements if statement not in statements]
    return sums


def _keys(wanted: Relation, method: Method, mask: int) -> str:
    kept = wanted.with_condition(in_buckets(wanted, method, mask))
    return f"SELECT DISTINCT {key_hash(wanted, method)} AS kh\n{kept.source}"


def _portions(rows: Mapping[int, int]) -> Iterator[Sequence[int]]:
    """Buckets in portions of at most `MOST_KEYS` rows, or of one bucket."""
    portion: list[int] = []
    total = 0
    for bucket, count in rows.items():
        if portion and total + count > MOST_KEYS:
            yield portion
            portion, total = [], 0
        portion.append(bucket)
        total += count
    if portion:
        yield portion
