"""Of which mappings row versions tell everything, and of which they do not."""

import pytest

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import parse_tree
from knarr.postgres.session import Connection, connect
from knarr.verify.models import CheckResult
from knarr.verify.parity import compare_partition
from knarr.verify.since import Baseline, unchanged, why_not
from tests.verify.tables import WHOLE, resolve

TABLE = "CREATE TABLE thing (id integer PRIMARY KEY, name text, born date)"
FROM = '"public"."thing" AS "thing"'


async def mapped(source: Connection, target: Connection, **changes: object) -> ResolvedMapping:
    mapping = await resolve(source, target, "thing", ["id"], from_clause=FROM)
    return mapping.model_copy(update=changes)


async def made(source: Connection, target: Connection) -> None:
    for connection in (source, target):
        await connection.execute(TABLE)
        await connection.execute("INSERT INTO thing SELECT n, 'x' || n, '2020-01-01' FROM generate_series(1, 100) n")


async def baseline(source: Connection, target: Connection, mapping: ResolvedMapping) -> Baseline:
    result = await compare_partition(source, target, mapping, WHOLE)
    return Baseline("run", {mapping.name: mapping}, {mapping.name: [result]})


def with_expression(mapping: ResolvedMapping, expression: str) -> ResolvedMapping:
    columns = [c.model_copy(update={"expression": expression}) if c.name == "name" else c for c in mapping.columns]
    return mapping.model_copy(update={"columns": columns})


TRAPS = """
CREATE TABLE other (name text);
CREATE FUNCTION looked_up(integer) RETURNS text STABLE LANGUAGE sql AS $$ SELECT max(name) FROM public.other $$;
CREATE FUNCTION price(thing) RETURNS text STABLE LANGUAGE sql AS $$ SELECT max(name) FROM public.other $$;
CREATE FUNCTION label(thing) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1.name || '!' $$;
CREATE FUNCTION times(text, integer) RETURNS text STABLE LANGUAGE sql AS $$ SELECT max(name) FROM public.other $$;
CREATE OPERATOR *** (LEFTARG = text, RIGHTARG = integer, FUNCTION = times);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (a integer, b text);
CREATE FUNCTION told(pair) RETURNS text STABLE LANGUAGE sql AS $$ SELECT max(name) FROM public.other $$;
CREATE CAST (pair AS text) WITH FUNCTION told(pair) AS IMPLICIT;
"""
TIME = "it depends on when it is asked"
CAST = "a cast through text may depend on more than the row"


EXPRESSIONS = [
    ("upper(thing.name)", ""),
    ("to_char(thing.born, 'YYYY') || 'not now (then)'", ""),
    ("CASE WHEN thing.id IN (1, 2) THEN 'a' ELSE coalesce(trim(thing.name), 'b') END", ""),
    ("(SELECT max(name) FROM public.other)", "a subquery reads other rows"),
    ("public.looked_up(thing.id)", "looked_up() may depend on more than the row"),
    ("age(thing.born)::text", "age() may depend on more than the row"),
    ("(thing.born < current_date)::text", TIME),
    ("(thing.born < 'today'::date)::text", TIME),
    # A function's name may be written as a column's, or not at all.
    ("thing.label", ""),
    ("thing.price", "price() may depend on more than the row"),
    ("(thing).price", "price() may depend on more than the row"),
    ("thing.name operator(public.***) 1", "times() may depend on more than the row"),
    ("thing.name *** 1", "times() may depend on more than the row"),
    ("upper(ROW(1, 'x')::pair)", "told() may depend on more than the row"),
    ("CASE WHEN false THEN thing.price ELSE 'a' END", "price() may depend on more than the row"),
    ("thing.ctid::text", "where a row lies, and what wrote it, is not the row"),
    ("thing.tableoid::regclass::text", CAST),
    ("(thing.id + thing.tableoid::integer)::text", "where a row lies, and what wrote it, is not the row"),
    ("thing.id::regclass::text", CAST),
    ("(thing = ROW(thing.id, 'a', NULL))::text", "rowexpr may depend on more than the row"),
    ("(thing.name::date)::text", CAST),  # the row may say 'today'
    ("(thing.born < 'to'\n'day'::date)::text", TIME),
    ("(thing.born < 'to' -- or\n'day'::date)::text", TIME),
    ("(thing.born < E'\\x6eow'::date)::text", TIME),
    ("(thing.born < ANY ('{2020-01-01,Tomorrow}'::date[]))::text", TIME),
    ("(thing.born < ANY ('{2020-01-01,2021-01-01}'::date[]))::text", ""),
    ("(thing.born + interval '1 day' < timestamptz '2020-01-01')::text", ""),
    ("to_char(thing.born, 'TMMonth')", "to_char() may depend on more than the row"),
    ("to_char(thing.id, '999D9')", "to_char() may depend on more than the row"),
    ("to_char(thing.id, '999.9')", ""),
    ("to_char(thing.born, thing.name)", "to_char() may depend on more than the row"),
    ("concat(thing.id, ' of ', thing.born, 'glad'::mood)", ""),
    ("concat(thing.id, thing.tableoid)", "where a row lies, and what wrote it, is not the row"),
    ("concat(ROW(thing.id))", "concat() may depend on more than the row"),
    ("greatest(thing.name, 'a')", ""),
    ("nullif(thing.name, 'a') || ARRAY[thing.id, 2]::text", ""),
    ("(thing.name IS DISTINCT FROM 'a' AND NOT thing.id = ANY (ARRAY[1, 2]))::text", ""),
    ("(to_jsonb(thing.born) ->> 0) || split_part(thing.name, ',', 1) COLLATE \"C\"", ""),
    ("current_setting('server_version')", "current_setting() may depend on more than the row"),
]


