"""Repairing a table that has rows of its own when a canary has gone ahead: each row goes back with its own phase."""

import pytest

from knarr.postgres import schema
from tests.postgres.occupied import Occupied, merging

CANARY = {"canary": "t.id % 2 = 0"}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 7)


async def test_a_row_of_the_canary_that_is_repaired_later_goes_back_with_the_canary(occupied: Occupied) -> None:
    occupied.phases = ["canary", "all"]
    item = merging(phases=CANARY)
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item, phase="canary")
    at_canary = await occupied.rows()
    await occupied.move(item, phase="all")
    await occupied.somebody(
        "UPDATE public.taken SET name = 'x' WHERE id IN (80, 81, 120, 121);"
        "DELETE FROM public.taken WHERE id IN (82, 83, 122)",
    )

    done = await occupied.repair(item, phase="all")

    assert (done.updated, done.inserted) == (4, 3)
    assert await occupied.as_the_source()
    assert await occupied.in_balance()
    repaired = await occupied.target.fetch("SELECT phase, rows, repairs, cardinality(repair_xids) FROM knarr.ledger")
    assert {tuple(row) for row in repaired} == {("canary", 50, 1, 1), ("all", 50, 1, 1)}
    undone = await occupied.undo(item, phase="all")
    assert await occupied.rows() == at_canary
    assert undone.proof.endswith("as it must be")
    undone = await occupied.undo(item, phase="canary")
    assert undone.proof.endswith("as it must be")
    assert occupied.dump() == at_start


async def test_a_canary_is_repaired_before_the_rest_has_moved(occupied: Occupied) -> None:
    occupied.phases = ["canary", "second", "all"]
    item = merging(phases=CANARY, delete_missing=True)
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item, phase="canary")
    await occupied.move(item, phase="second")  # moves nothing of this mapping
    await occupied.somebody("UPDATE public.taken SET name = 'x' WHERE id IN (60, 80, 81, 120)")

    done = await occupied.repair(item, phase="second")

    assert (done.updated, done.inserted, done.deleted) == (3, 0, 0)
    assert await occupied.rows("id, name", "id IN (60, 80, 81, 120)") == [
        (60, "new 60"),
        (80, "new 80"),
        (81, "x"),
        (120, "new 120"),
    ]
    assert await occupied.target.fetchval("SELECT count(*) FROM knarr.undo WHERE phase = 'second'") == 0
    assert await occupied.in_balance()
    await occupied.move(item, phase="all")
    assert await occupied.as_the_source()
    for phase in ("all", "second", "canary"):
        await occupied.undo(item, phase=phase)
    await occupied.somebody(
        "UPDATE public.taken SET name = 'old 81' WHERE id = 81; UPDATE public.taken SET name = 'new 60' WHERE id = 60",
    )
    assert occupied.dump() == at_start


async def test_a_repaired_row_is_not_taken_for_somebody_elses(occupied: Occupied) -> None:
    """After the last phase went back and came again, what its repair wrote is still known as the run's own."""
    occupied.phases = ["canary", "all"]
    item = merging(phases=CANARY, delete_missing=True)
    await occupied.prepare(item)
    await occupied.move(item, phase="canary")
    await occupied.move(item, phase="all")
    await occupied.somebody("UPDATE public.taken SET name = 'x' WHERE id IN (80, 120)")
    await occupied.repair(item, phase="all")
    await occupied.undo(item, phase="all")
    await occupied.run.source.execute("UPDATE public.given SET name = 'moved' WHERE id IN (80, 120)")

    await occupied.move(item, phase="all")

    assert await occupied.target.fetchval("SELECT sum(others) FROM knarr.ledger") == 0
    await occupied.somebody("INSERT INTO public.taken (id, name) OVERRIDING SYSTEM VALUE VALUES (900, 'guest')")
    undone = await occupied.undo(item, phase="all")
    assert "as it must be, and 1 rows that somebody else has written since" in undone.proof


async def test_a_ledger_of_an_older_version_gets_what_a_repair_needs(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.target.execute(
        "ALTER TABLE knarr.ledger DROP COLUMN repair_xids; UPDATE knarr.version SET version = 2"
    )
    await occupied.somebody("UPDATE public.taken SET name = 'x' WHERE id = 80")

    await schema.install(occupied.target)

    assert (await occupied.repair(item)).updated == 1
    assert await occupied.target.fetchval("SELECT cardinality(repair_xids) FROM knarr.ledger") == 1
