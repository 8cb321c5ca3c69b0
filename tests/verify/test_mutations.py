"""Every random change of the target is found and exactly named; where nothing changed, nothing is found."""

import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import pytest

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.session import Connection
from knarr.verify.models import CheckResult, Finding, shorten
from knarr.verify.parity import compare_partition
from tests.verify import everything
from tests.verify.tables import WHOLE, part, resolve

ROWS: Final = 120
MUTATIONS: Final = int(os.environ.get("KNARR_TEST_MUTATIONS", "60"))
SLOW_MUTATIONS: Final = 600


@dataclass
class World:
    """Two equal tables and what is between them."""

    source: Connection
    target: Connection
    mapping: ResolvedMapping
    choice: random.Random

    async def compare(self) -> CheckResult:
        return await compare_partition(self.source, self.target, self.mapping, WHOLE)

    async def text(self, column: str, key: int) -> str | None:
        """The target's cell as text, by no code of the verification."""
        found: str | None = await self.target.fetchval(f"SELECT ({column})::text FROM everything WHERE id = $1", key)
        return found

    def row(self) -> int:
        return self.choice.randrange(ROWS)

    def column(self) -> str:
        return self.choice.choice(everything.NAMES)


@pytest.fixture
async def world(source: Connection, target: Connection) -> AsyncIterator[World]:
    choice = random.Random(20261124)
    rows = everything.rows(ROWS, choice)
    for connection in (source, target):
        await connection.execute(everything.TYPES)
        await connection.execute(everything.create(primary_key=connection is source))
        await connection.executemany(everything.insert(), rows)
    yield World(source, target, await resolve(source, target, "everything", ["id"]), choice)


async def change_a_cell(world: World) -> list[Finding]:
    key, column = world.row(), world.column()
    kind = everything.COLUMN_TYPES[column]
    before = await world.text(column, key)
    for sample in world.choice.sample(everything.SAMPLES[kind], len(everything.SAMPLES[kind])):
        await world.target.execute(f"UPDATE everything SET {column} = $1::text::{kind} WHERE id = $2", sample, key)
        after = await world.text(column, key)
        if after != before:
            return [_changed(key, column, before, after)]
    raise AssertionError(f"no sample of {kind} differs from {before!r}")


async def swap_two_values(world: World) -> list[Finding]:
    while True:
        first, second, column = world.row(), world.row(), world.column()
        before, other = await world.text(column, first), await world.text(column, second)
        if before != other:
            break
    await world.target.execute(
        f"UPDATE everything e SET {column} = o.{column} FROM everything o WHERE (e.id, o.id) IN (($1, $2), ($2, $1))",
        first,
        second,
    )
    findings = [_changed(first, column, before, other), _changed(second, column, other, before)]
    return sorted(findings, key=lambda finding: finding.key["id"] or "")


async def delete_a_row(world: World) -> list[Finding]:
    key = world.row()
    await world.target.execute("DELETE FROM everything WHERE id = $1", key)
    return [Finding(mapping="public.everything", kind="missing", key={"id": str(key)})]


async def add_a_row(world: World) -> list[Finding]:
    key = 100_000 + world.row()
    cells = everything.rows(ROWS, world.choice)[world.row()][1:]
    await world.target.execute(everything.insert(), str(key), *cells)
    return [Finding(mapping="public.everything", kind="extra", key={"id": str(key)})]


async def double_a_row(world: World) -> list[Finding]:
    key = world.row()
    await world.target.execute("INSERT INTO everything SELECT * FROM everything WHERE id = $1", key)
    return [Finding(mapping="public.everything", kind="doubled", key={"id": str(key)})]


Mutation = Callable[[World], Coroutine[Any, Any, list[Finding]]]
KINDS: Final[list[Mutation]] = [
    change_a_cell,
    change_a_cell,
    change_a_cell,
    swap_two_values,
    delete_a_row,
    add_a_row,
    double_a_row,
]


