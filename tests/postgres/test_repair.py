"""A repaired partition is what the source says; only the rows that differed were rewritten."""

import pytest

from knarr.audit import chain
from knarr.errors import DataError, LostLease
from knarr.plan.resolved import Partition
from knarr.postgres import lease
from knarr.postgres.repair import Repaired, repair_partition
from tests.postgres.specimens import Run, column, mapping

ITEM = mapping([column("id", "integer"), column("name", "text"), column("amount", "numeric(10,2)")], key=["id"])
LOWER = Partition(mapping=0, number=0, lower=None, upper=["50"], estimated_rows=49)
UPPER = Partition(mapping=0, number=1, lower=["50"], upper=None, estimated_rows=51)
ROWS = "SELECT id, name, amount FROM public.{} ORDER BY id, name"


async def filled(run: Run, *, key: str = "PRIMARY KEY") -> None:
    """A hundred rows, copied in two partitions."""
    await run.source.execute(
        "CREATE TABLE public.given (id integer PRIMARY KEY, name text, amount numeric(10,2));"
        "INSERT INTO public.given SELECT n, 'name ' || n, n / 3.0 FROM generate_series(1, 100) AS n"
    )
    await run.target.execute(f"CREATE TABLE public.taken (id integer {key}, name text, amount numeric(10,2))")
    await run.store(ITEM, pieces=[LOWER, UPPER])
    for partition in (LOWER, UPPER):
        await run.copy(run.job(ITEM, partition=partition))


async def repaired(run: Run, partition: Partition = UPPER, round: int = 1) -> Repaired:
    job = run.job(ITEM, partition=partition)
    return await repair_partition(run.source, run.target, job, round, lambda rows, size: None, reconnect=run.reconnect)


async def equal(run: Run) -> bool:
    ours = [tuple(row) for row in await run.source.fetch(ROWS.format("given"))]
    return ours == [tuple(row) for row in await run.target.fetch(ROWS.format("taken"))]


async def test_changed_missing_and_extra_rows_are_rewritten_and_no_other(run: Run) -> None:
    await filled(run)
    await run.target.execute(
        "UPDATE public.taken SET name = NULL WHERE id IN (60, 61); DELETE FROM public.taken WHERE id = 70;"
        "INSERT INTO public.taken VALUES (1000, 'extra', 1)"
    )
    untouched = "SELECT array_agg(xmin::text || ctid::text ORDER BY id) FROM public.taken WHERE id NOT IN (60, 61, 70)"
    before = await run.target.fetchval(untouched + " AND id < 1000")

    done = await repaired(run)

    assert (done.updated, done.inserted, done.deleted) == (2, 1, 1)
    assert await equal(run)
    assert await run.target.fetchval(untouched) == before
    rows = await run.target.fetch("SELECT partition, rows, repairs FROM knarr.ledger ORDER BY partition")
    assert [tuple(row) for row in rows] == [(0, 49, 0), (1, 51, 1)]
    entry = (await chain.read(run.target, run.run_id))[-1]
    assert (entry.kind, "2 rows updated, 1 inserted, 1 deleted" in entry.body) == ("step", True)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO public.taken VALUES (1000, 'theirs', 1)",
        "UPDATE public.taken SET name = 'theirs' WHERE id = 60",
    ],
)
async def test_what_others_have_written_once_the_table_is_in_use_is_not_written_over(change: str, run: Run) -> None:
    await filled(run)
    await run.target.execute(f"DELETE FROM public.taken WHERE id IN (10, 70); {change}")
    await chain.append(run.target, run.run_id, "checkpoint/canary/1", "checkpoint", {"name": "canary"})

    with pytest.raises(DataError, match="1 row that somebody else has written or deleted") as left:
        await repaired(run)

    listed = left.value.hint.partition("look at the partition's rows: ")[2].partition("; put them right")[0]
    assert [row["name"] for row in await run.target.fetch(listed)] == ["theirs"]
    assert (await repaired(run, LOWER)).inserted == 1  # where only the run's own rows are, it is
    await run.target.execute("SELECT knarr.decide('run-1', 'public.taken', 'restore ours', 'ann', 'agreed')")
    await repaired(run)
    assert await equal(run)


async def test_a_row_that_is_there_twice_is_there_once_afterwards(run: Run) -> None:
    await filled(run, key="")
    await run.target.execute("INSERT INTO public.taken SELECT * FROM public.taken WHERE id IN (55, 56)")

    assert (await repaired(run)).deleted == 2
    assert await equal(run)


async def test_another_partition_is_left_alone(run: Run) -> None:
    await filled(run)
    await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id = 3")

    assert (await repaired(run, UPPER)).rows == 0
    assert not await equal(run)
    assert (await repaired(run, LOWER)).updated == 1
    assert await equal(run)


async def test_a_partition_is_repaired_once_a_round(run: Run) -> None:
    await filled(run)
    await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id = 60")
    assert (await repaired(run)).updated == 1
    await run.target.execute("UPDATE public.taken SET name = 'y' WHERE id = 60")

    assert (await repaired(run)).already_done
    assert not await equal(run)
    assert (await repaired(run, round=2)).updated == 1
    assert await equal(run)


async def test_a_source_that_has_changed_since_is_followed_and_the_ledger_says_so(run: Run) -> None:
    await filled(run)
    await run.source.execute("DELETE FROM public.given WHERE id = 80; INSERT INTO public.given VALUES (200), (201)")

    assert (await repaired(run)).rows == 3
    assert await equal(run)
    assert await run.target.fetchval("SELECT sum(rows) FROM knarr.ledger") == 101


async def test_rows_that_others_point_at_are_updated_in_place_and_never_deleted_under_them(run: Run) -> None:
    await filled(run)
    await run.target.execute(
        "CREATE TABLE public.child (id integer REFERENCES public.taken ON DELETE CASCADE);"
        "INSERT INTO public.taken VALUES (300, 'extra', 1); INSERT INTO public.child VALUES (60), (300);"
        "UPDATE public.taken SET name = 'x' WHERE id = 60"
    )

    with pytest.raises(DataError, match="child"):
        await repaired(run)
    assert await run.target.fetchval("SELECT count(*) FROM public.child") == 2
    await run.target.execute("DELETE FROM public.child WHERE id = 300")
    done = await repaired(run)
    assert (done.updated, done.deleted) == (1, 1)
    assert await run.target.fetchval("SELECT count(*) FROM public.child") == 1


async def test_a_stale_writer_repairs_nothing(run: Run) -> None:
    await filled(run)
    await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id = 60")
    job = run.job(ITEM, partition=UPPER)
    await lease.raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease):
        await repair_partition(run.source, run.target, job, 1, lambda rows, size: None, reconnect=run.reconnect)
