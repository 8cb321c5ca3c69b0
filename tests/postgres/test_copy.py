"""A partition arrives once, whole and unchanged, or not at all."""

import pytest

from knarr.audit import chain
from knarr.errors import DataError, LostLease, PlanError
from knarr.plan.resolved import Partition
from knarr.postgres import lease, ledger
from knarr.postgres.session import connect
from tests.postgres.specimens import Run, column, dsn_of, mapping

TYPES = {
    "a": "integer", "b": "bigint", "c": "smallint", "d": "numeric(20,5)", "e": "double precision", "f": "text",
    "g": "character varying(20)", "h": "character(6)", "i": "bytea", "j": "uuid", "k": "timestamp with time zone",
    "l": "date", "m": "interval", "n": "jsonb", "o": "json", "p": "text[]", "q": "integer[]", "r": "boolean",
    "s": "inet", "t": "bit(3)", "u": "time without time zone", "v": "int4range", "w": "real",
}  # fmt: skip
ROWS = [
    """(1, 9223372036854775807, -32768, 12345.67890, 'NaN', E'tab\\t\\nline\\\\ back \\\\N', 'x', 'ab', '\\xdeadbeef',
        '00000000-0000-0000-0000-000000000001', 'infinity', '0044-03-15 BC', '1 mon -3 days 04:05:06.7',
        '{"a": [1.50, null]}', '{"b":  2, "a": 1}', '{a,"b,c",NULL,""}', '{}', true, '10.0.0.1/8', '101', '24:00',
        '[1,5)', 0.1)""",
    "(2" + ", NULL" * 22 + ")",
    "(3, 0, 0, 'NaN', '-0', '', '', '', '', NULL, '-infinity', 'infinity', '0', 'null', 'null', NULL,"
    " '{{1,2},{3,NULL}}', false, '::1', '000', '00:00', 'empty', '-Infinity')",
]


async def make(run: Run, *, rows: int = 0) -> None:
    """A table of two columns on both sides."""
    for side in (run.source, run.target):
        await side.execute(f"CREATE TABLE public.{'given' if side is run.source else 'taken'} (id integer, name text)")
    await run.source.execute(
        "INSERT INTO public.given SELECT n, repeat('x', 50) || n FROM generate_series(1, $1::int) AS n", rows
    )


NARROW = mapping([column("id", "integer"), column("name", "text")], key=["id"])


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
async def test_every_type_arrives_unchanged(binary: bool, run: Run) -> None:
    item = mapping([column(name, kind) for name, kind in TYPES.items()], key=["a"], binary=binary)
    columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    await run.source.execute(f"CREATE TABLE public.given ({columns})")
    await run.target.execute(f"CREATE TABLE public.taken ({columns})")
    for row in ROWS:
        await run.source.execute(f"INSERT INTO public.given VALUES {row}")
    await run.store(item)

    outcome = await run.copy(run.job(item))

    assert outcome.rows == len(ROWS)
    shown = "SELECT t::text FROM public.{} AS t ORDER BY a"
    given = [row[0] for row in await run.source.fetch(shown.format("given"))]
    assert [row[0] for row in await run.target.fetch(shown.format("taken"))] == given


async def test_columns_are_cast_renamed_and_put_in_the_targets_order(run: Run) -> None:
    await run.source.execute(
        "CREATE TYPE public.colour AS ENUM ('red', 'blue');"
        "CREATE TABLE public.given (n integer, c public.colour, t text);"
        "INSERT INTO public.given VALUES (7, 'blue', ' x $1 '), (8, NULL, NULL)"
    )
    await run.target.execute(
        "CREATE TYPE public.hue AS ENUM ('blue', 'red');"
        "CREATE TABLE public.taken (extra text DEFAULT 'kept', \"The Hue\" public.hue, id bigint, note text)"
    )
    columns = [
        column("The Hue", "public.hue", expression="t.c", source_type="public.colour", category="enum"),
        column("id", "bigint", expression="t.n * 2", source_type="integer"),
        column("note", "text", expression="trim(t.t) || '$2'"),
    ]
    items = [mapping(columns, key=["id"], binary=bool(number), number=number) for number in (0, 1)]
    await run.store(*items)

    for item in items:
        await run.copy(run.job(item))

    rows = [tuple(row) for row in await run.target.fetch('SELECT extra, "The Hue"::text, id, note FROM public.taken')]
    assert rows == [("kept", "blue", 14, "x $1$2"), ("kept", None, 16, None)] * 2


