"""Rows elsewhere that a foreign key would delete or change when rows of the run go: they stop it, also in a race."""

import asyncio
from typing import Final

import pytest

from knarr.errors import DataError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.pointing import refuse_changes_elsewhere
from tests.postgres.occupied import TAKEN as TAKEN_OCCUPIED
from tests.postgres.occupied import Occupied, merging
from tests.postgres.specimens import Run, column, mapping
from tests.postgres.test_remove import ORDER, ids, remove
from tests.postgres.test_remove_others import take_back

ITEM = mapping([column("id", "integer"), column("name", "text")], key=["id"], mode="fill")
PHASED = ITEM.model_copy(update={"phases": {"canary": "t.id % 4 = 0"}})
PARENTS = mapping(
    [column("id", "integer"), column("parent", "integer")], key=["id"], phases={"canary": "t.id % 4 = 0"}, mode="fill"
)
TAKEN = "CREATE TABLE public.taken (id integer PRIMARY KEY, name text)"
CHILD = "CREATE TABLE public.child (id integer PRIMARY KEY, taken integer REFERENCES public.taken ON DELETE {})"


async def filled(run: Run, item: ResolvedMapping, phases: list[str], taken: str = TAKEN) -> None:
    """Thirty rows at the source, and the asked phases of them on the target."""
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT n AS id, 'x' AS name,"
        "       CASE WHEN n % 4 > 0 AND n < 30 THEN n + 1 END AS parent"
        "  FROM generate_series(1, 30) AS n"
    )
    await run.target.execute(taken)
    await run.store(item)
    for phase in phases:
        await run.copy(run.job(item, phase=phase, phase_order=ORDER))


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
async def test_a_row_whose_transaction_is_not_over_is_waited_for_and_stops_it(action: str, run: Run) -> None:
    await filled(run, ITEM, ["everyone"])
    await run.target.execute(CHILD.format(action))
    somebody = await run.open("somebody")
    await somebody.execute("BEGIN; INSERT INTO public.child VALUES (1, 7)")

    removing = asyncio.create_task(remove(run, "everyone", ITEM))
    while not await somebody.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.01)
    await somebody.execute("COMMIT")

    with pytest.raises(DataError, match=r"rows of child point at rows of public\.taken"):
        await removing
    assert await somebody.fetchval("SELECT taken FROM public.child") == 7
    assert len(await ids(run)) == 30


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
async def test_a_row_of_theirs_in_the_table_itself_is_not_changed_when_it_was_decided_to_keep_it(
    action: str, run: Run
) -> None:
    itself = f"{TAKEN.removesuffix(')')}, parent integer REFERENCES public.taken ON DELETE {action})"
    await filled(run, PHASED, ORDER, itself)
    await run.target.execute("INSERT INTO public.taken VALUES (999, 'theirs', 7)")

    with pytest.raises(DataError, match=r"rows of taken point at rows of public\.taken"):
        await take_back(run, PHASED, "keep theirs")

    assert await run.target.fetchval("SELECT parent FROM public.taken WHERE id = 999") == 7


async def test_rows_of_the_run_that_point_at_each_other_go_together(run: Run) -> None:
    itself = f"{TAKEN.removesuffix(')')}, parent integer REFERENCES public.taken ON DELETE SET NULL)"
    await filled(run, PARENTS, ORDER, itself)

    with pytest.raises(DataError, match=r"rows of taken point at rows of public\.taken"):
        await remove(run, "canary", PARENTS)
    assert await remove(run, "everyone", PARENTS) == 23
    assert await remove(run, "canary", PARENTS) == 7
    assert await ids(run) == []


PARTED = """
CREATE TABLE public.taken (id integer PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE public.low PARTITION OF public.taken FOR VALUES FROM (0) TO (10);
CREATE TABLE public.high PARTITION OF public.taken FOR VALUES FROM (10) TO (1000)
"""


WHOLE: Final = """
CREATE TABLE public.whole (id integer PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE public.taken PARTITION OF public.whole FOR VALUES FROM (0) TO (1000)
"""


@pytest.mark.parametrize("action", ["CASCADE", "NO ACTION"])
@pytest.mark.parametrize(
    ("taken", "pointed_at"), [(PARTED, "public.low (id)"), (WHOLE, "public.whole")], ids=["a part", "the whole"]
)
async def test_a_foreign_key_may_point_at_a_part_alone_or_at_the_whole_of_a_part(
    taken: str, pointed_at: str, action: str, run: Run
) -> None:
    await filled(run, ITEM, ["everyone"], taken)
    await run.target.execute(CHILD.replace("public.taken ON", f"{pointed_at} ON").format(action))
    await run.target.execute("INSERT INTO public.child VALUES (1, 7)")

    with pytest.raises(DataError, match=r"rows of child point at rows of public\.taken"):
        await remove(run, "everyone", ITEM)

    assert await run.target.fetchval("SELECT taken FROM public.child") == 7
    await run.target.execute("DELETE FROM public.child")
    assert await remove(run, "everyone", ITEM) == 30


async def test_it_does_not_point_at_what_lies_in_the_other_parts(run: Run) -> None:
    """The key of the part alone is unique there, and may be that of a row elsewhere."""
    parts = PARTED.replace("id integer PRIMARY KEY", "id integer, half integer").replace("RANGE (id)", "RANGE (half)")
    await filled(run, ITEM, [], f"{parts}; ALTER TABLE public.low ADD PRIMARY KEY (id)")
    await run.target.execute(CHILD.replace("public.taken ON", "public.low (id) ON").format("CASCADE"))
    await run.target.execute(
        "INSERT INTO public.taken (id, half) VALUES (7, 1), (7, 20); INSERT INTO public.child VALUES (1, 7)"
    )

    await refuse_changes_elsewhere(run.target, ITEM, "t.half = 20", [])
    with pytest.raises(DataError):
        await refuse_changes_elsewhere(run.target, ITEM, "t.half = 1", [])


async def test_an_undo_sees_a_foreign_key_that_points_at_a_part_alone(occupied: Occupied) -> None:
    parted = TAKEN_OCCUPIED.replace("STORED);", "STORED) PARTITION BY RANGE (id);").replace(
        "INSERT INTO", "CREATE TABLE public.low PARTITION OF public.taken FOR VALUES FROM (0) TO (1000); INSERT INTO"
    )
    parted = parted.replace("GENERATED ALWAYS AS IDENTITY ", "").replace(
        "SELECT setval('public.taken_id_seq', 100);", ""
    )
    item = merging()
    await occupied.prepare(item, target=parted)
    await occupied.move(item)
    await occupied.somebody(
        "CREATE TABLE public.child (id integer, taken bigint REFERENCES public.low (id) ON DELETE CASCADE);"
        "INSERT INTO public.child VALUES (1, 140)"
    )

    with pytest.raises(DataError, match="would delete or change them"):
        await occupied.undo(item)

    assert await occupied.target.fetchval("SELECT count(*) FROM public.child") == 1