async def test_an_expression_must_depend_on_its_row_alone(source: Connection, target: Connection) -> None:
    await made(source, target)
    await source.execute(TRAPS)
    plain = await mapped(source, target)
    wrong = []
    for expression, reason in EXPRESSIONS:
        mapping = with_expression(plain, expression)
        last = Baseline("run", {mapping.name: mapping}, {mapping.name: [_passed(mapping)]})
        found = await why_not(last, source, target, mapping)
        if found != (f"{reason}: {expression}" if reason else ""):
            wrong.append((expression, reason, found))
    assert not wrong
    assert await source.fetchval("SHOW debug_print_parse") == "off"


async def test_filter_scope_and_the_casts_to_the_target_must_depend_on_the_row_alone_too(
    source: Connection, target: Connection
) -> None:
    await made(source, target)
    await source.execute("CREATE FUNCTION known(thing) RETURNS boolean STABLE LANGUAGE sql AS $$ SELECT true $$")
    await target.execute("CREATE FUNCTION ours(thing) RETURNS boolean STABLE LANGUAGE sql AS $$ SELECT true $$")
    plain = await mapped(source, target)
    for changes, reason in (
        ({"where": "thing.known"}, "known() may depend on more than the row: thing.known"),
        ({"scope": "thing.ours"}, "ours() may depend on more than the row: "),
        (
            {"columns": [c.model_copy(update={"expression": "thing.name"}) for c in plain.columns if c.name == "born"]},
            CAST,
        ),
    ):
        mapping = plain.model_copy(update=changes)
        last = Baseline("run", {mapping.name: mapping}, {mapping.name: [_passed(mapping)]})
        assert (await why_not(last, source, target, mapping)).startswith(reason)


