"""Telling missing, extra, doubled and changed rows apart: a merge of both sides' entries by the hash of their key."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from knarr.verify.at_once import Pair, both
from knarr.verify.sides import Entry, Hash, Key

Group = tuple[int, dict[Key, Counter[Hash]]]  # a key's hash, and what is there under each key that has it
UnlikeKind = Literal["missing", "extra", "doubled", "changed"]


@dataclass(frozen=True)
class Unlike:
    """One key that is not the same on both sides; which rows, by their hashes."""

    kind: UnlikeKind
    key_hash: int
    key: Key
    expected: Hash | None
    found: Hash | None
    count: int


@dataclass
class Differences:
    """All differences counted, the first `shown` of them kept."""

    shown: int
    counts: Counter[str] = field(default_factory=Counter)
    kept: list[Unlike] = field(default_factory=list)

    def add(self, unlike: Unlike) -> None:
        """Counts it, and keeps it while there is room."""
        self.counts[unlike.kind] += unlike.count
        if len(self.kept) < self.shown:
            self.kept.append(unlike)


async def merge(
    expected: AsyncIterator[Entry],
    found: AsyncIterator[Entry],
    shown: int,
    pair: Pair = both,
    *,
    others: bool = False,
) -> Differences:
    """Full outer join of two streams that ascend by key hash; memory holds one key hash at a time.

    Args:
        expected: what the source says.
        found: what the target holds.
        shown: how many differences are kept; all are counted.
        pair: how the two streams are started, which is when the servers do their work.
        others: found keys that are not expected are somebody else's, and no difference.
    """
    differences = Differences(shown)
    left, right = _grouped(expected), _grouped(found)
    left_group, right_group = await pair(_next(left), _next(right))
    while left_group is not None or right_group is not None:
        left_first = right_group is None or (left_group is not None and left_group[0] <= right_group[0])
        right_first = left_group is None or (right_group is not None and right_group[0] <= left_group[0])
        key_hash = left_group[0] if left_first and left_group else right_group[0] if right_group else 0
        tell_apart(
            key_hash,
            left_group[1] if left_first and left_group else {},
            right_group[1] if right_first and right_group else {},
            differences,
            others,
        )
        if left_first:
            left_group = await anext(left, None)
        if right_first:
            right_group = await anext(right, None)
    return differences


async def _next(groups: AsyncIterator[Group]) -> Group | None:
    return await anext(groups, None)


async def _grouped(entries: AsyncIterator[Entry]) -> AsyncIterator[Group]:
    # Two keys with one hash are rare and no error: a group holds every key of its hash.
    key_hash: int | None = None
    group: dict[Key, Counter[Hash]] = {}
    async for entry in entries:
        if entry.key_hash != key_hash:
            if key_hash is not None:
                yield key_hash, group
            key_hash, group = entry.key_hash, {}
        group.setdefault(entry.key, Counter())[entry.hash] += entry.count
    if key_hash is not None:
        yield key_hash, group


def tell_apart(
    key_hash: int,
    expected: dict[Key, Counter[Hash]],
    found: dict[Key, Counter[Hash]],
    differences: Differences,
    others: bool,
) -> None:
    """Adds what is between the two sides of one key hash: both by key, each with how many rows it has of a content."""
    nothing: Counter[Hash] = Counter()
    for key in [*expected, *(key for key in found if key not in expected and not others)]:
        wanted, there = expected.get(key, nothing), found.get(key, nothing)
        if wanted == there:
            continue
        lacking, surplus = list((wanted - there).items()), list((there - wanted).items())
        while lacking and surplus:  # same key, other content
            (want, wants), (find, finds) = lacking[0], surplus[0]
            count = min(wants, finds)
            differences.add(Unlike("changed", key_hash, key, want, find, count))
            lacking[:1] = [(want, wants - count)] if wants > count else []
            surplus[:1] = [(find, finds - count)] if finds > count else []
        for want, count in lacking:
            differences.add(Unlike("missing", key_hash, key, want, None, count))
        for find, count in surplus:
            kind: UnlikeKind = "doubled" if wanted else "extra"
            differences.add(Unlike(kind, key_hash, key, None, find, count))
