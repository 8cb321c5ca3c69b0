"""Repairing a table that has rows of its own: what the source says is there, and a rollback still finds what was."""

import pytest

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.resolved import Partition
from tests.postgres.occupied import Occupied, merging
from tests.postgres.specimens import column

PIECES = [
    Partition(mapping=0, number=0, lower=None, upper=["40"], estimated_rows=0),
    Partition(mapping=0, number=1, lower=["40"], upper=["90"], estimated_rows=0),
    Partition(mapping=0, number=2, lower=["90"], upper=None, estimated_rows=0),
]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 7)


async def test_changed_and_missing_rows_are_put_right_and_no_other_is_touched(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET name = 'x', score = NULL WHERE id IN (80, 120); "
        "DELETE FROM public.taken WHERE id IN (81, 121)",
    )
    places = "SELECT id, xmin::text, ctid FROM public.taken WHERE id NOT IN (80, 81, 120, 121) ORDER BY id"
    untouched = await occupied.target.fetch(places)

    done = await occupied.repair(item)

    assert (done.updated, done.inserted, done.deleted) == (2, 2, 0)
    assert await occupied.as_the_source()
    assert await occupied.target.fetch(places) == untouched
    assert await occupied.log() == {"insert": 50, "update": 25}
    assert await occupied.in_balance()
    ledger = await occupied.target.fetchrow("SELECT rows, repairs, others, repair_xids FROM knarr.ledger")
    assert ledger is not None
    assert (ledger["rows"], ledger["repairs"], ledger["others"], len(ledger["repair_xids"])) == (100, 1, 0, 1)
    assert "2 rows updated, 2 inserted, 0 deleted" in (await chain.read(occupied.target, "run-1"))[-1].body

    undone = await occupied.undo(item)

    assert occupied.dump() == at_start
    assert undone.proof.endswith("as it must be")


async def test_a_row_that_the_merge_had_no_need_to_change_comes_back_as_others_had_left_it(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    rows = await occupied.rows()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET name = 'x' WHERE id = 60; UPDATE public.taken SET name = 'y' WHERE id = 80; "
        "DELETE FROM public.taken WHERE id = 61",
    )

    done = await occupied.repair(item)

    assert (done.updated, done.inserted) == (2, 1)
    assert await occupied.as_the_source()
    assert await occupied.in_balance()
    undone = await occupied.undo(item)
    assert await occupied.rows() == [
        (60, "x", None, "theirs", None) if row[0] == 60 else row for row in rows if row[0] != 61
    ]
    assert "can't be proved as a whole" in undone.proof
    assert "2 rows of theirs met" in undone.proof


async def test_what_others_have_put_in_again_goes_and_what_was_before_the_run_comes_back(occupied: Occupied) -> None:
    item = merging(delete_missing=True)
    await occupied.prepare(item, pieces=PIECES)
    at_start = occupied.dump()
    for piece in PIECES:
        await occupied.move(item, partition=piece)
    await occupied.somebody(
        "INSERT INTO public.taken (id, name) OVERRIDING SYSTEM VALUE VALUES (5, 'again'), (7, 'again'), (1000, 'new')",
    )

    done = [await occupied.repair(item, partition=piece) for piece in PIECES]

    assert [one.deleted for one in done] == [2, 0, 1]
    assert [row[0] for row in await occupied.rows("id")] == list(range(51, 151))
    assert await occupied.in_balance()
    await occupied.undo(item)
    assert await occupied.rows("id, name", "id = 1000") == [(1000, "new")]
    await occupied.somebody("DELETE FROM public.taken WHERE id = 1000; SELECT setval('public.taken_id_seq', 100)")
    assert occupied.dump() == at_start


async def test_rows_that_the_run_appended_are_put_right(occupied: Occupied) -> None:
    item = merging(mode="append", where="t.id > 100")
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET score = 0 WHERE id = 110; DELETE FROM public.taken WHERE id = 111;"
        "UPDATE public.taken SET score = -1 WHERE id = 60",
    )

    done = await occupied.repair(item)

    assert (done.updated, done.inserted, done.deleted) == (1, 1, 0)
    assert await occupied.rows("id, name, score", "id IN (60, 110, 111)") == [
        (60, "new 60", -1),
        (110, "new 110", None),
        (111, "new 111", 111),
    ]
    assert await occupied.in_balance()
    await occupied.undo(item)
    await occupied.somebody("UPDATE public.taken SET score = NULL WHERE id = 60")
    assert occupied.dump() == at_start


