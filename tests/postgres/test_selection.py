"""Each source row belongs to exactly one phase, and is read in the form that the target's COPY takes."""

import pytest

from knarr.errors import PlanError
from knarr.plan.resolved import Partition
from knarr.postgres.selection import (
    copy_query,
    moved_predicate,
    phase_predicate,
    range_literal,
    range_predicate,
    source_key,
    source_where,
    target_key,
    wire_type,
)
from knarr.postgres.session import Connection
from tests.postgres.specimens import WHOLE, column, mapping

PHASES = ["canary", "tenth", "everyone"]
NAMED = mapping([column("n", "integer")], phases={"canary": "n % 4 = 0", "tenth": "n % 2 = 0"})
UNNAMED = mapping([column("n", "integer")])


async def numbers(connection: Connection, predicate: str | None) -> set[int | None]:
    """Which of 0 to 9 and NULL a predicate takes."""
    if predicate is None:
        return set()
    source = "(SELECT generate_series(0, 9) UNION ALL SELECT NULL) AS t (n)"
    return {row["n"] for row in await connection.fetch(f"SELECT n FROM {source} WHERE {predicate}")}


async def test_each_row_is_in_exactly_one_phase_also_where_a_predicate_is_unknown(shared: Connection) -> None:
    taken = [await numbers(shared, phase_predicate(NAMED, PHASES, phase)) for phase in PHASES]

    assert taken == [{0, 4, 8}, {2, 6}, {1, 3, 5, 7, 9, None}]


async def test_what_has_moved_is_all_phases_up_to_one(shared: Connection) -> None:
    moved = [await numbers(shared, moved_predicate(NAMED, PHASES, phase)) for phase in PHASES]

    assert moved == [{0, 4, 8}, {0, 2, 4, 6, 8}, {*range(10), None}]


async def test_a_mapping_that_no_phase_names_moves_in_the_last_one() -> None:
    assert [phase_predicate(UNNAMED, PHASES, phase) for phase in PHASES] == [None, None, "TRUE"]
    assert [moved_predicate(UNNAMED, PHASES, phase) for phase in PHASES] == [None, None, "TRUE"]


async def test_the_last_phase_leaves_no_row_behind_even_if_it_names_the_mapping(shared: Connection) -> None:
    last = mapping([column("n", "integer")], phases={"canary": "n % 4 = 0", "everyone": "n < 3"})

    assert await numbers(shared, phase_predicate(last, PHASES, "everyone")) == {1, 2, 3, 5, 6, 7, 9, None}


def test_a_phase_that_is_not_in_the_rollout_is_refused() -> None:
    for predicate in (phase_predicate, moved_predicate):
        with pytest.raises(PlanError, match="no phase 'nobody'"):
            predicate(NAMED, PHASES, "nobody")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("integer", "integer"),
        ("numeric(10,2)", "numeric(10,2)"),
        ("character varying(10)", "character varying"),
        ("character varying(10)[]", "character varying[]"),
        ("character(5)", "bpchar"),
        ("character(5)[]", "bpchar[]"),
        ("bit(3)", '"bit"'),
        ("bit varying(3)", "bit varying"),
        ("timestamp(3) with time zone", "timestamp(3) with time zone"),
    ],
)
async def test_a_length_stays_with_the_target(kind: str, expected: str, shared: Connection) -> None:
    assert wire_type(column("x", kind)) == expected
    assert await shared.fetchval(f"SELECT NULL::{expected} IS NULL")


def test_enums_and_foreign_types_travel_as_text() -> None:
    assert wire_type(column("x", "shop.mood", category="enum")) == "text"
    assert wire_type(column("x", "shop.box", category="other")) == "text"


def test_integers_are_compared_without_a_cast_so_that_an_index_helps() -> None:
    item = mapping([column("n", "bigint", source_type="integer")], key=["n"])

    assert [key.sql for key in source_key(item)] == ['(t."n")']
    assert [key.type for key in source_key(item)] == [key.type for key in target_key(item)] == ["bigint"]


def test_a_bound_with_a_quote_or_a_placeholder_stays_a_value() -> None:
    item = mapping([column("s", "text")], key=["s"])
    partition = Partition(mapping=0, number=1, lower=["o'$1"], upper=["\\x"], estimated_rows=0)

    assert range_literal(target_key(item), partition) == (
        """("s" COLLATE "C" >= 'o''$1'::text::text AND "s" COLLATE "C" < E'\\\\x'::text::text)"""
    )
    sql, values = range_predicate(target_key(item), partition, first=4)
    assert sql == '("s" COLLATE "C" >= $4::text::text AND "s" COLLATE "C" < $5::text::text)'
    assert values == ["o'$1", "\\x"]


def test_bounds_of_another_width_than_the_key_are_refused() -> None:
    item = mapping([column("n", "integer")], key=["n"])

    with pytest.raises(PlanError, match="bounds of 2 columns"):
        range_literal(target_key(item), Partition(mapping=0, number=0, lower=["1", "2"], upper=None, estimated_rows=0))


def test_filters_are_kept_apart_by_parentheses() -> None:
    item = mapping([column("n", "integer")], where="a OR b")

    assert source_where(item, "TRUE", None, "c") == "(a OR b) AND c"
    assert copy_query(item, WHOLE, "TRUE").endswith('FROM public."given" AS t\n WHERE (a OR b)')


async def test_a_comment_at_the_end_of_the_plans_sql_swallows_nothing(shared: Connection) -> None:
    await shared.execute("CREATE TABLE public.given AS SELECT n FROM generate_series(0, 9) AS n")
    commented = column("n", "bigint", expression="t.n -- ours", source_type="integer")
    item = mapping(
        [commented, column("twice", "text", expression="t.n * 2 -- doubled")],
        key=["n"],
        where="t.n > 1 -- the rest is theirs",
        phases={"canary": "t.n % 4 = 0 -- a quarter", "tenth": "t.n % 2 = 0 -- a half"},
    )
    piece = Partition(mapping=0, number=0, lower=None, upper=["7"], estimated_rows=0)
    try:
        moved = {}
        for phase in PHASES:
            query = copy_query(item, piece, phase_predicate(item, PHASES, phase) or "")
            moved[phase] = [tuple(row) for row in await shared.fetch(query)]
        so_far = source_where(item, moved_predicate(item, PHASES, "tenth"))
        seen = await shared.fetch(f"SELECT n FROM public.given AS t WHERE {so_far}")
    finally:
        await shared.execute("DROP TABLE public.given")

    assert moved == {"canary": [(4, "8")], "tenth": [(2, "4"), (6, "12")], "everyone": [(3, "6"), (5, "10")]}
    assert [row["n"] for row in seen] == [2, 4, 6, 8]
