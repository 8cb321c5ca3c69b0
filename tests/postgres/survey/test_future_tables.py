"""SQL over tables and types that the run has yet to make is held against what they will be."""

from typing import Any, Final

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, make, told

LEGACY: Final = """
CREATE TYPE state AS ENUM ('open', 'paid');
CREATE TABLE orders (id integer PRIMARY KEY, state state NOT NULL DEFAULT 'open', total numeric);
CREATE TABLE lines (order_id integer REFERENCES orders, line integer, amount numeric, PRIMARY KEY (order_id, line));
"""
ORDER: Final[dict[str, Any]] = {
    "target": "shop.order",
    "source": "public.orders o",
    "key": {"id": "o.id"},
    "columns": {"state": {"from": "o.state::text", "type": "shop.state"}, "total": "o.total"},
}
LINE: Final[dict[str, Any]] = {"target": "shop.line", "source": "public.lines"}
TYPES: Final = {"shop.state": ["open", "paid"]}


async def test_rules_may_speak_of_every_table_and_type_of_the_plan(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    rules = {
        "by alias": 'total = (SELECT sum(l.amount) FROM shop.line l WHERE l.order_id = "order".id)',
        "by table": "total = (SELECT sum(line.amount) FROM shop.line WHERE line.order_id = id)",
        "quoted": 'NOT EXISTS (SELECT FROM "shop"."order" AS other WHERE other.id = "order".id + 1)',
        "typed": "state <> 'paid'::shop.state OR total > 0",
        "as text": "state::text <> 'shop.line'",
    }

    found = await surveyed(ORDER | {"rules": rules}, LINE, types=TYPES)

    assert told(found) == []
    # What was promised before the tables stood must hold when they do.
    await make(target, found)
    for rule in rules.values():
        await target.fetch(f'SELECT FROM shop."order" WHERE ({rule}) IS NOT TRUE')


async def test_a_rule_that_names_a_table_without_its_schema_is_refused(surveyed: Surveyed, source: Connection) -> None:
    await source.execute(LEGACY)
    rules = {"sum": "total = (SELECT sum(amount) FROM line WHERE order_id = id)"}

    found = await surveyed(ORDER | {"rules": rules}, LINE, types=TYPES)

    assert [problem[:2] for problem in told(found)] == [
        ("mappings[0].rules.sum (shop.order)", 'relation "line" does not exist (at line)')
    ]


async def test_a_table_that_the_run_makes_in_public_is_found_without_its_schema(
    surveyed: Surveyed, source: Connection
) -> None:
    await source.execute(LEGACY)
    queries = ["SELECT sum(total) FROM bill", "SELECT sum(bill.total) FROM public.bill, bill AS other", "SELECT 'bill'"]
    checks = [{"name": query, "source": "SELECT 1", "target": query} for query in queries]

    assert told(await surveyed(ORDER | {"target": "public.bill"}, checks=checks, types=TYPES)) == []


async def test_defaults_checks_and_indexes_may_use_the_plans_own_types(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    columns = {
        "state": {"from": "o.state::text", "type": "shop.state", "default": "'open'::shop.state"},
        "total": {"from": "o.total", "default": "0", "null": False},
        "paid": {"generated": "CASE WHEN state = 'paid'::shop.state THEN total END", "type": "numeric"},
    }
    more = {
        "columns": columns,
        "constraints": {"paid something": "state <> 'paid'::shop.state OR total <> 0"},
        "indexes": [{"columns": ["(abs(total))", "state"], "where": "state = 'open'::shop.state", "unique": False}],
        "unique": [["id", "state"]],
    }

    found = await surveyed(ORDER | more, types=TYPES)

    assert told(found) == []
    await make(target, found)
    assert [one.name for one in found.mappings[0].objects] == [
        "shop.order",
        "order_pkey on shop.order",
        "order_id_state_key on shop.order",
        "order_expr_state_idx on shop.order",
        "paid something on shop.order",
    ]


async def test_a_column_of_the_sources_own_type_takes_the_type_along(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)

    found = await surveyed(ORDER | {"columns": {"state": "=", "twice": "upper(o.state::text)"}})

    assert told(found) == []
    assert [(one.kind, one.name) for one in found.objects] == [("schema", "shop"), ("enum", "shop.state")]
    assert [(one.name, one.target_type, one.not_null) for one in found.mappings[0].columns] == [
        ("id", "integer", True),
        ("state", "shop.state", True),
        ("twice", "text", False),
    ]
    await make(target, found)
