"""What the run makes on the target it records, and takes back exactly; what it did not make it leaves alone."""

import asyncio

import pytest

from knarr.audit import chain
from knarr.errors import DataError, LostLease, PlanError, TransientError
from knarr.plan.models import Limits
from knarr.plan.resolved import DatabaseObject, Stage
from knarr.postgres import lease, objects
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from tests.postgres.specimens import Run, column, mapping

SCHEMA = DatabaseObject(
    kind="schema",
    name='od"d',
    stage="before",
    create='CREATE SCHEMA "od""d"',
    drop='DROP SCHEMA IF EXISTS "od""d"',
    probe="SELECT 1 FROM pg_namespace WHERE nspname = 'od\"d'",
)
TABLE = DatabaseObject(
    kind="table",
    name="public.taken",
    stage="table",
    create="CREATE TABLE public.taken (id integer)",
    drop="DROP TABLE IF EXISTS public.taken",
    probe="SELECT 1 WHERE to_regclass('public.taken') IS NOT NULL",
)
KEY = DatabaseObject(
    kind="primary key",
    name="taken_pkey on public.taken\nand more",
    stage="keys",
    create="ALTER TABLE public.taken ADD CONSTRAINT taken_pkey PRIMARY KEY (id)",
    drop="ALTER TABLE IF EXISTS public.taken DROP CONSTRAINT IF EXISTS taken_pkey",
    probe="SELECT 1 FROM pg_constraint WHERE conname = 'taken_pkey'",
)
BEFORE_AND_TABLE: list[Stage] = ["before", "table"]


async def standing(connection: Connection) -> list[str]:
    rows = await connection.fetch("SELECT name FROM knarr.object ORDER BY sequence")
    return [row["name"] for row in rows]


async def test_objects_are_made_once_and_dropped_once(run: Run) -> None:
    wanted = [TABLE, KEY]

    assert await objects.create_objects(run.target, run.lease, run.run_id, 0, wanted) == 2
    assert await objects.create_objects(run.target, run.lease, run.run_id, 0, wanted) == 0
    assert await standing(run.target) == [TABLE.name, KEY.name]
    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table", "keys"]) == 2
    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table", "keys"]) == 0

    assert await standing(run.target) == []
    assert await run.target.fetchval("SELECT to_regclass('public.taken') IS NULL")
    kinds = [entry.kind for entry in await chain.read(run.target, run.run_id)]
    assert kinds == ["run started", "step", "step", "compensation", "compensation"]


async def test_the_newest_object_is_dropped_first(run: Run) -> None:
    inside = TABLE.model_copy(
        update={
            "name": "inside",
            "stage": "before",
            "create": 'CREATE TABLE "od""d".inside ()',
            "drop": 'DROP TABLE IF EXISTS "od""d".inside',
        }
    )
    await objects.create_objects(run.target, run.lease, run.run_id, objects.OF_THE_RUN, [SCHEMA, inside])

    assert await objects.drop_objects(run.target, run.lease, run.run_id, objects.OF_THE_RUN, ["before"]) == 2

    assert not await run.target.fetch(SCHEMA.probe)


async def test_only_the_asked_stages_are_dropped(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE, KEY])

    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["keys"]) == 1

    assert await standing(run.target) == [TABLE.name]
    assert not await run.target.fetch(KEY.probe)


async def test_an_object_that_is_in_the_way_is_left_alone(run: Run) -> None:
    await run.target.execute("CREATE TABLE public.taken (precious text); INSERT INTO public.taken VALUES ('x')")

    with pytest.raises(DataError, match=r"table public\.taken is in the way"):
        await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE])
    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"]) == 0

    assert await run.target.fetchval("SELECT precious FROM public.taken") == "x"


async def test_a_statement_that_fails_leaves_no_record(run: Run) -> None:
    broken = TABLE.model_copy(update={"create": "CREATE TABLE public.taken (id nonsense)"})

    with pytest.raises(PlanError, match=r'creating table public\.taken: type "nonsense" does not exist'):
        await objects.create_objects(run.target, run.lease, run.run_id, 0, [broken])

    assert await standing(run.target) == []


async def test_rows_that_do_not_meet_a_constraint_are_a_data_error(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE])
    await run.target.execute("INSERT INTO public.taken VALUES (1), (1)")

    with pytest.raises(DataError) as refused:
        await objects.create_objects(run.target, run.lease, run.run_id, 0, [KEY])

    assert refused.value.sqlstate == "23505"
    assert "unique violation" in str(refused.value) and 'table "taken"' in str(refused.value)
    assert "Key (id)=(1) is duplicated" in refused.value.detail and "(1)" not in str(refused.value)


async def test_dropping_holds_when_somebody_else_dropped_it(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE, KEY])
    await run.target.execute("DROP TABLE public.taken")

    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table", "keys"]) == 2


