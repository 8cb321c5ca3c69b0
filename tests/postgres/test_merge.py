"""Appending to a table that has rows and merging into it: what becomes of every row, and what the undo log says."""

import pytest

from knarr.audit import chain
from knarr.errors import DataError, LostLease, PlanError
from knarr.plan.resolved import Partition
from knarr.postgres import lease, ledger
from tests.postgres.occupied import CITIES, Occupied, merging
from tests.postgres.specimens import column


async def test_a_merge_inserts_what_is_new_and_updates_only_what_differs(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    untouched = await occupied.target.fetch("SELECT id, ctid FROM public.taken WHERE id <= 75 ORDER BY id")

    outcome = await occupied.move(item)

    assert (outcome.rows, outcome.inserted, outcome.updated, outcome.deleted) == (100, 50, 25, 0)
    assert await occupied.rows("id, name, score, note, twice", "id IN (75, 80, 81, 150)") == [
        (75, "new 75", None, "theirs", None),
        (80, "new 80", None, "theirs", None),
        (81, "new 81", 81, "theirs", 162),
        (150, "new 150", None, "ours", None),
    ]
    assert await occupied.target.fetch("SELECT id, ctid FROM public.taken WHERE id <= 75 ORDER BY id") == untouched
    assert await occupied.log() == {"insert": 50, "update": 25}


async def test_the_undo_log_and_the_ledger_tell_what_was_done(occupied: Occupied) -> None:
    item = merging(delete_missing=True)
    await occupied.prepare(item)

    await occupied.move(item)

    [entry] = await occupied.target.fetch("SELECT * FROM knarr.undo WHERE key = '{80}'")
    assert (entry["operation"], entry["before"]) == ("update", '(80,"old 80",80.50,theirs,161.00)')
    assert entry["left_hash"] == await occupied.target.fetchval(
        'SELECT hashtextextended(t::text COLLATE "C", 0) FROM public.taken AS t WHERE id = 80'
    )
    [row] = await ledger.read_phase(occupied.target, occupied.run.run_id, 0, "all")
    assert (row.rows, row.inserted, row.updated, row.deleted) == (100, 50, 25, 50)
    body = (await chain.read(occupied.target, occupied.run.run_id))[-1].body
    assert '"deleted":50,"inserted":50' in body
    assert '"updated":25' in body


async def test_a_partition_that_is_merged_again_is_merged_once(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    first = await occupied.move(item)

    again = await occupied.move(item, attempt=2)

    assert again.already_done
    assert (again.rows, again.inserted, again.updated) == (first.rows, first.inserted, first.updated)
    assert await occupied.log() == {"insert": 50, "update": 25}


async def test_what_the_source_no_longer_has_is_deleted_within_the_partition_and_the_scope(occupied: Occupied) -> None:
    item = merging(delete_missing=True, scope="note <> 'kept' -- theirs and ours")
    pieces = [
        Partition(mapping=0, number=0, lower=None, upper=["40"], estimated_rows=0),
        Partition(mapping=0, number=1, lower=["40"], upper=None, estimated_rows=0),
    ]
    await occupied.prepare(item, pieces=pieces)
    await occupied.target.execute("UPDATE public.taken SET note = 'kept' WHERE id IN (7, 45)")

    first = await occupied.move(item, partition=pieces[0])
    assert (first.rows, first.deleted) == (0, 38)
    assert [row[0] for row in await occupied.rows("id", "id <= 50")] == [7, *range(40, 51)]

    second = await occupied.move(item, partition=pieces[1])
    assert (second.rows, second.deleted) == (100, 10)
    assert [row[0] for row in await occupied.rows("id")] == [7, 45, *range(51, 151)]


async def test_an_empty_partition_changes_nothing(occupied: Occupied) -> None:
    item = merging(where="t.id > 1000")
    await occupied.prepare(item)
    before = occupied.dump()

    outcome = await occupied.move(item)

    assert (outcome.rows, outcome.inserted, outcome.updated) == (0, 0, 0)
    assert occupied.dump() == before
    assert await ledger.missing_partitions(occupied.target, occupied.run.run_id, 0, "all") == []


async def test_appending_adds_rows_whose_keys_are_new(occupied: Occupied) -> None:
    item = merging(mode="append", where="t.id > 100")
    await occupied.prepare(item)

    outcome = await occupied.move(item)

    assert (outcome.rows, outcome.inserted, outcome.updated) == (50, 50, 0)
    assert len(await occupied.rows("id")) == 150


async def test_a_key_to_append_that_is_there_is_named_and_nothing_is_written(occupied: Occupied) -> None:
    item = merging(mode="append")
    await occupied.prepare(item)
    before = occupied.dump()

    with pytest.raises(DataError, match=r"(?m)50 keys to append are in public\.taken already$") as refused:
        await occupied.move(item)

    assert "(51)" not in str(refused.value)
    assert "already: (51), (52), " in refused.value.detail and "and 45 more" in refused.value.detail
    assert occupied.dump() == before
    assert await occupied.log() == {}
    assert await ledger.phase_totals(occupied.target, occupied.run.run_id, 0) == {}


PAIRS = """
CREATE TABLE public.{name} (shop text, number integer, item jsonb, "a""b" float8, PRIMARY KEY (shop, number));
INSERT INTO public.{name} VALUES {rows};
"""
PAIR_COLUMNS = [
    column("shop", "text"),
    column("number", "integer"),
    column("item", "jsonb"),
    column('a"b', "double precision", expression='t."a""b"'),
]


async def test_a_composite_key_is_one_key(occupied: Occupied) -> None:
    item = merging(columns=PAIR_COLUMNS, key=["shop", "number"], delete_missing=True)
    pieces = [
        Partition(mapping=0, number=0, lower=None, upper=["b", "2"], estimated_rows=0),
        Partition(mapping=0, number=1, lower=["b", "2"], upper=None, estimated_rows=0),
    ]
    given = PAIRS.format(name="given", rows="""('a', 1, '{}', 1), ('a', 2, NULL, NULL), ('b', 2, '[1]', 0)""")
    taken = PAIRS.format(
        name="taken", rows="""('a', 1, '{}', 1), ('a', 3, '3', 3), ('b', 1, '1', 1), ('b', 2, '[1]', '-0')"""
    )
    await occupied.prepare(item, pieces=pieces, source=given, target=taken)

    outcomes = [await occupied.move(item, partition=piece) for piece in pieces]

    assert [(one.inserted, one.updated, one.deleted) for one in outcomes] == [(1, 0, 2), (0, 1, 0)]
    assert await occupied.rows('shop, number, item, "a""b"::text') == [
        ("a", 1, "{}", "1"),
        ("a", 2, None, None),
        ("b", 2, "[1]", "0"),
    ]


async def test_null_and_a_value_differ_and_null_and_null_do_not(occupied: Occupied) -> None:
    columns = [column("id", "integer"), column("value", "json")]
    item = merging(columns=columns)
    table = "CREATE TABLE public.{} (id integer PRIMARY KEY, value json); INSERT INTO public.{} VALUES {}"
    await occupied.prepare(
        item,
        source=table.format("given", "given", "(1, NULL), (2, NULL), (3, '{}'), (4, '{ }')"),
        target=table.format("taken", "taken", "(1, NULL), (2, '0'), (3, NULL), (4, '{}')"),
    )

    outcome = await occupied.move(item)

    assert outcome.updated == 3
    assert await occupied.rows("id, value") == [(1, None), (2, None), (3, "{}"), (4, "{ }")]


async def test_values_that_are_equal_and_not_the_same_are_brought_over(occupied: Occupied) -> None:
    columns = [column("id", "integer"), column("value", "numeric"), column("length", "interval")]
    item = merging(columns=columns)
    table = "CREATE TABLE public.{0} (id integer PRIMARY KEY, value numeric, length interval); INSERT INTO public.{0} "
    await occupied.prepare(
        item,
        source=table.format("given") + "VALUES (1, 1.00, '1 mon'), (2, 2, '30 days')",
        target=table.format("taken") + "VALUES (1, 1.0, '1 mon'), (2, 2, '1 mon')",
    )

    assert (await occupied.move(item)).updated == 2


async def test_a_mapping_that_is_nothing_but_its_key_updates_nothing(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "bigint", source_type="integer")])
    await occupied.prepare(item)

    outcome = await occupied.move(item)

    assert (outcome.inserted, outcome.updated) == (50, 0)


