"""A publication that would keep the run's rows from being taken back is seen before the run, in every form it has."""

from contextlib import nullcontext
from typing import Any, Final

import asyncpg
import pytest

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, told

SOURCE: Final = "CREATE TABLE author (id integer PRIMARY KEY, name text); INSERT INTO author VALUES (1, 'ann')"
PLAIN: Final = (
    "CREATE TABLE shop.author (id integer NOT NULL, name text); CREATE UNIQUE INDEX by_id ON shop.author (id);"
)
KEYED: Final = "CREATE TABLE shop.author (id integer PRIMARY KEY, name text);"
PARTED: Final = """
CREATE TABLE shop.author (id integer NOT NULL, name text) PARTITION BY RANGE (id);
CREATE UNIQUE INDEX by_id ON shop.author (id);
CREATE TABLE shop.low PARTITION OF shop.author FOR VALUES FROM (0) TO (100);
CREATE TABLE shop.high PARTITION OF shop.author DEFAULT;
"""
DELETE: Final = "DELETE FROM shop.author WHERE id = 1"
BY_INDEX: Final = 'ALTER TABLE "shop"."author" REPLICA IDENTITY USING INDEX "by_id"'
FULL: Final = 'ALTER TABLE "shop"."author" REPLICA IDENTITY FULL'

# What is there, what is published, which statements mend it.
REFUSED: Final[dict[str, tuple[str, str, list[str]]]] = {
    "the table": (PLAIN, "FOR TABLE shop.author", [BY_INDEX]),
    "all tables": (PLAIN, "FOR ALL TABLES", [BY_INDEX]),
    "its schema": (PLAIN, "FOR TABLES IN SCHEMA shop", [BY_INDEX]),
    "deletes alone": (PLAIN, "FOR ALL TABLES WITH (publish = 'insert, delete')", [BY_INDEX]),
    "a key that is not used": (
        KEYED + "ALTER TABLE shop.author REPLICA IDENTITY NOTHING",
        "FOR ALL TABLES",
        ['ALTER TABLE "shop"."author" REPLICA IDENTITY USING INDEX "author_pkey"'],
    ),
    "an index that is gone": (
        KEYED + "CREATE UNIQUE INDEX gone ON shop.author (id); "
        "ALTER TABLE shop.author REPLICA IDENTITY USING INDEX gone; DROP INDEX shop.gone",
        "FOR ALL TABLES",
        ['ALTER TABLE "shop"."author" REPLICA IDENTITY USING INDEX "author_pkey"'],
    ),
    "a key that is checked late": (
        "CREATE TABLE shop.author (id integer PRIMARY KEY DEFERRABLE, name text);",
        "FOR TABLE shop.author",
        [FULL],
    ),
    "a column that may be NULL": (
        "CREATE TABLE shop.author (id integer UNIQUE, name text);",
        "FOR TABLE shop.author",
        [FULL],
    ),
    "partitions through their root": (
        PARTED + "ALTER TABLE shop.high REPLICA IDENTITY FULL",
        "FOR TABLE shop.author WITH (publish_via_partition_root = true)",
        ['ALTER TABLE "shop"."low" REPLICA IDENTITY USING INDEX "low_id_idx"'],
    ),
    "a partition, through the schema of its root": (
        PARTED + "CREATE SCHEMA parts; ALTER TABLE shop.low SET SCHEMA parts",
        "FOR TABLES IN SCHEMA shop",
        [
            'ALTER TABLE "parts"."low" REPLICA IDENTITY USING INDEX "low_id_idx"',
            'ALTER TABLE "shop"."high" REPLICA IDENTITY USING INDEX "high_id_idx"',
        ],
    ),
    "one partition": (
        PARTED,
        "FOR TABLE shop.low",
        ['ALTER TABLE "shop"."low" REPLICA IDENTITY USING INDEX "low_id_idx"'],
    ),
}


def fill(mode: str = "fill") -> dict[str, Any]:
    """The mapping of the one table."""
    return {
        "target": "shop.author",
        "source": "public.author",
        "mode": mode,
        "key": {"id": "id"},
        "columns": {"name": "="},
    }


