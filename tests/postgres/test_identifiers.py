"""Names become exactly themselves in SQL, or are refused."""

import pytest

from knarr.errors import PlanError
from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import enclosed, literal, parse_table, qualified, quote
from knarr.postgres.session import Connection

HOSTILE = [
    "plain",
    "select",
    "Order",
    "two words",
    'a"b',
    '""',
    '";DROP TABLE x;--',
    "o'clock",
    "back\\slash",
    "%s %(x)s {} {0} $1 $$",
    "line\nbreak\ttab\rreturn",
    "-- comment /* more */",
    "pg_temp",
    "søk-日本語-🚢",
    "\u202eright to left",
    "\u200bzero width",
    "\x01control",
    "x" * 63,
    "é" * 31,
]


async def test_a_hostile_name_is_one_object_of_exactly_that_name(target: Connection) -> None:
    for name in HOSTILE:
        table = TableName(schema_name="public", name=name)
        await target.execute(f"CREATE TABLE {qualified(table)} ({quote(name)} integer)")

    found = await target.fetch(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"
    )
    assert {tuple(row) for row in found} == {(name, name) for name in HOSTILE}


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "é" * 32, "\ud800"])
def test_a_name_that_the_server_would_change_is_refused(name: str) -> None:
    with pytest.raises(PlanError):
        quote(name)


@pytest.mark.parametrize("setting", ["on", "off"])
async def test_a_literal_is_the_text_itself(setting: str, target: Connection) -> None:
    await target.execute(f"SET standard_conforming_strings = {setting}")
    for text in [*HOSTILE, "", "\\'", "'", "\\", "E'\\n'", "\\101"]:
        assert await target.fetchval(f"SELECT {literal(text)}::text") == text


def test_a_literal_with_nul_is_refused() -> None:
    with pytest.raises(PlanError, match="NUL"):
        literal("a\0b")


@pytest.mark.parametrize(
    ("text", "schema_name", "name"),
    [
        ("shop.order", "shop", "order"),
        ("Shop.ORDER", "shop", "order"),
        ('"Shop"."Or.der"', "Shop", "Or.der"),
        ('shop."a""b"', "shop", 'a"b'),
        (" shop . order ", "shop", "order"),
        ("_s1.t$2", "_s1", "t$2"),
        ("søk.båt", "søk", "båt"),
    ],
)
def test_a_table_is_read_as_the_server_reads_it(text: str, schema_name: str, name: str) -> None:
    assert parse_table(text) == TableName(schema_name=schema_name, name=name)


@pytest.mark.parametrize(
    "text", ["", "order", "a.b.c", "shop.", ".order", "shop.or der", '"shop', 'shop.""', "1a.b", "shop.order;", "a-b.c"]
)
def test_what_is_not_a_table_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        parse_table(text)


@pytest.mark.parametrize("sql", ["1", "1 -- ours", "1 -- (", "'a--b'", "1 /* -- */", "1 -- one\n+ 0 -- two"])
async def test_sql_in_parentheses_ends_where_they_do(sql: str, shared: Connection) -> None:
    assert await shared.fetchval(f"SELECT {enclosed(sql)}::text || ' end'") == ("a--b" if "'" in sql else "1") + " end"


def test_sql_without_a_comment_stays_on_its_line() -> None:
    assert enclosed("a OR b") == "(a OR b)"
