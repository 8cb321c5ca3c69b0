"""Of which mappings row versions tell everything, and of which they do not."""

import pytest

from knarr.plan.resolved import ResolvedMapping
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


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("upper(thing.name)", ""),
        ("to_char(thing.born, 'YYYY') || 'not now (then)'", ""),
        ("CASE WHEN thing.id IN (1, 2) THEN 'a' ELSE coalesce(trim(thing.name), 'b') END", ""),
        ("(SELECT max(name) FROM public.other)", "a subquery reads other rows"),
        ("public.looked_up(thing.id)", "looked_up() may depend on more than the row"),
        ("age(thing.born)::text", "age() may depend on more than the row"),
        ("(thing.born < current_date)::text", "it depends on when it is asked"),
        ("(thing.born < 'today'::date)::text", "it depends on when it is asked"),
    ],
)
async def test_an_expression_must_depend_on_its_row_alone(
    source: Connection, target: Connection, expression: str, reason: str
) -> None:
    await made(source, target)
    await source.execute("CREATE FUNCTION looked_up(integer) RETURNS text STABLE LANGUAGE sql AS $$ SELECT 'x' $$")
    mapping = with_expression(await mapped(source, target), expression)
    last = Baseline("run", {mapping.name: mapping}, {mapping.name: [_passed(mapping)]})
    found = await why_not(last, source, target, mapping)
    assert found.startswith(reason) and bool(found) == bool(reason), found


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


def _passed(mapping: ResolvedMapping) -> CheckResult:
    return CheckResult(kind="parity", name=mapping.name, mapping=0, partition=0, outcome="passed")