async def in_the_way(surveyed: Surveyed, mode: str = "fill") -> list[tuple[str, str, str, str]]:
    """What the survey says of publications."""
    return [problem for problem in told(await surveyed(fill(mode))) if "publication" in problem[1]]


@pytest.mark.parametrize("case", REFUSED)
async def test_a_table_whose_rows_could_not_be_taken_back_is_refused_and_mended_by_what_is_said(
    case: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    there, published, mend = REFUSED[case]
    await source.execute(SOURCE)
    await target.execute(f"CREATE SCHEMA shop; {there}")
    await target.execute(f"CREATE PUBLICATION feed {published}")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await target.execute(DELETE)

    [problem] = await in_the_way(surveyed)

    assert problem[0] == "mappings[0].target (shop.author)"
    assert "publications (feed) send that on, and there is no replica identity" in problem[1]
    assert problem[3] == "; ".join(mend)
    await target.execute(problem[3])
    await target.execute(DELETE)
    assert await in_the_way(surveyed) == []


@pytest.mark.parametrize(
    ("there", "published", "refused"),
    [
        (KEYED, "shop.author WHERE (name <> '')", True),
        (PARTED + "ALTER TABLE shop.author ADD PRIMARY KEY (id)", "shop.high (name) WHERE (id > 3)", True),
        (KEYED, "shop.author (name)", True),
        (KEYED, "shop.author (id) WHERE (id > 3)", False),
    ],
)
async def test_a_row_filter_or_a_list_of_columns_must_fit_the_replica_identity(
    there: str, published: str, refused: bool, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(f"CREATE SCHEMA shop; {there}")
    await target.execute(f"CREATE PUBLICATION feed FOR TABLE {published}")

    found = await in_the_way(surveyed)

    assert [problem[0] for problem in found] == ["mappings[0].target (shop.author)"] * refused
    assert all("the row filter or the columns of a publication (feed) do not fit" in problem[1] for problem in found)
    with pytest.raises(asyncpg.InvalidColumnReferenceError) if refused else nullcontext():
        await target.execute("UPDATE shop.author SET name = 'x'")


@pytest.mark.parametrize("mode", ["fill", "append", "merge"])
async def test_every_mode_that_writes_to_a_table_that_is_there_is_asked(
    mode: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(f"CREATE SCHEMA shop; {PLAIN} CREATE PUBLICATION feed FOR TABLE shop.author")

    assert len(await in_the_way(surveyed, mode)) == 1


@pytest.mark.parametrize(
    ("there", "published"),
    [
        (KEYED, "FOR ALL TABLES"),
        (PLAIN + "ALTER TABLE shop.author REPLICA IDENTITY FULL", "FOR ALL TABLES"),
        (PLAIN + "ALTER TABLE shop.author REPLICA IDENTITY USING INDEX by_id", "FOR ALL TABLES"),
        (PLAIN, "FOR ALL TABLES WITH (publish = 'insert, truncate')"),
        (PLAIN + "CREATE TABLE shop.other (id integer)", "FOR TABLE shop.other"),
        (PLAIN.replace("TABLE shop", "UNLOGGED TABLE shop"), "FOR ALL TABLES"),
        (PARTED + "CREATE TABLE shop.lower (id integer)", "FOR TABLE shop.lower"),
    ],
)
async def test_a_publication_that_the_table_can_live_with_is_no_matter(
    there: str, published: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(f"CREATE SCHEMA shop; {there}")
    await target.execute(f"CREATE PUBLICATION feed {published}")
    await target.execute(DELETE)

    assert await in_the_way(surveyed) == []


@pytest.mark.parametrize(
    ("published", "warned"), [("ALL TABLES", 1), ("TABLES IN SCHEMA shop", 1), ("TABLE public.x", 0)]
)
async def test_a_publication_that_tables_to_come_will_be_in_is_said(
    published: str, warned: int, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(f"CREATE SCHEMA shop; CREATE TABLE public.x (); CREATE PUBLICATION feed FOR {published}")

    found = await surveyed(fill("create"))

    assert told(found) == []
    said = [problem for problem in told(found, "warning") if "publications (feed) will send on" in problem[1]]
    assert [where for where, *_ in said] == ["target shop"] * warned