async def test_a_schema_that_others_use_is_not_dropped(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, objects.OF_THE_RUN, [SCHEMA])
    await run.target.execute('CREATE TABLE "od""d".guest ()')

    with pytest.raises(PlanError, match="other objects depend on it"):
        await objects.drop_objects(run.target, run.lease, run.run_id, objects.OF_THE_RUN, BEFORE_AND_TABLE)
    assert await standing(run.target) == [SCHEMA.name]

    await run.target.execute('DROP TABLE "od""d".guest')
    assert await objects.drop_objects(run.target, run.lease, run.run_id, objects.OF_THE_RUN, BEFORE_AND_TABLE) == 1


async def test_a_table_that_a_view_needs_is_not_dropped(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE])
    await run.target.execute("CREATE VIEW public.guest AS SELECT * FROM public.taken")

    with pytest.raises(PlanError, match=r"view (public\.)?guest depends on table"):
        await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"])


async def made_with_rows(run: Run, rows: str = "VALUES (1), (2)") -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE])
    await run.target.execute(f"INSERT INTO public.taken {rows}")


@pytest.mark.parametrize("changed_since", ["stop", "keep theirs"])
async def test_a_table_that_holds_rows_is_not_dropped(changed_since: ChangedSince, run: Run) -> None:
    await made_with_rows(run)

    with pytest.raises(DataError, match=r"public\.taken is not dropped: it holds 2 rows that the run has not") as left:
        await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"], changed_since=changed_since)

    assert "SELECT knarr.decide('run-1', 'public.taken', 'restore ours', WHO, WHY)" in left.value.hint
    assert await standing(run.target) == [TABLE.name]
    await run.target.execute("CREATE TABLE public.elsewhere AS TABLE public.taken; DELETE FROM public.taken")
    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"], changed_since=changed_since) == 1
    assert await run.target.fetchval("SELECT count(*) FROM public.elsewhere") == 2


@pytest.mark.parametrize("by", ["the plan", "a person"])
async def test_a_table_goes_with_rows_of_others_by_decision_and_the_trail_says_so(by: str, run: Run) -> None:
    await made_with_rows(run)
    if by == "a person":
        await run.store(mapping([column("id", "integer")]))
        await run.target.execute("SELECT knarr.decide($1, NULL, 'restore ours', 'ann', 'agreed')", run.run_id)
    planned: ChangedSince = "restore ours" if by == "the plan" else "stop"

    assert await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"], changed_since=planned) == 1

    assert await run.target.fetchval("SELECT to_regclass('public.taken') IS NULL")
    told = [entry.body for entry in await chain.read(run.target, run.run_id) if entry.kind == "decision"]
    assert ["public.taken was dropped with 2 rows that others had written" in body for body in told] == [True]


async def test_a_row_that_comes_while_the_table_is_to_be_dropped_is_seen(run: Run) -> None:
    await made_with_rows(run, "SELECT 1 WHERE false")
    writer = await run.open("writer")
    await writer.execute("BEGIN; INSERT INTO public.taken VALUES (1)")

    dropping = asyncio.create_task(objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"]))
    while not await writer.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.02)
    await writer.execute("COMMIT")

    with pytest.raises(DataError, match="it holds 1 row that"):
        await dropping


async def test_rows_in_a_table_that_inherits_keep_it_from_being_dropped(run: Run) -> None:
    await made_with_rows(run, "SELECT 1 WHERE false")
    await run.target.execute("CREATE TABLE public.heir () INHERITS (public.taken); INSERT INTO public.heir VALUES (7)")

    with pytest.raises(DataError, match="it holds 1 row that"):
        await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"])


async def test_a_stale_writer_makes_and_drops_nothing(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE])
    raised = await lease.raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease):
        await objects.create_objects(run.target, run.lease, run.run_id, 0, [KEY])
    with pytest.raises(LostLease):
        await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"])

    assert await standing(run.target) == [TABLE.name]
    assert await objects.drop_objects(run.target, raised, run.run_id, 0, ["table"]) == 1


async def test_a_lock_that_is_not_to_be_had_is_transient(run: Run) -> None:
    await objects.create_objects(run.target, run.lease, run.run_id, 0, [TABLE])
    blocker = await run.open("blocker")
    await blocker.execute("BEGIN; LOCK TABLE public.taken IN ACCESS SHARE MODE")

    with pytest.raises(TransientError) as waited:
        await objects.drop_objects(run.target, run.lease, run.run_id, 0, ["table"], limits=Limits(lock_timeout="200ms"))

    assert waited.value.sqlstate == "55P03"
    assert await standing(run.target) == [TABLE.name]


async def test_a_table_is_analysed(run: Run) -> None:
    await run.target.execute("CREATE TABLE public.taken AS SELECT generate_series(1, 500) AS id")

    await objects.analyze(run.target, run.lease, mapping([column("id", "integer")]))

    assert await run.target.fetchval("SELECT reltuples FROM pg_class WHERE oid = 'public.taken'::regclass") == 500