async def test_a_source_that_has_moved_on_is_followed_and_can_be_taken_back(occupied: Occupied) -> None:
    item = merging(delete_missing=True)
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.run.source.execute(
        "DELETE FROM public.given WHERE id IN (60, 80, 120);"  # untouched, updated, inserted
        "UPDATE public.given SET name = 'moved' WHERE id IN (61, 81, 121);"
        "INSERT INTO public.given VALUES (5, 'moved', 5), (200, 'moved', 200)"  # deleted by the merge, new
    )

    done = await occupied.repair(item)

    assert (done.updated, done.inserted, done.deleted) == (3, 2, 3)
    assert await occupied.as_the_source()
    assert [row[0] for row in await occupied.rows("id", "id IN (60, 80, 120)")] == []
    assert await occupied.in_balance()
    assert "; 1 are not as the run had left them" in (await chain.read(occupied.target, "run-1"))[-1].body
    undone = await occupied.undo(item)
    assert occupied.dump() == at_start
    assert undone.proof.endswith("as it must be")


async def test_what_others_put_into_a_column_that_is_not_carried_still_stops_an_undo(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    rows = await occupied.rows()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET name = 'x', note = 'busy' WHERE id IN (80, 120);"
        "UPDATE public.taken SET name = 'x' WHERE id = 81",
    )

    assert (await occupied.repair(item)).updated == 3

    assert await occupied.as_the_source()
    assert await occupied.rows("id, name, note", "note = 'busy'") == [(80, "new 80", "busy"), (120, "new 120", "busy")]
    body = (await chain.read(occupied.target, "run-1"))[-1].body
    assert "; 1 hold values of others in columns that are not carried: an undo will stop at them" in body
    assert "; 1 are not as the run had left them, and an undo will not stop at them" in body
    with pytest.raises(DataError, match=r"1 row of .* since the run wrote them\. None") as stopped:
        await occupied.undo(item)
    assert "since the run wrote them: (80) changed. None" in stopped.value.detail
    undone = await occupied.undo(item, changed_since="restore ours")
    assert await occupied.rows() == rows
    assert undone.proof.endswith("as it must be")


async def test_a_row_that_others_deleted_is_again_as_the_run_had_left_it(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    rows = await occupied.rows()
    await occupied.somebody("DELETE FROM public.taken WHERE id IN (80, 81, 120)")

    assert (await occupied.repair(item)).inserted == 3

    assert await occupied.rows() == rows
    assert await occupied.rows("id, note", "id IN (80, 81, 120)") == [(80, "theirs"), (81, "theirs"), (120, "ours")]
    assert await occupied.in_balance()


async def test_what_others_put_there_can_be_kept(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    rows = await occupied.rows()
    await occupied.move(item)
    await occupied.somebody("UPDATE public.taken SET name = 'x', note = 'busy' WHERE id = 80")
    await occupied.repair(item)
    await occupied.repair(item, round=2)

    undone = await occupied.undo(item, changed_since="keep theirs")

    assert await occupied.rows("id, name, note", "id = 80") == [(80, "new 80", "busy")]
    assert await occupied.rows(where="id <> 80") == [row for row in rows if row[0] != 80]
    assert (undone.entries, undone.kept) == (75, 1)


async def test_a_row_that_others_put_in_again_and_the_source_has_again_still_stops_an_undo(occupied: Occupied) -> None:
    item = merging(delete_missing=True)
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody("INSERT INTO public.taken (id, note) OVERRIDING SYSTEM VALUE VALUES (5, 'again')")
    await occupied.run.source.execute("INSERT INTO public.given VALUES (5, 'moved', 5)")

    assert (await occupied.repair(item)).updated == 1

    assert await occupied.rows("id, name, note", "id = 5") == [(5, "moved", "again")]
    with pytest.raises(DataError) as stopped:
        await occupied.undo(item)
    assert "(5) inserted again" in stopped.value.detail


async def test_two_rounds_of_repair_are_taken_back_as_one(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.somebody("UPDATE public.taken SET name = 'x' WHERE id IN (80, 120)")
    assert (await occupied.repair(item)).updated == 2
    await occupied.somebody(
        "UPDATE public.taken SET name = 'y' WHERE id IN (81, 120); DELETE FROM public.taken WHERE id = 80"
    )

    assert (await occupied.repair(item)).already_done
    done = await occupied.repair(item, round=2)

    assert (done.updated, done.inserted) == (2, 1)
    assert await occupied.as_the_source()
    assert await occupied.in_balance()
    assert await occupied.target.fetchval("SELECT cardinality(repair_xids) FROM knarr.ledger") == 2
    await occupied.undo(item)
    assert occupied.dump() == at_start


async def test_keys_that_are_equal_and_written_otherwise_are_one_key(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "numeric"), column("name", "text")])
    table = "CREATE TABLE public.{0} (id numeric PRIMARY KEY, name text); INSERT INTO public.{0} VALUES "
    await occupied.prepare(
        item,
        source=table.format("given") + "(1.0, 'new'), (2, 'new')",
        target=table.format("taken") + "(1, 'old'), (2, 'old')",
    )
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET id = 1.000 WHERE id = 1; UPDATE public.taken SET name = 'x' WHERE id = 2"
    )

    await occupied.run.source.execute("UPDATE public.given SET id = 1.00 WHERE id = 1")

    assert (await occupied.repair(item)).updated == 2

    assert await occupied.rows("id::text, name") == [("1.00", "new"), ("2", "new")]
    assert await occupied.log() == {"update": 2}
    assert await occupied.in_balance()
    await occupied.undo(item)
    assert occupied.dump() == at_start


