"""Keys of which no range can be cut, because equal values may differ in their bytes: found, marked and told."""

import pytest

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, told

TYPES = """
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE TYPE public.mood AS ENUM ('sad', 'glad');
CREATE TYPE public.pair AS (a numeric, b text);
CREATE DOMAIN public.address AS public.citext;
CREATE DOMAIN public.mailbox AS public.address CHECK (VALUE <> '');
"""
SAME = "may hold equal values that differ in their bytes"
# The key's type, and what is said of it.
KEYS = {
    "citext": SAME,
    "mailbox": SAME,
    "citext[]": SAME,
    "pair": SAME,
    "jsonb": "is ordered by the database's collation, which the other side may not have",
    # Compared by their own order, in which equal values are one.
    "numeric": "",
    "double precision": "",
    "interval": "",
    "numeric[]": "",
    "character(8)": "",
    # One image for each value.
    "text": "",
    "varchar(20)": "",
    "uuid": "",
    "mood": "",
}


async def prepared(source: Connection, target: Connection, kinds: dict[str, str], table: str, key: str) -> None:
    await target.execute("CREATE SCHEMA IF NOT EXISTS shop; SET search_path = public")
    columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    for side, name in ((source, f"public.{table}"), (target, f"shop.{table}")):
        await side.execute(f"CREATE TABLE {name} ({columns}, v text, PRIMARY KEY ({key}))")


async def test_keys_whose_equal_values_differ_in_their_bytes_are_not_cut(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    for side in (source, target):
        await side.execute(TYPES)
    for place, kind in enumerate(KEYS):
        await prepared(source, target, {"k": kind}, f"t{place}", "k")
    wanted = [{"target": f"shop.t{place}", "source": f"public.t{place}", "mode": "merge"} for place in range(len(KEYS))]
    found = await surveyed(*wanted)
    assert told(found) == []
    marked = {kind: item.key[0].uncuttable for kind, item in zip(KEYS, found.mappings, strict=True)}
    assert marked == {kind: bool(why) for kind, why in KEYS.items()}


@pytest.mark.parametrize(("mode", "marked"), [("append", True), ("merge", True), ("fill", False)])
async def test_only_where_rows_are_looked_for_by_their_key(
    mode: str, marked: bool, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    for side in (source, target):
        await side.execute(TYPES)
    await prepared(source, target, {"k": "citext"}, "t", "k")
    found = await surveyed({"target": "shop.t", "source": "public.t", "mode": mode})
    assert told(found) == []
    assert found.mappings[0].key[0].uncuttable == marked


async def test_what_becomes_of_a_large_one_is_said(surveyed: Surveyed, source: Connection, target: Connection) -> None:
    for side in (source, target):
        await side.execute(TYPES)
    await prepared(source, target, {"k": "citext"}, "t", "k")
    await prepared(source, target, {"shop": "integer", "k": "citext"}, "u", "shop, k")
    for table, key in (("t", "g"), ("u", "g, g")):
        await source.execute(f"INSERT INTO {table} SELECT {key}, repeat('x', 100) FROM generate_series(1, 2000) g")
        await source.execute(f"ANALYZE {table}")
    wanted = [{"target": f"shop.{name}", "source": f"public.{name}", "mode": "merge"} for name in "tu"]
    where, what = "mappings[{}].key.k (shop.{})", f"k (public.citext) {SAME}: no partition can end between two of them"

    assert told(await surveyed(*wanted), "warning") == []
    assert told(await surveyed(*wanted, limits={"partition_size": "64KiB"}), "warning") == [
        (where.format(0, "t"), what, "", "it moves as one partition, in one transaction, and is verified as one"),
        (where.format(1, "u"), what, "", "partitions end between values of shop alone"),
    ]


async def test_a_collation_may_hold_different_texts_for_equal(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    if not await target.fetchval("SELECT count(*) > 0 FROM pg_collation WHERE collname = 'und-x-icu'"):
        pytest.skip("this server was built without ICU, and only ICU has such collations")
    await target.execute(
        "CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
    )
    await prepared(source, target, {"k": "text"}, "t", "k")
    await target.execute("ALTER TABLE shop.t ALTER k TYPE varchar(20) COLLATE public.loose")
    found = await surveyed({"target": "shop.t", "source": "public.t", "mode": "merge"})
    assert told(found) == []
    assert found.mappings[0].key[0].uncuttable
