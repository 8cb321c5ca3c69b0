"""Where a table that has rows of its own is not repaired: nothing is written, and whoever is in the way is named."""

import pytest

from knarr.errors import DataError, LostLease
from knarr.postgres import lease
from tests.postgres.occupied import Occupied, merging


async def test_a_row_of_others_under_a_key_to_append_is_named_and_left_alone(occupied: Occupied) -> None:
    item = merging(mode="append", where="t.id > 100")
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.run.source.execute("INSERT INTO public.given VALUES (900, 'ours'), (901, 'ours')")
    await occupied.somebody(
        "INSERT INTO public.taken (id, name) OVERRIDING SYSTEM VALUE VALUES (900, 'guest'), (901, 'guest');"
        "UPDATE public.taken SET name = 'x' WHERE id = 120",
    )
    rows = await occupied.rows()

    with pytest.raises(DataError, match=r"(?m)2 keys to append .* did not put them there$") as refused:
        await occupied.repair(item)

    assert refused.value.detail.endswith("did not put them there: (900), (901)")
    assert "900" not in str(refused.value)
    assert await occupied.rows() == rows
    assert await occupied.log() == {"insert": 50}


async def test_a_row_outside_the_scope_is_named_and_left_alone(occupied: Occupied) -> None:
    item = merging(scope="note <> 'kept'")
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET note = 'kept', name = 'x' WHERE id = 80;"
        "UPDATE public.taken SET name = 'x' WHERE id = 81",
    )
    rows = await occupied.rows()

    with pytest.raises(DataError, match=r"(?m)not in the mapping's scope \(1 rows\)$") as refused:
        await occupied.repair(item)

    assert refused.value.detail.endswith("(1 rows): (80)")
    assert await occupied.rows() == rows
    assert await occupied.target.fetchval("SELECT repairs FROM knarr.ledger") == 0


async def test_surplus_rows_of_another_scope_stay(occupied: Occupied) -> None:
    item = merging(scope="note <> 'kept' -- theirs and ours", delete_missing=True)
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody(
        "INSERT INTO public.taken (id, note) OVERRIDING SYSTEM VALUE VALUES (5, 'kept'), (6, 'new')",
    )

    assert (await occupied.repair(item)).deleted == 1
    assert await occupied.rows("id, note", "id < 51") == [(5, "kept")]


async def test_rows_elsewhere_are_never_deleted_by_a_cascade(occupied: Occupied) -> None:
    item = merging(delete_missing=True, scope="id > 0")
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody(
        "INSERT INTO public.taken (id) OVERRIDING SYSTEM VALUE VALUES (5);"
        "CREATE TABLE public.pointing (id bigint REFERENCES public.taken ON DELETE CASCADE);"
        "INSERT INTO public.pointing VALUES (5), (120)",
    )

    with pytest.raises(DataError, match="pointing"):
        await occupied.repair(item)
    assert await occupied.target.fetchval("SELECT count(*) FROM public.pointing") == 2

    await occupied.somebody("DELETE FROM public.pointing WHERE id = 5")
    assert (await occupied.repair(item)).deleted == 1
    assert await occupied.target.fetchval("SELECT count(*) FROM public.pointing") == 1


async def test_a_stale_writer_repairs_nothing(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody("UPDATE public.taken SET name = 'x' WHERE id = 80")
    rows = await occupied.rows()
    await lease.raise_epoch(occupied.target, occupied.run.run_id)

    with pytest.raises(LostLease):
        await occupied.repair(item)

    assert await occupied.rows() == rows
    assert await occupied.target.fetchval("SELECT repairs FROM knarr.ledger") == 0


async def test_a_partition_that_was_never_merged_is_not_repaired(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    rows = await occupied.rows()

    with pytest.raises(DataError, match=r"no row of public\.taken, phase all, partition 0: it was never merged"):
        await occupied.repair(item)

    assert await occupied.rows() == rows


async def test_a_trigger_that_leaves_rows_out_is_a_finding(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET name = 'x' WHERE id IN (80, 81);"
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN CASE WHEN NEW.id = 81 THEN NULL ELSE NEW END; END';"
        "CREATE TRIGGER f BEFORE UPDATE ON public.taken FOR EACH ROW EXECUTE FUNCTION public.f()",
    )

    with pytest.raises(DataError, match=r"of 2 rows of public\.taken that differ 1 were updated"):
        await occupied.repair(item)

    assert await occupied.rows("id, name", "id IN (80, 81)") == [(80, "x"), (81, "x")]
