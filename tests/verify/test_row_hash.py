"""What a hash by type could take for equal, and the row's hash must not."""

from typing import Final

import pytest

from knarr.postgres.session import Connection
from knarr.verify.parity import compare_partition
from tests.verify.tables import WHOLE, resolve

# Each pair is equal, or hashes alike, by the type's own hash function: by sign, by the fold of 64 bits into 32, by
# NaN's hash being NULL's, by equality that is not identity, by bounds that are not looked at.
ALIKE: Final = [
    ("numeric", "5", "-5"),
    ("numeric(12,2)", "5", "-5"),
    ("numeric", "1.0", "1.00"),
    ("numeric", "NaN", None),
    ("numeric", "Infinity", "-Infinity"),
    ("numeric(12,2)", "NaN", None),
    ("bigint", "1", "4294967296"),
    ("bigint", "-1", "4294967295"),
    ("timestamp", "2000-01-01 00:00:00.000001", "2000-01-01 01:11:34.967296"),
    ("timestamptz", "2000-01-01 00:00:00.000001Z", "2000-01-01 01:11:34.967296Z"),
    ("time", "00:00:00.000001", "01:11:34.967296"),
    ("float8", "0", "-0"),
    ("float4", "0", "-0"),
    ("interval", "1 month", "30 days"),
    ("interval", "1 day", "24 hours"),
    ("jsonb", "1.0", "1.00"),
    ("integer[]", "{1,2}", "[0:1]={1,2}"),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("text", "", None),
    ("text", "a", "a "),
    ("varchar(9)", "a", "a "),
    ("bytea", "", None),
    ("boolean", "f", None),
    ("integer", "0", None),
    ("date", "2000-01-01", None),
    ("timetz", "12:00+00", "13:00+01"),
]


@pytest.mark.parametrize(("kind", "expected", "found"), ALIKE)
async def test_values_that_hash_alike_by_their_type_are_told_apart(
    source: Connection, target: Connection, kind: str, expected: str | None, found: str | None
) -> None:
    for connection, value in ((source, expected), (target, found)):
        await connection.execute(f"CREATE TABLE t (id integer PRIMARY KEY, a {kind}, b integer)")
        await connection.execute(f"INSERT INTO t SELECT 1, $1::text::{kind}, 7", value)
    mapping = await resolve(source, target, "t", ["id"])
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.method == "hash_record_extended"
    assert [(f.kind, f.key, f.column) for f in result.findings] == [("changed", {"id": "1"}, "a")]


async def test_values_of_one_column_on_the_wrong_rows_do_not_cancel_out(source: Connection, target: Connection) -> None:
    """The sums of the records' hashes themselves would be equal."""
    for connection, shift in ((source, 0), (target, 1)):
        await connection.execute("CREATE TABLE t (id integer PRIMARY KEY, a integer, b text)")
        await connection.execute(
            "INSERT INTO t SELECT n, (n + $1::integer) % 1000, 'alike' FROM generate_series(1, 1000) n", shift
        )
    linear = "SELECT sum(hash_record_extended(ROW(id, a, b), 0))::numeric % 18446744073709551616 FROM t"
    assert await source.fetchval(linear) == await target.fetchval(linear)
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id"]), WHOLE)
    assert result.counts == {"changed": 1000}


async def test_keys_that_hash_alike_by_their_type_stay_two_keys(source: Connection, target: Connection) -> None:
    for connection, one, other in ((source, "a", "b"), (target, "b", "a")):
        await connection.execute("CREATE TABLE t (id numeric, part bigint, a text, PRIMARY KEY (id, part))")
        await connection.execute("INSERT INTO t VALUES (5, 1, $1), (-5, 4294967296, $2)", one, other)
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id", "part"]), WHOLE)
    assert sorted((f.key["id"], f.key["part"], f.expected, f.found) for f in result.findings) == [
        ("-5", "4294967296", "b", "a"),
        ("5", "1", "a", "b"),
    ]
