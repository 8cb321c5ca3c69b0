"""Taking a merge back: every row as it was, exactly once, and nothing of what others did meanwhile without a word."""

import asyncio
import random

import pytest

from knarr.audit import chain
from knarr.errors import LostLease, TransientError
from knarr.plan.resolved import Partition
from knarr.postgres import lease, ledger
from knarr.postgres.undo import Undone
from knarr.postgres.undo_log import drop_undo_log
from tests.postgres.occupied import TAKEN, Occupied, merging
from tests.postgres.specimens import column
from tests.verify import everything

PIECES = [
    Partition(mapping=0, number=0, lower=None, upper=["40"], estimated_rows=0),
    Partition(mapping=0, number=1, lower=["40"], upper=["90"], estimated_rows=0),
    Partition(mapping=0, number=2, lower=["90"], upper=None, estimated_rows=0),
]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 7)


async def merged(occupied: Occupied, *, extra: str = "") -> None:
    """All partitions of the usual merge, which also deletes; what was there before is `occupied.dump()` before it."""
    item = merging(delete_missing=True)
    await occupied.prepare(item, pieces=PIECES, target=TAKEN + extra)
    for piece in PIECES:
        await occupied.move(item, partition=piece)


async def test_a_merge_taken_back_leaves_the_table_as_it_was(occupied: Occupied) -> None:
    item = merging(delete_missing=True)
    await occupied.prepare(item, pieces=PIECES)
    before = occupied.dump()
    for piece in PIECES:
        await occupied.move(item, partition=piece)
    assert await occupied.log() == {"insert": 50, "update": 25, "delete": 50}

    undone = await occupied.undo(item)

    assert (undone.entries, undone.kept) == (125, 0)
    assert "100 rows with checksum" in undone.proof
    assert occupied.dump() == before
    assert await occupied.log() == {}
    assert await ledger.phase_totals(occupied.target, occupied.run.run_id, 0) == {}
    last = (await chain.read(occupied.target, occupied.run.run_id))[-1]
    assert last.kind == "compensation"
    assert "125 changes taken back; the table holds 100 rows with checksum" in last.body