async def test_a_server_that_does_not_show_how_it_reads_is_asked_for_all(
    source: Connection, target: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(source, target)
    mapping = await mapped(source, target)
    last = Baseline("run", {mapping.name: mapping}, {mapping.name: [_passed(mapping)]})
    monkeypatch.setattr(parse_tree, "_SHOW", "SELECT")
    assert (await why_not(last, source, target, mapping)).startswith("the server does not show how it reads")


async def test_joins_transforms_shared_tables_and_views_are_compared_in_full(
    source: Connection, target: Connection
) -> None:
    await made(source, target)
    await source.execute("CREATE VIEW seen AS TABLE thing")
    plain = await mapped(source, target)
    seen = plain.source_table.model_copy(update={"name": "seen"})
    for changes, reason in (
        ({"from_clause": f"{FROM} JOIN public.other o ON true"}, "it reads more than one table"),
        ({"transform": "clean:rows"}, "the transform clean:rows may have changed"),
        ({"mode": "merge"}, "others write to its table too"),
        ({"source_table": seen, "from_clause": '"public"."seen" AS "thing"'}, "public.seen is no ordinary table"),
    ):
        mapping = plain.model_copy(update=changes)
        last = Baseline("run", {mapping.name: mapping}, {mapping.name: [_passed(mapping)]})
        assert (await why_not(last, source, target, mapping)).startswith(reason)
    last = Baseline("run", {plain.name: plain.model_copy(update={"where": "id > 0"})}, {plain.name: [_passed(plain)]})
    assert await why_not(last, source, target, plain) == "its columns or their types are not what they were"


async def test_a_row_in_a_transaction_that_was_open_then_is_not_taken_for_old(
    source: Connection, target: Connection, source_dsn: str
) -> None:
    await made(source, target)
    mapping = await mapped(source, target)
    other = await connect(source_dsn, application_name="test: an open transaction")
    try:
        begun = other.transaction()
        await begun.start()
        await other.execute("INSERT INTO public.thing VALUES (500, 'own', NULL)")
        async with other.transaction():  # a subtransaction: a younger number than its parent, listed in no snapshot
            await other.execute("UPDATE public.thing SET name = 'changed' WHERE id = 7")
            await other.execute("DELETE FROM public.thing WHERE id = 500")
        last = (await baseline(source, target, mapping)).results[mapping.name][0]
        assert last.outcome == "passed"
        await begun.commit()
    finally:
        await other.close()
    assert await unchanged(source, target, mapping, WHOLE, last) is None
    assert (await compare_partition(source, target, mapping, WHOLE)).counts == {"changed": 1}


async def test_partitioned_tables_are_known_through_their_parts(source: Connection, target: Connection) -> None:
    for connection in (source, target):
        await connection.execute(
            "CREATE TABLE thing (id integer PRIMARY KEY, name text) PARTITION BY RANGE (id);"
            "CREATE TABLE thing_a PARTITION OF thing FOR VALUES FROM (0) TO (50);"
            "CREATE TABLE thing_b PARTITION OF thing FOR VALUES FROM (50) TO (1000);"
            "INSERT INTO thing SELECT n, 'x' || n FROM generate_series(1, 100) n"
        )
    mapping = await mapped(source, target)
    last = await baseline(source, target, mapping)
    assert await why_not(last, source, target, mapping) == ""
    before = last.results[mapping.name][0]
    assert await unchanged(source, target, mapping, WHOLE, before) is not None
    await source.execute("UPDATE thing_b SET name = 'y' WHERE id = 60")
    assert await unchanged(source, target, mapping, WHOLE, before) is None


PARTED_TWICE = """
CREATE TABLE thing (id integer PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE thing_a PARTITION OF thing FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (id);
CREATE TABLE thing_aa PARTITION OF thing_a FOR VALUES FROM (0) TO (1000);
CREATE TABLE spare (id integer PRIMARY KEY, name text);
INSERT INTO thing SELECT n, 'x' || n FROM generate_series(1, 100) n;
INSERT INTO spare SELECT n, 'y' || n FROM generate_series(1, 100) n;
"""


async def test_a_part_that_takes_the_place_of_another_is_a_change_at_any_depth(
    source: Connection, target: Connection
) -> None:
    for connection in (source, target):
        await connection.execute(PARTED_TWICE)
    mapping = await mapped(source, target)
    last = await baseline(source, target, mapping)
    before = last.results[mapping.name][0]
    assert await unchanged(source, target, mapping, WHOLE, before) is not None
    await source.execute(
        "ALTER TABLE thing_a DETACH PARTITION thing_aa;"
        "ALTER TABLE thing_a ATTACH PARTITION spare FOR VALUES FROM (0) TO (1000)"
    )
    assert await unchanged(source, target, mapping, WHOLE, before) is None


async def test_a_part_that_is_a_foreign_table_tells_nothing(source: Connection, target: Connection) -> None:
    parted = "CREATE TABLE thing (id integer NOT NULL, name text) PARTITION BY RANGE (id);"
    for connection in (source, target):
        await connection.execute(parted)
    mapping = await mapped(source, target)
    last = Baseline("run", {mapping.name: mapping}, {mapping.name: [_passed(mapping)]})
    assert await why_not(last, source, target, mapping) == ""
    await source.execute(
        "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;"
        "CREATE FOREIGN TABLE thing_far PARTITION OF thing FOR VALUES FROM (0) TO (9) SERVER away"
    )
    assert await why_not(last, source, target, mapping) == "public.thing is no ordinary table"


@pytest.mark.parametrize(
    "change",
    [
        "DROP OPERATOR @@@ (text, integer); CREATE OPERATOR @@@ (LEFTARG = text, RIGHTARG = integer, FUNCTION = after)",
        "CREATE CAST (pair AS text) WITH FUNCTION told(pair) AS IMPLICIT",
    ],
)
async def test_an_operator_or_a_cast_made_since_is_a_change(
    source: Connection, target: Connection, change: str
) -> None:
    await made(source, target)
    await source.execute(
        "CREATE FUNCTION before(text, integer) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;"
        "CREATE FUNCTION after(text, integer) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1 || '!' $$;"
        "CREATE OPERATOR @@@ (LEFTARG = text, RIGHTARG = integer, FUNCTION = before);"
        "CREATE TYPE pair AS (a integer, b text);"
        "CREATE FUNCTION told(pair) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'x' $$"
    )
    mapping = with_expression(await mapped(source, target), "thing.name operator(public.@@@) 1")
    before = (await baseline(source, target, mapping)).results[mapping.name][0]
    assert await unchanged(source, target, mapping, WHOLE, before) is not None
    await source.execute(change)
    assert await unchanged(source, target, mapping, WHOLE, before) is None


async def test_a_virtual_column_that_is_computed_in_another_way_is_a_change(
    source: Connection, target: Connection
) -> None:
    if int(await source.fetchval("SHOW server_version_num")) < 180000:
        pytest.skip("columns that are computed when they are read came with PostgreSQL 18")
    await source.execute("CREATE TABLE thing (id integer PRIMARY KEY, name text GENERATED ALWAYS AS ('x') VIRTUAL)")
    await target.execute("CREATE TABLE thing (id integer PRIMARY KEY, name text)")
    await source.execute("INSERT INTO thing SELECT generate_series(1, 100)")
    await target.execute("INSERT INTO thing SELECT generate_series(1, 100), 'x'")
    mapping = await mapped(source, target)
    before = (await baseline(source, target, mapping)).results[mapping.name][0]
    assert await unchanged(source, target, mapping, WHOLE, before) is not None
    await source.execute("ALTER TABLE thing ALTER name SET EXPRESSION AS ('y')")
    assert await unchanged(source, target, mapping, WHOLE, before) is None


def _passed(mapping: ResolvedMapping) -> CheckResult:
    return CheckResult(kind="parity", name=mapping.name, mapping=0, partition=0, outcome="passed")