async def test_a_copy_made_again_returns_the_ledgers_answer_and_touches_nothing(run: Run) -> None:
    await make(run, rows=1000)
    await run.store(NARROW)

    first = await run.copy(run.job(NARROW))
    again = await run.copy(run.job(NARROW, attempt=2))

    assert (first.rows, first.already_done, again.already_done) == (1000, False, True)
    assert (again.rows, again.bytes, again.seconds) == (first.rows, first.bytes, first.seconds)
    assert await run.target.fetchval("SELECT count(*) FROM public.taken") == 1000
    row = await ledger.read_row(run.target, run.run_id, 0, "all", 0)
    assert row is not None
    assert (row.rows, row.attempt, row.epoch) == (1000, 1, 1)


async def test_a_copy_is_audited_in_its_own_transaction(run: Run) -> None:
    await make(run, rows=10)
    await run.store(NARROW)

    outcome = await run.copy(run.job(NARROW))

    entries = await chain.read(run.target, run.run_id)
    assert [entry.kind for entry in entries] == ["run started", "copy"]
    assert '"rows":10' in entries[-1].body
    assert (outcome.audit_position, outcome.audit_digest) == (entries[-1].position, entries[-1].digest)


async def test_only_the_partitions_and_the_phases_rows_are_taken(run: Run) -> None:
    await make(run, rows=100)
    item = mapping(NARROW.columns, key=["id"], where="t.id <= 90", phases={"canary": "t.id % 10 = 0"})
    pieces = [
        Partition(mapping=0, number=0, lower=None, upper=["41"], estimated_rows=0),
        Partition(mapping=0, number=1, lower=["41"], upper=None, estimated_rows=0),
    ]
    await run.store(item, pieces=pieces)
    order = ["canary", "everyone"]

    rows = {
        (phase, piece.number): (await run.copy(run.job(item, phase=phase, phase_order=order, partition=piece))).rows
        for phase in order
        for piece in pieces
    }

    assert rows == {("canary", 0): 4, ("canary", 1): 5, ("everyone", 0): 36, ("everyone", 1): 45}
    found = await run.target.fetch("SELECT id FROM public.taken ORDER BY id")
    assert [row["id"] for row in found] == list(range(1, 91))
    assert await ledger.missing_partitions(run.target, run.run_id, 0, "everyone") == []


async def test_a_phase_without_rows_of_a_mapping_leaves_an_empty_ledger_row(run: Run) -> None:
    await make(run, rows=10)
    await run.store(NARROW)

    outcome = await run.copy(run.job(NARROW, phase="canary", phase_order=["canary", "everyone"]))

    assert outcome.rows == 0
    assert await run.target.fetchval("SELECT count(*) FROM public.taken") == 0


async def test_progress_is_told_in_bytes_and_at_last_in_rows(run: Run) -> None:
    await make(run, rows=20_000)
    await run.store(NARROW)
    told: list[tuple[int, int]] = []

    outcome = await run.copy(run.job(NARROW), on_progress=lambda rows, size: told.append((rows, size)))

    assert told[-1] == (20_000, outcome.bytes)
    assert len(told) > 3
    assert all(rows == 0 for rows, _ in told[:-1])
    assert [size for _, size in told] == sorted(size for _, size in told)


