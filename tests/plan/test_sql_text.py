"""The lexer of SQL: what may stand in an expression, and what would change the statement around it."""

import pytest

from knarr.plan import Refusal
from knarr.plan.sql_text import check_expression, check_joins, check_predicate, check_query, check_type


@pytest.mark.parametrize(
    "text",
    [
        "c.name",
        "'a;b'",
        "'it''s (fine'",
        "E'it\\'s ; fine'",
        "e'\\\\'",
        "'\\'",
        '"a;)"',
        'U&"d\\0061t\\+000061"',
        "U&'\\0041;'",
        "$$ ; ' ( $$",
        "$a$ $$ ; $b$ $a$",
        "a$b$c",
        "$ä$ ; $ä$",
        "/* ; ( ' */ c.name",
        "/* a /* nested ; */ ( */ 1",
        "c.name -- ; ( '\n",
        "c.a\n-- (\n|| c.b",
        "(ARRAY[1, 2])[1]",
        "f(a, b)",
        "x'1F'::bit(8)",
        "a - -1",
        "E'a'\n'\\'b'",
        "'a'\n'b\\'",
        "'a' -- c\n 'b'",
        "c.price::numeric(12,2)",
        "a <@ b AND c ? 'd'",
        "price * 1e-3",
        "(SELECT max(x), 1 FROM t)",
        "a\u00a0e'\\'",
    ],
)
def test_an_expression_that_ends_where_it_should(text: str) -> None:
    check_expression(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1; DROP TABLE x", "a ';'"),
        ("a)", "a ')' without"),
        ("true) OR (true", "a ')' without"),
        ("(a", "a '(' without"),
        ("(a]", "a ']' without"),
        ("a[1", "a '[' without"),
        ("'a", "a ' without"),
        ("'a''", "a ' without"),
        ("E'a\\'", "a ' without"),
        ("'\\'; DROP TABLE x --'", "a ';'"),
        ('"a', 'a " without'),
        ("$$ a", "a $$ without"),
        ("$a$ b $A$", "a $a$ without"),
        ("a /* b", "a '/*' without"),
        ("a /* /* */", "a '/*' without"),
        ("a -- b", "a comment at the end"),
        ("a --", "a comment at the end"),
        ("/* a */", "nothing but a comment"),
        ("", "an empty text"),
        ("  ", "an empty text|nothing but"),
        ("a = $1", "the parameter"),
        ("a, b", "a ',' outside"),
        ("E'a'\n'\\'; x", "a ' without"),
        ("'a' 'b", "a ' without"),
        ("1e'\\'", "a ' without"),
        ("x" * 100_001, "100,001 characters"),
    ],
)
def test_an_expression_that_would_change_what_is_around_it(text: str, found: str) -> None:
    with pytest.raises(Refusal, match=r"found .*") as raised:
        check_expression(text)

    assert any(raised.value.found.startswith(part) for part in found.split("|"))


def test_a_predicate_comes_without_its_keyword() -> None:
    check_predicate("c.id > 0 AND c.whereabouts IS NULL")
    for text in ("WHERE c.id > 0", "where c.id > 0", "AND c.id > 0", "/* x */ CHECK (a)"):
        with pytest.raises(Refusal, match="the keyword"):
            check_predicate(text)


def test_a_check_is_a_query() -> None:
    for text in ("SELECT 1, 2", "with a AS (SELECT 1) TABLE a", "-- all\nVALUES (1)", "TABLE shop.order", "select(1)"):
        check_query(text)
    for text in ("DELETE FROM a", "(SELECT 1)", "EXPLAIN SELECT 1", "selected", "SELECT 1;"):
        with pytest.raises(Refusal):
            check_query(text)


def test_joins_are_joins_alone() -> None:
    check_joins("left join b ON b.id = a.id CROSS JOIN LATERAL (SELECT 1 WHERE true ORDER BY 1) x")
    for text in (", b", "b", "JOIN b ON true WHERE x", "JOIN b USING (id) ORDER BY 1", "JOIN b ON (true"):
        with pytest.raises(Refusal):
            check_joins(text)


def test_a_type_is_one_type() -> None:
    for text in ("numeric(12, 2)", "timestamp(3) with time zone", 'shop."Status"', "integer[]"):
        check_type(text)
    for text in ("text, x int", "text); DROP TABLE x", "text -- x"):
        with pytest.raises(Refusal):
            check_type(text)
