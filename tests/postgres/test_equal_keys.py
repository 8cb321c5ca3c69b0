"""Merging by keys that are equal without being the same: wherever the mapping is cut, equal keys meet."""

from typing import Any

import pytest

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.partitions import plan_partitions
from knarr.verify.parity import compare_partition
from tests.postgres.occupied import Occupied, merging
from tests.postgres.specimens import column

# Each key's spelling on the source and on the target, of a number from 1 to 300.
KEYS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "citext": (
        "public.citext",
        {"category": "other", "uncuttable": True},
        "CASE g % 2 WHEN 0 THEN 'Key' ELSE 'kEY' END || g",
        "CASE g % 3 WHEN 0 THEN 'KEY' ELSE 'key' END || g",
    ),
    "numeric": ("numeric", {}, "g * 1.0", "g * 1.000"),
    "double precision": ("double precision", {}, "CASE g WHEN 1 THEN '-0' ELSE g::text END", "g - (g = 1)::int"),
    "interval": ("interval", {}, "g * interval '1 month'", "g * interval '30 days'"),
    "character": ("character(8)", {}, "'k' || g", "'k' || g || ' '"),
}


def keyed(kind: str, more: dict[str, Any], *, before: bool = False) -> ResolvedMapping:
    uncuttable = more.pop("uncuttable", False)
    k = column("k", kind, **more).model_copy(update={"uncuttable": uncuttable})
    first = [column("shop", "integer")] if before else []
    item = merging(columns=[*first, k, column("v", "text")], key=[*[c.name for c in first], "k"], delete_missing=True)
    return item.model_copy(update={"estimated_rows": 300, "estimated_bytes": 30_000, "binary": False})


@pytest.mark.parametrize("kind", KEYS)
async def test_equal_keys_meet_in_one_partition(occupied: Occupied, kind: str) -> None:
    sql_type, more, ours, theirs = KEYS[kind]
    for side in (occupied.run.source, occupied.target):
        await side.execute("CREATE EXTENSION IF NOT EXISTS citext SCHEMA public")
    item = keyed(sql_type, dict(more))
    table = (
        "CREATE TABLE public.{} (k {} PRIMARY KEY, v text, own text); INSERT INTO public.{} SELECT ({})::{}, '{}', {}"
    )
    table += " FROM generate_series(1, {}) AS g"
    given = table.format("given", sql_type, "given", ours, sql_type, "new", "NULL", 300)
    taken = table.format("taken", sql_type, "taken", theirs, sql_type, "old", "'kept ' || g", 310)
    await occupied.run.source.execute(given)
    pieces = await plan_partitions(occupied.run.source, item, 3000)
    await occupied.prepare(item, pieces=pieces, source="", target=taken)

    outcomes = [await occupied.move(item, partition=piece) for piece in pieces]

    assert (len(pieces) == 1) == bool(more)
    assert sum(one.inserted for one in outcomes) == 0
    assert (sum(one.updated for one in outcomes), sum(one.deleted for one in outcomes)) == (300, 10)
    # Columns that the mapping does not carry are still there: no row was deleted and put in anew.
    assert await occupied.target.fetchval("SELECT count(*) FROM taken WHERE own LIKE 'kept %' AND v = 'new'") == 300


async def test_a_mapping_is_cut_by_the_columns_before(occupied: Occupied) -> None:
    for side in (occupied.run.source, occupied.target):
        await side.execute("CREATE EXTENSION IF NOT EXISTS citext SCHEMA public")
    sql_type, more, ours, theirs = KEYS["citext"]
    item = keyed(sql_type, dict(more), before=True)
    table = "CREATE TABLE public.{} (shop integer, k public.citext, v text, PRIMARY KEY (shop, k));"
    key = "CASE WHEN g > 293 THEN '' ELSE {} END"  # the empty one is the lowest of each shop
    table += f"INSERT INTO public.{{}} SELECT g % 7, {key}, '{{}}' FROM generate_series(1, 300) AS g"
    await occupied.run.source.execute(table.format("given", "given", ours, "new"))
    pieces = await plan_partitions(occupied.run.source, item, 3000)
    await occupied.prepare(item, pieces=pieces, source="", target=table.format("taken", "taken", theirs, "old"))

    outcomes = [await occupied.move(item, partition=piece) for piece in pieces]

    assert [piece.lower for piece in pieces[1:]] == [[str(shop), ""] for shop in range(7)]
    assert [(one.inserted, one.deleted) for one in outcomes] == [(0, 0)] * 8
    assert sum(one.updated for one in outcomes) == 300
    for piece in pieces:  # verification, which writes its ranges by itself, ends them where the merge did
        result = await compare_partition(occupied.run.source, occupied.target, item, piece)
        assert result.outcome == "passed", result.message


async def test_a_column_without_a_lowest_text_keeps_the_mapping_whole(occupied: Occupied) -> None:
    await occupied.run.source.execute("CREATE TABLE public.given (shop integer, k jsonb, v text)")
    await occupied.run.source.execute("INSERT INTO public.given SELECT g, to_jsonb(g) FROM generate_series(1, 300) g")
    item = keyed("jsonb", {"uncuttable": True}, before=True)
    assert len(await plan_partitions(occupied.run.source, item, 3000)) == 1