async def test_a_row_that_the_target_refuses_stops_the_copy_and_leaves_nothing(run: Run) -> None:
    await make(run, rows=1000)
    await run.target.execute("ALTER TABLE public.taken ADD CHECK (id <> 777)")
    await run.store(NARROW)

    with pytest.raises(DataError) as refused:
        await run.copy(run.job(NARROW))

    assert refused.value.sqlstate == "23514"
    assert "copying public.taken, phase all, partition 1: writing on the target" in str(refused.value)
    assert "check violation (SQLSTATE 23514): " in str(refused.value)
    assert 'table "taken", constraint "taken_id_check"' in str(refused.value)
    assert "COPY taken, line 777" in str(refused.value)
    assert "777," not in str(refused.value)
    assert "Failing row contains (777, " in refused.value.detail
    check = await run.open("check")
    assert await check.fetchval("SELECT count(*) FROM public.taken") == 0
    assert await check.fetchval("SELECT count(*) FROM knarr.ledger") == 0
    assert [entry.kind for entry in await chain.read(check, run.run_id)] == ["run started"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize(
    ("poison", "sqlstate", "found"),
    [
        ("UPDATE public.given SET name = NULL WHERE id = 777", "23502", [(777,)]),
        ("INSERT INTO public.given VALUES (777, 'b')", "23505", [(777, 2)]),
        ("UPDATE public.given SET name = repeat('x', 61) WHERE id = 777", "22001", [(777,)]),
    ],
)
async def test_a_poisoned_row_is_not_told_but_found_by_the_query_that_is(
    poison: str, sqlstate: str, found: list[tuple[object, ...]], binary: bool, run: Run
) -> None:
    await make(run, rows=1000)
    await run.source.execute(poison)
    await run.target.execute(
        "ALTER TABLE public.taken ADD PRIMARY KEY (id), ALTER name SET NOT NULL, ALTER name TYPE varchar(60)"
    )
    columns = [column("id", "integer"), column("name", "character varying(60)", source_type="text")]
    item = mapping(columns, key=["id"], binary=binary, where="t.id > 0")
    await run.store(item)

    with pytest.raises(DataError) as refused:
        await run.copy(run.job(item))

    assert refused.value.sqlstate == sqlstate
    assert "777" not in str(refused.value).replace("line 777", "")
    query = refused.value.hint.partition("this finds the rows: ")[2]
    other = await connect(await dsn_of(run.source), application_name="somebody on duty")
    assert [tuple(row) for row in await other.fetch(query)] == found
    await other.close()


async def test_a_value_that_is_too_long_is_refused_and_not_cut(run: Run) -> None:
    for side, kind in (
        (run.source, "given (id integer, name text)"),
        (run.target, "taken (id integer, name varchar(3))"),
    ):
        await side.execute(f"CREATE TABLE public.{kind}")
    await run.source.execute("INSERT INTO public.given VALUES (1, 'four')")
    item = mapping([column("id", "integer"), column("name", "character varying(3)", source_type="text")], key=["id"])
    await run.store(item)

    with pytest.raises(DataError, match="string data right truncation"):
        await run.copy(run.job(item))


async def test_an_expression_that_fails_on_a_row_is_the_sources_fault_and_leaves_nothing(run: Run) -> None:
    await make(run, rows=50_000)
    item = mapping([column("id", "integer", expression="1 / (t.id - 40000)"), column("name", "text")], key=["id"])
    await run.store(item)

    with pytest.raises(DataError) as failed:
        await run.copy(run.job(item))

    assert "reading from the source: division by zero" in str(failed.value)
    check = await run.open("check")
    assert await check.fetchval("SELECT count(*) FROM public.taken") == 0
    assert await check.fetchval("SELECT count(*) FROM knarr.ledger") == 0


async def test_a_trigger_that_leaves_a_row_out_is_found(run: Run) -> None:
    await make(run, rows=10)
    await run.target.execute(
        "CREATE FUNCTION public.skip() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RETURN CASE WHEN NEW.id = 5 THEN NULL ELSE NEW END; END$$;"
        "CREATE TRIGGER skip BEFORE INSERT ON public.taken FOR EACH ROW EXECUTE FUNCTION public.skip()"
    )
    await run.store(NARROW)

    with pytest.raises(DataError, match="the source gave 10 rows, the target took 9"):
        await run.copy(run.job(NARROW))

    check = await run.open("check")
    assert await check.fetchval("SELECT count(*) FROM public.taken") == 0


async def test_a_table_that_is_not_there_is_a_plan_error(run: Run) -> None:
    await make(run, rows=10)
    await run.target.execute("DROP TABLE public.taken")
    await run.store(NARROW)

    with pytest.raises(PlanError, match="undefined table"):
        await run.copy(run.job(NARROW))


async def test_a_copy_with_an_old_epoch_writes_nothing(run: Run) -> None:
    await make(run, rows=10)
    await run.store(NARROW)
    await lease.raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease):
        await run.copy(run.job(NARROW))

    check = await run.open("check")
    assert await check.fetchval("SELECT count(*) FROM public.taken") == 0


async def test_the_source_is_read_in_a_snapshot_and_not_written(run: Run) -> None:
    await make(run, rows=100)
    await run.store(NARROW)
    query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    before = await run.source.fetchval(query)

    await run.copy(run.job(NARROW))

    assert await run.source.fetchval(query) == before