def _changed(key: int, column: str, expected: str | None, found: str | None) -> Finding:
    return Finding(
        mapping="public.everything",
        kind="changed",
        key={"id": str(key)},
        column=column,
        expected=shorten(expected),
        found=shorten(found),
    )


def _named(findings: list[Finding]) -> list[Finding]:
    """What findings name; rows as a whole are shown for people, so only cells' values are compared."""
    return [
        finding.model_copy(
            update={"hint": ""} if finding.kind == "changed" else {"hint": "", "expected": None, "found": None}
        )
        for finding in findings
    ]


async def _mutate(world: World, mutations: int) -> None:
    for number in range(mutations):
        mutation = KINDS[number % len(KINDS)]
        await world.target.execute("CREATE TABLE kept AS TABLE everything")
        expected = await mutation(world)
        result = await world.compare()
        assert result.outcome == "failed", f"mutation {number}, {mutation.__name__}: {expected}"
        assert _named(result.findings) == expected, f"mutation {number}, {mutation.__name__}"
        assert result.findings_total == len(expected)
        await world.target.execute("TRUNCATE everything; INSERT INTO everything TABLE kept; DROP TABLE kept")
    assert (await world.compare()).outcome == "passed"


async def test_nothing_is_found_where_nothing_changed(world: World) -> None:
    result = await world.compare()
    assert result.outcome == "passed", result
    assert (result.source_rows, result.target_rows) == (ROWS, ROWS)
    assert result.source_checksum == result.target_checksum
    assert not result.findings and not result.counts
    assert result.method == "hash_record_extended"


async def test_every_mutation_is_found_and_named(world: World) -> None:
    await _mutate(world, MUTATIONS)


@pytest.mark.slow
async def test_six_hundred_mutations_are_found_and_named(world: World) -> None:
    world.choice.seed(600)
    await _mutate(world, SLOW_MUTATIONS)


async def test_every_two_samples_of_every_type_differ(world: World) -> None:
    """The first rows hold every sample: a column shifted by one row is found in each of them, and nowhere else."""
    for column, kind in everything.COLUMN_TYPES.items():
        count = len(everything.SAMPLES[kind])
        await world.target.execute(
            f"UPDATE everything e SET {column} = o.{column} FROM (SELECT * FROM everything) AS o"
            f" WHERE e.id < {count} AND o.id = (e.id + 1) % {count}"
        )
        result = await world.compare()
        assert result.counts == {"changed": count}, kind
        assert {finding.column for finding in result.findings} == {column}, kind
        await world.target.execute(
            f"UPDATE everything e SET {column} = o.{column} FROM (SELECT * FROM everything) AS o"
            f" WHERE e.id < {count} AND e.id = (o.id + 1) % {count} AND o.id < {count}"
        )
    assert (await world.compare()).outcome == "passed"


async def test_partitions_find_their_own_differences_and_no_other(world: World) -> None:
    await world.target.execute("UPDATE everything SET c01 = 7 WHERE id IN (39, 40, 79, 80)")
    bounds = [(None, ["40"]), (["40"], ["80"]), (["80"], None)]
    found = []
    for number, (lower, upper) in enumerate(bounds):
        result = await compare_partition(world.source, world.target, world.mapping, part(number, lower, upper))
        found.append([finding.key["id"] for finding in result.findings])
        assert (result.lower, result.upper) == (lower, upper)
    assert found == [["39"], ["40", "79"], ["80"]]


async def test_counts_go_on_where_showing_ends(world: World) -> None:
    await world.target.execute("DELETE FROM everything WHERE id < 30")
    await world.target.execute("UPDATE everything SET c01 = 7 WHERE id >= 100")
    result = await compare_partition(world.source, world.target, world.mapping, WHOLE, shown=5)
    assert len(result.findings) == 5
    assert result.findings_total == 50
    assert result.counts == {"missing": 30, "changed": 20}