async def test_a_key_that_comes_twice_is_a_finding(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "bigint", expression="t.id / 2", source_type="integer")])
    await occupied.prepare(item)

    with pytest.raises(DataError, match=r'unique violation .*table "knarr_staged", constraint "knarr_staged_pkey"'):
        await occupied.move(item)


async def test_a_key_that_is_null_is_a_finding(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "bigint", expression="nullif(t.id, 60)", source_type="integer")])
    await occupied.prepare(item)

    with pytest.raises(DataError, match=r'not null violation .*table "knarr_staged", column "id"'):
        await occupied.move(item)


async def test_a_row_that_the_target_does_not_take_leaves_nothing_behind(occupied: Occupied) -> None:
    item = merging(columns=[column("id", "bigint", source_type="integer"), column("name", "character varying(40)")])
    await occupied.prepare(item, source=CITIES + "UPDATE public.given SET name = repeat('x', 41) WHERE id = 120")
    before = occupied.dump()

    with pytest.raises(DataError, match="string data right truncation"):
        await occupied.move(item)

    assert occupied.dump() == before


async def test_a_row_of_somebody_elses_scope_is_not_overwritten(occupied: Occupied) -> None:
    item = merging(scope="note <> 'theirs'")
    await occupied.prepare(item)

    with pytest.raises(DataError, match=r"(?m)not in the mapping's scope \(50 rows\)$") as refused:
        await occupied.move(item)

    assert "(50 rows): (51), " in refused.value.detail


