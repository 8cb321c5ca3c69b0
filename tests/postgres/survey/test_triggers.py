"""Triggers and rules that would write elsewhere when a table is filled, or when its rows are taken back."""

from typing import Any, Final

import pytest

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, told

SOURCE: Final = "CREATE TABLE book (id integer PRIMARY KEY, title text); INSERT INTO book VALUES (1, 'one')"
TARGET: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.book (id integer PRIMARY KEY, title text) PARTITION BY RANGE (id);
CREATE TABLE shop.book_1 PARTITION OF shop.book FOR VALUES FROM (0) TO (100);
CREATE FUNCTION shop.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
"""
FILL: Final[dict[str, Any]] = {"target": "shop.book", "source": "public.book", "mode": "fill"}
MERGE: Final = FILL | {"mode": "merge"}
REPAIR: Final = {"verification": {"on_difference": "repair"}}


async def asked(
    surveyed: Surveyed, source: Connection, target: Connection, trigger: str, mapping: dict[str, Any], **plan: Any
) -> list[tuple[str, str, str, str]]:
    """The errors of a survey of a table with one trigger: a name, when, on which table, for each what."""
    await source.execute(SOURCE)
    await target.execute(f"{TARGET} CREATE TRIGGER {trigger} EXECUTE FUNCTION shop.f()")
    return told(await surveyed(mapping, **plan))


@pytest.mark.parametrize(
    ("trigger", "table"),
    [
        ("t AFTER INSERT ON shop.book FOR EACH ROW", "book"),
        ("t AFTER DELETE ON shop.book FOR EACH ROW", "book"),
        ("t AFTER TRUNCATE ON shop.book", "book"),
        ("t AFTER INSERT ON shop.book_1 FOR EACH ROW", "book_1"),
        ("t AFTER TRUNCATE ON shop.book_1", "book_1"),
    ],
)
async def test_a_table_to_fill_is_refused_for_what_its_copy_or_its_rollback_would_fire(
    trigger: str, table: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    assert await asked(surveyed, source, target, trigger, FILL) == [
        (
            "mappings[0].target (shop.book)",
            "triggers of shop.book would fire when rows are copied or taken back: t",
            "no enabled trigger on INSERT, DELETE or TRUNCATE: what it does can be neither verified nor undone",
            f'for the time of the run: ALTER TABLE "shop"."{table}" DISABLE TRIGGER USER',
        )
    ]

    await target.execute(f"ALTER TABLE shop.{table} DISABLE TRIGGER USER")
    assert told(await surveyed(FILL)) == []


async def test_a_partition_to_fill_is_refused_for_a_trigger_that_it_has_from_its_whole(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    part = FILL | {"target": "shop.book_1"}
    found = await asked(surveyed, source, target, "t AFTER INSERT ON shop.book FOR EACH ROW", part)

    assert [(problem[1], problem[3]) for problem in found] == [
        (
            "triggers of shop.book_1 would fire when rows are copied or taken back: t",
            'for the time of the run: ALTER TABLE "shop"."book_1" DISABLE TRIGGER USER',
        )
    ]

    await target.execute("ALTER TABLE shop.book_1 DISABLE TRIGGER USER")
    assert told(await surveyed(part)) == []


async def test_an_update_trigger_matters_to_a_fill_only_when_the_plan_repairs(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    trigger = "stamp BEFORE UPDATE ON shop.book_1 FOR EACH ROW"

    assert await asked(surveyed, source, target, trigger, FILL) == []
    [problem] = told(await surveyed(FILL, **REPAIR))
    assert problem[1] == "triggers of shop.book would fire when rows are copied or taken back: stamp"


async def test_a_truncate_trigger_is_no_matter_to_a_merge(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    assert await asked(surveyed, source, target, "t BEFORE TRUNCATE ON shop.book", MERGE) == []


@pytest.mark.parametrize(
    ("event", "mapping", "plan", "expected"),
    [
        ("DELETE", FILL, {}, "no enabled rule on DELETE"),
        ("INSERT", FILL, REPAIR, "no enabled rule on INSERT, UPDATE or DELETE"),
        ("DELETE", MERGE, {}, "no enabled rule on INSERT, UPDATE or DELETE"),
    ],
)
async def test_a_rule_is_refused_where_it_would_apply_until_it_is_disabled(
    event: str,
    mapping: dict[str, Any],
    plan: dict[str, Any],
    expected: str,
    surveyed: Surveyed,
    source: Connection,
    target: Connection,
) -> None:
    await source.execute(SOURCE)
    await target.execute(f'{TARGET} CREATE RULE "a rule" AS ON {event} TO shop.book DO ALSO SELECT 1')

    mend = 'ALTER TABLE "shop"."book" DISABLE RULE "a rule"'
    assert told(await surveyed(mapping, **plan)) == [
        (
            "mappings[0].target (shop.book)",
            "rules of shop.book would rewrite what the run does: a rule",
            expected,
            f"for the time of the run: {mend}",
        )
    ]
    await target.execute(mend)
    assert told(await surveyed(mapping, **plan)) == []
