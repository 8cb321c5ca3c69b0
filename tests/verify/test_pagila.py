"""A real schema (partitions, enums, domains, arrays, tsvector) on two servers whose settings are unlike in everything.

Each random change of a cell, each row that is missing or too many, each swap of two values is found and exactly named.
"""

import lzma
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from knarr.local.cluster import Cluster
from knarr.plan.load import parse_plan
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.session import Connection
from knarr.postgres.survey import survey
from knarr.verify.models import CheckResult, shorten
from knarr.verify.parity import compare_partition
from tests.verify.tables import WHOLE

PAGILA: Final = Path(__file__).parent / "data" / "pagila.sql.xz"
PLAN: Final = "name: pagila\nsource: legacy\ntarget: shop\nmappings: [{source: public.*}]\n"
# A value that another row has may stand in a column that is unique.
SECONDARY: Final = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
                 WHERE c.relnamespace = 'public'::regnamespace AND i.indisunique AND NOT i.indisprimary
    LOOP EXECUTE 'DROP INDEX ' || name; END LOOP;
END $$
"""
MUTATIONS: Final = int(os.environ.get("KNARR_TEST_MUTATIONS", "40"))
SLOW_MUTATIONS: Final = 500


@dataclass
class Pagila:
    """The two databases and what the survey makes of them."""

    source: Connection
    target: Connection
    mappings: list[ResolvedMapping]
    choice: random.Random

    async def compare(self, mapping: ResolvedMapping) -> CheckResult:
        part = WHOLE.model_copy(update={"mapping": mapping.number, "estimated_rows": mapping.estimated_rows})
        return await compare_partition(self.source, self.target, mapping, part)

    async def key(self, mapping: ResolvedMapping) -> dict[str, str | None]:
        """A random row's key, as text."""
        names = ", ".join(f"{quote(column.name)}::text AS {quote(column.name)}" for column in mapping.key)
        place = self.choice.randrange(await self.target.fetchval(f"SELECT count(*) FROM {qualified(mapping.target)}"))
        table = qualified(mapping.target)
        row = await self.target.fetchrow(f"SELECT {names} FROM {table} ORDER BY 1 OFFSET {place} LIMIT 1")
        assert row is not None
        return dict(row)


def where(key: dict[str, str | None]) -> str:
    return " AND ".join(f"{quote(name)}::text = '{value}'" for name, value in key.items())


@pytest.fixture
async def pagila(
    source: Connection, target: Connection, cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str
) -> AsyncIterator[Pagila]:
    script = lzma.decompress(PAGILA.read_bytes()).decode()
    for server, dsn in ((cluster, source_dsn), (second_cluster, target_dsn)):
        server.psql(script, urlsplit(dsn).path.lstrip("/"))
    surveyed = await survey(source, target, parse_plan(PLAN, Path("pagila.yaml")).plan, None)
    keyed = [mapping for mapping in surveyed.mappings if mapping.key and mapping.estimated_rows]
    assert {"public.film", "public.payment", "public.customer"} <= {mapping.name for mapping in keyed}
    await target.execute(SECONDARY)
    await target.execute("SET session_replication_role = replica")  # neither triggers nor foreign keys interfere
    await source.execute("SET session_replication_role = replica")
    yield Pagila(source, target, keyed, random.Random(20261124))


async def change_a_cell(world: Pagila, mapping: ResolvedMapping) -> None:
    """A cell gets the value that the column has in another row, or NULL."""
    table, key = qualified(mapping.target), await world.key(mapping)
    columns = [column for column in mapping.columns if column not in mapping.key]
    for column in world.choice.sample(columns, len(columns)):
        name = quote(column.name)
        before = await world.target.fetchval(f"SELECT {name}::text FROM {table} WHERE {where(key)}")
        others = f"SELECT {name}::text FROM {table} WHERE {name}::text IS DISTINCT FROM $1"
        other = await world.target.fetchval(f"{others} ORDER BY md5({name}::text) LIMIT 1", before)
        if other is None:
            continue
        change = f"UPDATE {table} SET {name} = $1::text::{column.target_type} WHERE {where(key)}"
        await world.target.execute(change, other)
        result = await world.compare(mapping)
        found = [(f.kind, f.key, f.column, f.expected, f.found) for f in result.findings]
        assert found == [("changed", key, column.name, shorten(before), shorten(other))], mapping.name
        assert result.findings_total == 1
        await world.target.execute(change, before)
        return


async def lose_a_row(world: Pagila, mapping: ResolvedMapping) -> None:
    """On the target it is missing; lost on the source, it is one too many."""
    side, kind = world.choice.choice([(world.target, "missing"), (world.source, "extra")])
    table, key = qualified(mapping.target), await world.key(mapping)
    await side.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table} WHERE {where(key)}")
    await side.execute(f"DELETE FROM {table} WHERE {where(key)}")
    result = await world.compare(mapping)
    assert [(f.kind, f.key) for f in result.findings] == [(kind, key)], mapping.name
    await side.execute(f"INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept")


async def swap_two_values(world: Pagila, mapping: ResolvedMapping) -> None:
    """Two rows exchange a value: every sum over the column stays what it was."""
    table, one, other = qualified(mapping.target), await world.key(mapping), await world.key(mapping)
    columns = [column for column in mapping.columns if column not in mapping.key]
    for column in world.choice.sample(columns, len(columns)):
        name = quote(column.name)
        value = f"SELECT {name}::text FROM {table} WHERE "
        values = [await world.target.fetchval(value + where(key)) for key in (one, other)]
        if values[0] == values[1]:
            continue
        change = f"UPDATE {table} SET {name} = $1::text::{column.target_type} WHERE "
        for key, value in ((one, values[1]), (other, values[0])):
            await world.target.execute(change + where(key), value)
        result = await world.compare(mapping)
        found = sorted((str(f.key), f.column, f.expected, f.found) for f in result.findings)
        first, second = shorten(values[0]), shorten(values[1])
        assert found == sorted([(str(one), column.name, first, second), (str(other), column.name, second, first)])
        for key, value in ((one, values[0]), (other, values[1])):
            await world.target.execute(change + where(key), value)
        return


KINDS: Final = [change_a_cell, change_a_cell, lose_a_row, swap_two_values]


async def mutate(world: Pagila, mutations: int) -> None:
    for number in range(mutations):
        await KINDS[number % len(KINDS)](world, world.choice.choice(world.mappings))
    for mapping in world.mappings:
        assert (await world.compare(mapping)).outcome == "passed", mapping.name


async def test_nothing_is_found_in_an_equal_pagila(pagila: Pagila) -> None:
    for mapping in pagila.mappings:
        result = await pagila.compare(mapping)
        assert (result.outcome, result.findings) == ("passed", []), mapping.name
    assert sum(mapping.estimated_rows for mapping in pagila.mappings) > 30_000


async def test_every_mutation_of_pagila_is_found_and_named(pagila: Pagila) -> None:
    await mutate(pagila, MUTATIONS)


@pytest.mark.slow
async def test_five_hundred_mutations_of_pagila_are_found_and_named(pagila: Pagila) -> None:
    pagila.choice.seed(500)
    await mutate(pagila, SLOW_MUTATIONS)