async def test_a_composite_key_is_one_key(occupied: Occupied) -> None:
    columns = [column("at", "timestamp with time zone"), column('la"bel', "character(4)"), column("value", "jsonb")]
    item = merging(columns=columns, key=["at", 'la"bel'], delete_missing=True)
    table = (
        'CREATE TABLE public.{0} (at timestamptz, "la""bel" char(4), value jsonb, PRIMARY KEY (at, "la""bel"));'
        "INSERT INTO public.{0} VALUES "
    )
    columns[1] = columns[1].model_copy(update={"expression": 't."la""bel"'})
    item = item.model_copy(update={"columns": columns, "key": columns[:2]})
    await occupied.prepare(
        item,
        source=table.format("given") + "('2024-01-01 12:00+01', 'a', '1'), ('infinity', 'b', '2')",
        target=table.format("taken") + "('2024-01-01 11:00+00', 'a', '7'), ('0044-03-15 BC', 'it''s', NULL)",
    )
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET value = '[]'; INSERT INTO public.taken VALUES ('0044-03-15 BC', 'it''s', 'null')",
    )

    done = await occupied.repair(item)

    assert (done.updated, done.inserted, done.deleted) == (2, 0, 1)
    assert await occupied.log() == {"insert": 1, "update": 1, "delete": 1}
    await occupied.undo(item)
    assert occupied.dump() == at_start


async def test_a_table_that_points_at_itself_is_put_right_and_taken_back(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "integer"), column("boss", "integer")], delete_missing=True)
    table = (
        "CREATE TABLE public.{0} (id integer PRIMARY KEY, boss integer REFERENCES public.{0}); INSERT INTO public.{0} "
    )
    await occupied.prepare(
        item,
        source=table.format("given") + "SELECT n, CASE WHEN n > 1 THEN 61 - n END FROM generate_series(1, 60) AS n",
        target=table.format("taken") + "SELECT n, nullif(n, 100) - n + 100 FROM generate_series(50, 100) AS n",
    )
    at_start = occupied.dump()
    await occupied.move(item)
    await occupied.somebody(
        "UPDATE public.taken SET boss = 1 WHERE id > 10;"
        "DELETE FROM public.taken WHERE id IN (9, 10); INSERT INTO public.taken VALUES (99, 3), (98, 99)",
    )

    done = await occupied.repair(item)

    assert (done.updated, done.inserted, done.deleted) == (49, 2, 2)
    assert await occupied.in_balance()
    await occupied.undo(item)
    assert occupied.dump() == at_start


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE public.taken SET name = 'theirs' WHERE id = 80",
        "UPDATE public.taken SET name = 'theirs' WHERE id = 120",
        "DELETE FROM public.taken WHERE id = 120",
    ],
)
async def test_what_others_have_done_once_the_table_is_in_use_is_not_written_over(
    change: str, occupied: Occupied
) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.somebody(change)
    await chain.append(occupied.target, "run-1", "checkpoint/canary/1", "checkpoint", {"name": "canary"})
    rows = await occupied.rows()

    with pytest.raises(DataError, match="1 row that somebody else has written or deleted since the table is in use"):
        await occupied.repair(item)

    assert await occupied.rows() == rows
    await occupied.somebody("SELECT knarr.decide('run-1', 'public.taken', 'restore ours', 'ann', 'agreed')")
    await occupied.repair(item)
    assert await occupied.as_the_source()
    assert await occupied.in_balance()
