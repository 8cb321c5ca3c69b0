"""Names of PostgreSQL in a plan's text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knarr.plan import Refusal, parse_reference, parse_source, parse_table, write_table
from knarr.plan.names import check_key, parse_target
from knarr.plan.resolved import TableName


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("public.orders", ("public", "orders", "orders")),
        ("public.orders o", ("public", "orders", "o")),
        ("public.orders AS o", ("public", "orders", "o")),
        ('public.orders as "as"', ("public", "orders", "as")),
        ("Public . Orders  O", ("public", "orders", "o")),
        ('"Public"."Or ders.x" "O"', ("Public", "Or ders.x", "O")),
        ('s."a""b"', ("s", 'a"b', 'a"b')),
        ("größe.Ätna$1", ("größe", "Ätna$1", "Ätna$1")),
        ("public.*", ("public", None, "")),
        ('"Old One" . *', ("Old One", None, "")),
    ],
)
def test_a_source_is_read_as_sql_reads_it(text: str, expected: tuple[str, str | None, str]) -> None:
    source = parse_source(text)

    assert (source.schema_name, source.table, source.alias) == expected
    assert source.whole_schema == (expected[1] is None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders",
        "public.",
        ".orders",
        "a.b.c",
        "a.b c d",
        "a.b as",
        "a.* x",
        'a."b',
        'a.""',
        "a.1b",
        "a.b; c",
        "a-b.c",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match=r"expected schema\.table"):
        parse_source(text)


def test_a_target_has_no_alias() -> None:
    with pytest.raises(Refusal):
        parse_target("shop.order o")


@pytest.mark.parametrize("text", ["a.b", "a.b(c)", 'a."b" ( "C" , d )'])
def test_a_reference_may_name_columns(text: str) -> None:
    reference = parse_reference(text)

    assert reference.table == TableName(schema_name="a", name="b")
    assert reference.columns == {"a.b": [], "a.b(c)": ["c"]}.get(text, ["C", "d"])


@pytest.mark.parametrize("text", ["a", "a.b()", "a.b(c", "a.b(c,)", "a.b(c d)", "a.b c"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        parse_reference(text)


def test_a_name_is_measured_in_bytes() -> None:
    assert parse_table("a." + "x" * 63).name == "x" * 63
    with pytest.raises(Refusal, match="of 64 bytes"):
        parse_table("a." + "x" * 64)
    with pytest.raises(Refusal, match="of 64 bytes"):
        parse_table("a." + "ü" * 32)


def test_a_name_holds_no_nul_and_no_quotes_of_sql() -> None:
    for name in ("", "a\0b", '"Order"'):
        with pytest.raises(Refusal):
            check_key(name)
    check_key('say "hi"')


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15)


@given(names, names)
def test_a_written_table_reads_back_the_same(schema: str, name: str) -> None:
    table = TableName(schema_name=schema, name=name)

    assert parse_table(write_table(table)) == table