async def test_a_row_that_would_leave_the_scope_is_a_finding(occupied: Occupied) -> None:
    item = merging(scope="id < 140")
    await occupied.prepare(item)

    with pytest.raises(DataError, match=r"(?m)do not meet the mapping's scope .*\(11 rows\)$") as refused:
        await occupied.move(item)

    assert "(11 rows): (140), " in refused.value.detail


async def test_a_stale_writer_merges_nothing(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await lease.raise_epoch(occupied.target, occupied.run.run_id)

    with pytest.raises(LostLease):
        await occupied.move(item)

    assert await occupied.log() == {}


async def test_a_merge_needs_a_key(occupied: Occupied) -> None:
    item = merging().model_copy(update={"key": []})
    await occupied.prepare(item)

    with pytest.raises(PlanError, match="has no key"):
        await occupied.move(item)


async def test_phases_add_up_and_only_the_last_deletes(occupied: Occupied) -> None:
    occupied.phases = ["canary", "all"]
    item = merging(delete_missing=True, phases={"canary": "t.id % 2 = 0"})
    await occupied.prepare(item)

    first = await occupied.move(item, phase="canary")
    second = await occupied.move(item, phase="all")

    assert (first.rows, first.inserted, first.updated, first.deleted) == (50, 25, 13, 0)
    assert (second.inserted, second.updated, second.deleted) == (25, 12, 50)
    assert [row[0] for row in await occupied.rows("id")] == list(range(51, 151))


async def test_a_table_that_points_at_itself_takes_a_child_with_its_parent(occupied: Occupied) -> None:
    columns = [column("id", "integer"), column("boss", "integer")]
    item = merging(columns=columns)
    table = (
        "CREATE TABLE public.{0} (id integer PRIMARY KEY, boss integer REFERENCES public.{0}); INSERT INTO public.{0} "
    )
    await occupied.prepare(
        item,
        source=table.format("given") + "VALUES (1, 3), (2, 1), (3, NULL)",
        target=table.format("taken") + "VALUES (1, NULL)",
    )

    outcome = await occupied.move(item)

    assert (outcome.inserted, outcome.updated) == (2, 1)


async def test_a_transform_runs_before_the_rows_are_staged(
    occupied: Occupied, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "shout_rows.py").write_text(
        "def shout(rows):\n    return [row | {'name': row['name'].upper()} for row in rows]\n"
    )
    item = merging().model_copy(update={"transform": "shout_rows:shout", "transform_columns": ["name"]})
    await occupied.prepare(item)

    await occupied.move(item, plan_folder=folder)

    assert await occupied.rows("id, name", "id = 150") == [(150, "NEW 150")]
