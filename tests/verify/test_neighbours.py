"""A few unlike buckets of a whole-number key are read by ranges of keys: the same findings, without a second pass."""

import itertools

import pytest

from knarr.postgres.session import Connection
from knarr.verify.neighbours import MOST_RUNS, runs_of
from knarr.verify.parity import compare_partition
from tests.verify.tables import part, resolve

MASK = 63


def bucket_of(key: int) -> int:
    """Written out again: the shift and the mask of knarr.verify.checksum."""
    return key // 256 % (MASK + 1)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 40_000), (-40_000, 7), (5, 5), (-300, 300), (255, 16_640)])
def test_the_ranges_are_the_keys_of_the_buckets_and_no_others(lowest: int, highest: int) -> None:
    buckets = [0, 1, 7, 62, 63]
    runs = runs_of(buckets, MASK, lowest, highest)
    wanted = {key for key in range(lowest, highest + 1) if bucket_of(key) in buckets}
    assert {key for first, last in runs for key in range(first, last + 1)} == wanted
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(runs))


def test_sparse_keys_are_not_followed_round_and_round() -> None:
    assert len(runs_of([3], MASK, -(2**63), 2**63 - 1)) == MOST_RUNS + 1


@pytest.mark.parametrize("lower", [None, ["-5000"]])
@pytest.mark.parametrize("upper", [None, ["90000"]])
async def test_changed_missing_and_extra_rows_are_named_at_both_ends(
    source: Connection, target: Connection, lower: list[str] | None, upper: list[str] | None
) -> None:
    for connection, kind in ((source, "bigint"), (target, "integer")):
        await connection.execute(f"CREATE TABLE t (id {kind} PRIMARY KEY, a integer)")
        await connection.execute("INSERT INTO t SELECT n, n FROM generate_series(-4000, 80000) n")
    await target.execute("DELETE FROM t WHERE id IN (-4000, 1, 80000)")
    await target.execute("INSERT INTO t VALUES (-4321, 0), (80001, 0)")
    await target.execute("UPDATE t SET a = 0 WHERE id = 40000")
    mapping = await resolve(source, target, "t", ["id"])
    result = await compare_partition(source, target, mapping, part(0, lower, upper))
    assert sorted((f.kind, int(f.key["id"] or "")) for f in result.findings) == [
        ("changed", 40000),
        ("extra", -4321),
        ("extra", 80001),
        ("missing", -4000),
        ("missing", 1),
        ("missing", 80000),
    ]
    assert result.counts == {"changed": 1, "extra": 2, "missing": 3}
    assert any(" BETWEEN " in statement for statement in result.sql)


async def test_an_empty_target_misses_every_row_and_a_row_without_a_key_is_found(
    source: Connection, target: Connection
) -> None:
    for connection in (source, target):
        await connection.execute("CREATE TABLE t (id integer, a text)")
    await source.execute("INSERT INTO t SELECT n, 'a' FROM generate_series(1, 300) n")
    mapping = await resolve(source, target, "t", ["id"])
    assert (await compare_partition(source, target, mapping, part(0, None, None))).counts == {"missing": 300}
    await source.execute("INSERT INTO t VALUES (NULL, 'a')")
    assert (await compare_partition(source, target, mapping, part(0, None, None))).counts == {"missing": 301}


async def test_damage_all_over_is_read_in_one_pass(source: Connection, target: Connection) -> None:
    for connection in (source, target):
        await connection.execute("CREATE TABLE t (id integer PRIMARY KEY, a integer)")
        await connection.execute("INSERT INTO t SELECT n, n FROM generate_series(1, 60000) n")
    await target.execute("UPDATE t SET a = 0 WHERE id % 600 = 0")
    mapping = await resolve(source, target, "t", ["id"])
    result = await compare_partition(source, target, mapping, part(0, None, None), shown=5)
    assert (result.counts, len(result.findings)) == ({"changed": 100}, 5)


async def test_a_key_computed_from_text_is_compared_all_the_same(source: Connection, target: Connection) -> None:
    await source.execute("CREATE TABLE t (id text PRIMARY KEY, a integer)")
    await target.execute("CREATE TABLE t (id integer PRIMARY KEY, a integer)")
    await source.execute("INSERT INTO t SELECT n::text, n FROM generate_series(1, 3000) n")
    await target.execute("INSERT INTO t SELECT n, n FROM generate_series(1, 3000) n")
    await target.execute("UPDATE t SET a = 0 WHERE id = 2000")
    mapping = await resolve(source, target, "t", ["id"])
    result = await compare_partition(source, target, mapping, part(0, None, None))
    assert [(f.kind, f.key) for f in result.findings] == [("changed", {"id": "2000"})]
