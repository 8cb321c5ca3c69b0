"""A table that somebody has renamed, or swapped for another, is not said to be taken back, nor is the other touched."""

import pytest

from knarr.audit import chain
from knarr.errors import DataError
from knarr.postgres import objects
from tests.postgres.occupied import Occupied, merging
from tests.postgres.specimens import Run, column, mapping
from tests.postgres.test_objects import KEY, TABLE
from tests.postgres.test_remove import ITEM, copied, ids, remove

RENAME = "ALTER TABLE public.taken RENAME TO live"
SWAP = f"{RENAME}; CREATE TABLE public.taken (LIKE public.live)"
BACK = "DROP TABLE IF EXISTS public.taken; ALTER TABLE public.live RENAME TO taken"
WAYS = pytest.mark.parametrize("way", [RENAME, SWAP], ids=["renamed", "swapped"])


@WAYS
async def test_rows_of_a_table_with_another_name_are_not_said_to_be_removed(way: str, run: Run) -> None:
    await copied(run, phases=["canary"])
    await run.target.execute(way)

    with pytest.raises(DataError, match=r"knows as public\.taken is called live now.*somebody has renamed it"):
        await remove(run, "canary")

    await run.target.execute(BACK)
    assert await remove(run, "canary") == 7
    assert await ids(run) == []


@WAYS
async def test_a_merge_into_a_table_with_another_name_is_not_taken_back(way: str, occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    before = await occupied.rows()
    await occupied.move(item)
    await occupied.target.execute(way)

    with pytest.raises(DataError, match="is called live now"):
        await occupied.undo(item)

    await occupied.target.execute(BACK)
    await occupied.undo(item, raised=False)
    assert await occupied.rows() == before


@WAYS
async def test_neither_it_nor_what_has_its_name_is_dropped(way: str, run: Run) -> None:
    await run.store(mapping([column("id", "integer")], mode="create"))
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE, KEY])
    await run.target.execute(way)

    for stage in ("keys", "table"):
        with pytest.raises(DataError, match="is called live now"):
            await objects.drop_objects(run.target, run.lease, run.run_id, 0, [stage])

    await run.target.execute(BACK)
    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["keys", "table"]) == 2
    assert await run.target.fetchval("SELECT to_regclass('public.taken') IS NULL")


async def test_a_table_that_is_gone_is_said_to_be_gone(run: Run) -> None:
    await copied(run, phases=["canary"])
    await run.target.execute("DROP TABLE public.taken")

    await remove(run, "canary", ITEM)

    [said] = [entry.body for entry in await chain.read(run.target, run.run_id) if entry.kind == "compensation"]
    assert "7 rows; public.taken itself was gone, and all rows with it" in said


async def test_a_partition_that_was_detached_with_rows_in_it_stops_it(run: Run) -> None:
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT n AS id, 'x' AS code, 'x' AS name FROM generate_series(1, 30) AS n"
    )
    await run.target.execute(
        "CREATE TABLE public.taken (id bigint, code text, name text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.low PARTITION OF public.taken FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE public.high PARTITION OF public.taken FOR VALUES FROM (10) TO (1000)"
    )
    await run.store(ITEM)
    await run.copy(run.job(ITEM, phase="canary", phase_order=["canary", "everyone"]))
    await run.target.execute("ALTER TABLE public.taken DETACH PARTITION public.low")

    with pytest.raises(DataError, match=r"low was a partition of public\.taken when the run wrote to it"):
        await remove(run, "canary")

    await run.target.execute("ALTER TABLE public.taken ATTACH PARTITION public.low FOR VALUES FROM (0) TO (10)")
    assert await remove(run, "canary") == 7
    assert await ids(run) == []
