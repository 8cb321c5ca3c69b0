"""A partition's range means what knarr.plan.resolved says, on both sides, for every kind of key."""

import itertools
from typing import Final

import pytest

from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres.session import Connection
from knarr.verify.checksum import Relation
from knarr.verify.expected import actual_rows, expected_rows
from knarr.verify.parity import compare_partition
from tests.verify.tables import part, resolve

# Source types, target types, and keys as the target writes them, in the order that the definition gives them.
KEYS: Final = {
    "integers of other sizes": (["integer"], ["bigint"], [["-5"], ["0"], ["3"], ["20"], ["100"]]),
    "integers as text": (["integer"], ["text"], [["1"], ["10"], ["2"], ["20"], ["9"]]),
    "text by its bytes": (["text"], ["text"], [[""], ["B"], ["a"], ["a b"], ["z"], ["Ä"]]),
    "padded text": (["character(5)"], ["text"], [["B"], ["a"], ["ab"]]),
    "text as char": (["text"], ["character(5)"], [["B"], ["a"], ["ab"]]),
    "uuid": (["text"], ["uuid"], [[f"{n:08x}-0000-0000-0000-000000000000"] for n in (1, 2, 0xA0, 0xF0000000)]),
    "numeric": (["numeric"], ["numeric(10,2)"], [["-1.5"], ["0"], ["9"], ["10.25"]]),
    "date": (["date"], ["date"], [["2024-01-01"], ["2024-03-31"], ["2024-12-31"]]),
    "two columns": (["integer", "text"], ["bigint", "text"], [["1", "a"], ["1", "b"], ["2", ""], ["10", "B"]]),
    "enum by its label": (["mood"], ["mood"], [["happy"], ["ok"], ["sad"]]),
    "bytes and time": (["bytea", "time"], ["bytea", "time"], [["\\x00", "10:00:00"], ["\\x01", "09:00:00"]]),
}


@pytest.mark.parametrize("name", list(KEYS))
async def test_a_range_holds_the_same_rows_on_both_sides(source: Connection, target: Connection, name: str) -> None:
    source_types, target_types, keys = KEYS[name]
    names = [f"k{place}" for place in range(len(source_types))]
    # The labels are in another order on the target: a range must not depend on it.
    await source.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
    await target.execute("CREATE TYPE mood AS ENUM ('ok', 'happy', 'sad')")
    for connection, types in ((source, source_types), (target, target_types)):
        columns = ", ".join(f"{column} {kind}" for column, kind in zip(names, types, strict=True))
        values = ", ".join(f"${place + 1}::text::{kind}" for place, kind in enumerate(types))
        await connection.execute(f"CREATE TABLE t ({columns})")
        await connection.executemany(f"INSERT INTO t VALUES ({values})", keys[::-1])
    mapping = await resolve(source, target, "t", names)
    for low, high in itertools.product(range(len(keys)), range(len(keys) + 1)):
        if low > high:
            continue
        bounds = part(1, keys[low] if low else None, keys[high] if high < len(keys) else None)
        assert await _keys(source, expected_rows(mapping, bounds), keys) == keys[low:high], bounds
        assert await _keys(target, actual_rows(mapping, bounds), keys) == keys[low:high], bounds


async def _keys(connection: Connection, relation: Relation, keys: list[list[str]]) -> list[list[str]]:
    shown = ", ".join(value.shown for value in relation.key)
    rows = await connection.fetch(f"SELECT {shown} {relation.source}", *relation.arguments)
    return sorted((list(row) for row in rows), key=keys.index)


async def test_a_key_with_a_null_belongs_to_the_last_partition(source: Connection, target: Connection) -> None:
    mapping = await _nullable(source, target)
    bounds = [None, ["1", "z"], ["2", "m"], ["3", "a"], None]
    counted = []
    for number, (lower, upper) in enumerate(itertools.pairwise(bounds)):
        result = await compare_partition(source, target, mapping, part(number, lower, upper))
        assert result.outcome == "passed"
        counted.append(result.target_rows)
    assert counted == [1, 0, 0, 4]


async def test_a_null_in_a_key_of_one_column_belongs_to_the_last_partition(
    source: Connection, target: Connection
) -> None:
    mapping = await _nullable(source, target)
    mapping = mapping.model_copy(update={"key": mapping.key[:1]})
    counted = []
    for bounds in (part(0, None, ["2"]), part(1, ["2"], ["3"]), part(2, ["3"], None)):
        counted.append((await compare_partition(source, target, mapping, bounds)).target_rows)
    assert counted == [1, 1, 3]


async def _nullable(source: Connection, target: Connection) -> ResolvedMapping:
    for connection in (source, target):
        await connection.execute("CREATE TABLE t (a integer, b text)")
        await connection.execute("INSERT INTO t VALUES (1, 'x'), (2, NULL), (NULL, 'y'), (NULL, NULL), (3, 'z')")
    return await resolve(source, target, "t", ["a", "b"])


async def test_bounds_that_do_not_fit_the_key_could_not_be_compared(source: Connection, target: Connection) -> None:
    mapping = await _nullable(source, target)
    misfit = Partition(mapping=0, number=1, lower=["1"], upper=None, estimated_rows=1)
    result = await compare_partition(source, target, mapping, misfit)
    assert result.outcome == "could not run" and "1 bounds for a key of 2 columns" in result.message
