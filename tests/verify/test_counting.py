"""Where there are many differences they are counted by hashes, and it comes to the same."""

from collections.abc import Sequence

import pytest

from knarr.postgres.session import Connection
from knarr.verify import parity
from knarr.verify.models import CheckResult
from knarr.verify.parity import compare_partition
from knarr.verify.sides import Rows, SqlSide
from knarr.verify.unlike import Differences, merge
from tests.verify.tables import WHOLE, resolve

DAMAGE = """
UPDATE thing SET name = name || '!' WHERE id % 3 = 0;
DELETE FROM thing WHERE id % 7 = 1;
INSERT INTO thing SELECT id + 100000, name FROM thing WHERE id % 11 = 2;
INSERT INTO thing SELECT * FROM thing WHERE id % 13 = 3;
"""


async def both_ways(
    source: Connection, target: Connection, key: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[CheckResult, CheckResult]:
    """The same comparison key by key and by hashes."""
    for connection in (source, target):
        await connection.execute("CREATE TABLE thing (id integer, name text)")
        await connection.execute("INSERT INTO thing SELECT n, 'x' || n FROM generate_series(1, 5000) n")
    await target.execute(DAMAGE)
    mapping = await resolve(source, target, "thing", key)
    counted = await compare_partition(source, target, mapping, WHOLE)

    async def by_key(
        expected: SqlSide, found: SqlSide, mask: int, buckets: Sequence[int], shown: int
    ) -> tuple[Differences, Rows, Rows]:
        differences = await merge(expected.entries(mask, buckets), found.entries(mask, buckets), shown)
        hashes = sorted({unlike.key_hash for unlike in differences.kept})
        ours, theirs = [await side.rows(mask, buckets, hashes) for side in (expected, found)]
        return differences, ours, theirs

    monkeypatch.setattr(parity, "find", by_key)
    return await compare_partition(source, target, mapping, WHOLE), counted


@pytest.mark.parametrize("key", [["id"], []], ids=["by key", "without a key"])
async def test_counts_are_the_same_either_way(
    source: Connection, target: Connection, key: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    each, counted = await both_ways(source, target, key, monkeypatch)
    assert counted.counts == each.counts
    assert set(each.counts) == ({"changed", "missing", "extra", "doubled"} if key else {"missing", "extra", "doubled"})
    assert len(counted.findings) == len(each.findings) == 100
    assert counted.findings_total == each.findings_total > 2500
    assert any("array_agg(kh)" in sql for sql in counted.sql)


async def test_what_is_shown_is_still_named_by_key_and_column(
    source: Connection, target: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, counted = await both_ways(source, target, ["id"], monkeypatch)
    changed = [finding for finding in counted.findings if finding.kind == "changed"]
    assert changed
    for finding in changed:
        number = finding.key["id"]
        assert (finding.column, finding.expected, finding.found) == ("name", f"x{number}", f"x{number}!")