async def test_taking_back_nothing_is_nothing_and_twice_is_once(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    before = occupied.dump()

    assert await occupied.undo(item) == Undone()
    await occupied.move(item)
    assert (await occupied.undo(item)).entries == 75
    assert await occupied.undo(item) == Undone()

    assert occupied.dump() == before


async def test_an_empty_partition_is_taken_back(occupied: Occupied) -> None:
    item = merging(where="t.id > 1000")
    await occupied.prepare(item)
    before = occupied.dump()
    await occupied.move(item)

    assert (await occupied.undo(item)).entries == 0

    assert occupied.dump() == before
    assert await ledger.phase_totals(occupied.target, occupied.run.run_id, 0) == {}


async def test_what_was_taken_back_can_be_merged_and_taken_back_again(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    before = occupied.dump()

    for attempt in (1, 2, 3):
        await occupied.move(item, attempt=attempt)
        await occupied.undo(item)

    assert occupied.dump() == before


async def test_a_phase_is_taken_back_and_the_earlier_one_stays(occupied: Occupied) -> None:
    occupied.phases = ["canary", "all"]
    item = merging(delete_missing=True, phases={"canary": "t.id % 2 = 0"})
    await occupied.prepare(item)
    at_start = occupied.dump()
    await occupied.move(item, phase="canary")
    at_canary = await occupied.rows()
    await occupied.move(item, phase="all")
    # The sequence may have moved on for good when rows are merged; only the last undo puts it back.

    undone = await occupied.undo(item, phase="all")
    assert await occupied.rows() == at_canary
    assert "125 rows" in undone.proof

    await occupied.undo(item, phase="canary")
    assert occupied.dump() == at_start


TYPES_AT_SOURCE = everything.TYPES + everything.create(primary_key=True).replace("everything", "given")
TYPES_AT_TARGET = everything.TYPES + everything.create(primary_key=True).replace("everything", "taken")


async def test_every_type_comes_back_as_it_was(occupied: Occupied) -> None:
    """Each row of the target is overwritten with other values of every type, or deleted, and comes back."""
    for connection, script in ((occupied.run.source, TYPES_AT_SOURCE), (occupied.target, TYPES_AT_TARGET)):
        await connection.execute("SET search_path = public, pg_temp")
        await connection.execute(script)
        await connection.execute("RESET search_path")
    choice = random.Random(4)
    texts = everything.rows(40, choice)
    shifted = [[str(number), *texts[(number + 1) % 40][1:]] for number in range(10, 60)][:40]
    for connection, table, rows in ((occupied.run.source, "given", shifted), (occupied.target, "taken", texts)):
        await connection.executemany(everything.insert().replace("everything", f"public.{table}"), rows)
    columns = [column("id", "integer")] + [
        column(
            name, kind if kind not in ("mood", "mood[]", "point3", "price", "word") else f"public.{kind}"
        ).model_copy(update={"category": "other"})
        for name, kind in everything.COLUMN_TYPES.items()
    ]
    item = merging(columns=columns, delete_missing=True).model_copy(update={"binary": False})
    await occupied.prepare(item, source="", target="")
    before = occupied.dump()

    outcome = await occupied.move(item)
    assert (outcome.inserted, outcome.updated, outcome.deleted) == (10, 30, 10)
    assert occupied.dump() != before
    undone = await occupied.undo(item)

    assert undone.entries == 50
    assert occupied.dump() == before


async def test_a_composite_key_finds_its_rows(occupied: Occupied) -> None:
    columns = [column("at", "timestamp with time zone"), column("label", "character(4)"), column("value", "integer")]
    item = merging(columns=columns, key=["at", "label"], delete_missing=True)
    table = (
        "CREATE TABLE public.{0} (at timestamptz, label char(4), value integer, PRIMARY KEY (at, label));"
        "INSERT INTO public.{0} VALUES "
    )
    await occupied.prepare(
        item,
        source=table.format("given") + "('2024-01-01 12:00+01', 'a', 1), ('infinity', 'b', 2)",
        target=table.format("taken") + "('2024-01-01 11:00+00', 'a', 7), ('0044-03-15 BC', 'it''s', NULL)",
    )
    before = occupied.dump()

    outcome = await occupied.move(item)
    assert (outcome.inserted, outcome.updated, outcome.deleted) == (1, 1, 1)
    await occupied.undo(item)

    assert occupied.dump() == before


async def test_a_table_that_points_at_itself_is_taken_back_in_one_batch(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "integer"), column("boss", "integer")], delete_missing=True)
    table = (
        "CREATE TABLE public.{0} (id integer PRIMARY KEY, boss integer REFERENCES public.{0}); INSERT INTO public.{0} "
    )
    await occupied.prepare(
        item,
        source=table.format("given") + "SELECT n, CASE WHEN n > 1 THEN 61 - n END FROM generate_series(1, 60) AS n",
        target=table.format("taken") + "SELECT n, nullif(n, 100) - n + 100 FROM generate_series(50, 100) AS n",
    )
    before = occupied.dump()

    outcome = await occupied.move(item)
    assert (outcome.inserted, outcome.updated, outcome.deleted) == (49, 11, 40)
    await occupied.undo(item)

    assert occupied.dump() == before


async def test_unique_values_that_wander_from_row_to_row_come_back(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "integer"), column("mail", "text")], delete_missing=True)
    table = "CREATE TABLE public.{0} (id integer PRIMARY KEY, mail text UNIQUE); INSERT INTO public.{0} VALUES "
    await occupied.prepare(
        item,
        source=table.format("given") + "(2, 'b'), (3, 'a'), (4, 'd')",
        target=table.format("taken") + "(1, 'a'), (2, 'b2'), (4, 'd')",
    )
    before = occupied.dump()

    await occupied.move(item)
    await occupied.undo(item)

    assert occupied.dump() == before


# Exactly once, whatever dies.


@pytest.mark.faults
async def test_an_undo_whose_backend_is_killed_again_and_again_takes_everything_back_once(
    occupied: Occupied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 100)
    item = merging(delete_missing=True)
    rows = "INSERT INTO public.{0} {1} SELECT n, '{2} ' || n, n FROM generate_series({3}) AS n;"
    await occupied.prepare(
        item,
        source="CREATE TABLE public.given (id integer PRIMARY KEY, name text, score numeric);"
        + rows.format("given", "", "new", "1000, 4000"),
        target=TAKEN + rows.format("taken", "(id, name, score) OVERRIDING SYSTEM VALUE", "old", "101, 3000"),
    )
    before = occupied.dump()
    await occupied.move(item)
    choice, kills = random.Random(7), 0
    killing: list[asyncio.Task[None]] = []
    async with occupied.run.reconnect() as killer:

        async def kill(after: float) -> None:
            await asyncio.sleep(after)
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'"
            await killer.execute(query)

        def on_progress(entries: int) -> None:
            """Somewhere in the batch after this one."""
            if kills < 8 and not killing:
                killing.append(asyncio.create_task(kill(choice.uniform(0, 0.03))))

        while True:
            connection = await occupied.run.open("victim")
            try:
                await occupied.undo(item, connection=connection, raised=False, on_progress=on_progress)
                break
            except TransientError:
                kills += 1
                await killing.pop()

    assert kills == 8
    assert occupied.dump() == before
    assert await occupied.log() == {}


async def test_two_undos_at_once_take_everything_back_once(occupied: Occupied) -> None:
    await merged(occupied)
    item = merging(delete_missing=True)
    other = await occupied.run.open("other")

    results = await asyncio.gather(
        occupied.undo(item, raised=False), occupied.undo(item, raised=False, connection=other), return_exceptions=True
    )

    # The later one ends the earlier one's backend: whoever lost is retried.
    assert all(isinstance(result, Undone | TransientError) for result in results)
    async with occupied.run.reconnect() as third:
        await occupied.undo(item, raised=False, connection=third)
        assert await third.fetchval("SELECT count(*) FROM public.taken WHERE note = 'theirs'") == 100
        assert await third.fetchval("SELECT count(*) FROM public.taken") == 100
        assert await third.fetchval("SELECT sum(entries) FROM knarr.undone") == 125


async def test_a_stale_writer_takes_nothing_back(occupied: Occupied) -> None:
    await merged(occupied)
    await lease.raise_epoch(occupied.target, occupied.run.run_id)

    with pytest.raises(LostLease):
        await occupied.undo(merging(delete_missing=True), raised=False)

    assert await occupied.log() == {"insert": 50, "update": 25, "delete": 50}


# Sequences.


async def surrogate(occupied: Occupied) -> list[str]:
    """A merge by a natural key into a table whose own id is drawn from a sequence."""
    item = merging(columns=[column("name", "text")], key=["name"])
    await occupied.prepare(
        item,
        target="CREATE TABLE public.taken (id serial PRIMARY KEY, name text NOT NULL UNIQUE);"
        "INSERT INTO public.taken (name) SELECT 'new ' || n FROM generate_series(41, 60) AS n",
    )
    before = occupied.dump()
    await occupied.move(item)
    assert await occupied.target.fetchval("SELECT max(id) FROM public.taken") == 110
    return before


async def test_a_sequence_that_the_merge_drew_from_stands_where_it_stood(occupied: Occupied) -> None:
    before = await surrogate(occupied)

    await occupied.undo(merging(columns=[column("name", "text")], key=["name"]))

    assert occupied.dump() == before


async def test_a_sequence_that_others_drew_from_since_stays(occupied: Occupied) -> None:
    await surrogate(occupied)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("INSERT INTO public.taken (name) VALUES ('guest')")

    await occupied.undo(merging(columns=[column("name", "text")], key=["name"]))

    assert await occupied.target.fetchval("SELECT last_value FROM public.taken_id_seq") == 111
    assert "sequences that others may have drawn from stay" in (await chain.read(occupied.target, "run-1"))[-1].body


async def test_dropping_the_log_drops_it_in_batches(occupied: Occupied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo_log.DROP_BATCH", 10)
    await merged(occupied)

    assert await drop_undo_log(occupied.target, occupied.run.lease, occupied.run.run_id) == 125
    assert await drop_undo_log(occupied.target, occupied.run.lease, occupied.run.run_id) == 0


async def test_old_statistics_do_not_make_it_slow(occupied: Occupied, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned for tables that were small, each entry was looked for by walking through all: minutes for this."""
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 10_000)
    item = merging()
    await occupied.prepare(
        item,
        source="CREATE TABLE public.given (id integer PRIMARY KEY, name text, score numeric);"
        "INSERT INTO public.given SELECT n, 'new ' || n, n FROM generate_series(90, 20000) AS n",
    )
    before = await occupied.rows()
    await occupied.target.execute("VACUUM ANALYZE public.taken")
    await occupied.target.execute("VACUUM ANALYZE knarr.undo")
    await occupied.move(item)

    async with asyncio.timeout(30):
        undone = await occupied.undo(item)

    assert undone.entries == 19_911
    assert await occupied.rows() == before
