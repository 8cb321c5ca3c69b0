"""Each thing that a plan can have wrong, found by holding it against the databases, with its exact words."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from knarr.local.cluster import Cluster
from knarr.postgres.session import Connection, connect
from tests.postgres.survey.conftest import Surveyed, surveys, told

LEGACY = """
CREATE TABLE customer (id integer PRIMARY KEY, name varchar(40) NOT NULL, email text UNIQUE, balance numeric(12, 4));
CREATE TABLE orders (id integer PRIMARY KEY, customer integer NOT NULL REFERENCES customer, placed timestamptz);
CREATE VIEW rich AS SELECT * FROM customer WHERE balance > 1000;
INSERT INTO customer VALUES (1, 'ann', 'a@x', 1), (2, 'ann', NULL, 2), (3, 'bob', 'b@x', 3);
INSERT INTO orders VALUES (1, 1, '2026-01-01'), (2, 1, '2026-01-02'), (3, 2, '2026-01-03');
"""
CUSTOMER: dict[str, Any] = {"target": "shop.customer", "source": "public.customer c", "key": {"id": "c.id"}}


def customer(columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return CUSTOMER | {"columns": columns} | more


CASES: dict[str, tuple[dict[str, Any], list[tuple[str, str, str, str]]]] = {
    "a source table that does not exist": (
        CUSTOMER | {"source": "public.custmer c", "columns": {}},
        [
            (
                "mappings[0].source (shop.customer)",
                "table public.custmer does not exist on the source",
                "one of the 3 tables and views of schema public",
                "Did you mean 'public.customer'?",
            )
        ],
    ),
    "a source schema that does not exist": (
        CUSTOMER | {"source": "pubic.customer c", "columns": {}},
        [
            (
                "mappings[0].source (shop.customer)",
                "schema pubic does not exist on the source",
                "one of public",
                "Did you mean 'public'?",
            )
        ],
    ),
    "a wildcard over a schema that does not exist": (
        {"source": "pubic.*"},
        [
            (
                "mappings[0].source",
                "schema pubic does not exist on the source",
                "one of public",
                "Did you mean 'public'?",
            )
        ],
    ),
    "an exception that the schema does not have": (
        {"source": "public.*", "except": ["order"]},
        [
            (
                "mappings[0].except",
                "table order is not in schema public of the source",
                "one of customer, orders",
                "Did you mean 'orders'?",
            )
        ],
    ),
    "a view as it is": (
        {"target": "shop.rich", "source": "public.rich"},
        [
            (
                "mappings[0].source (shop.rich)",
                "public.rich is a view",
                "a table, if the mapping names no columns",
                "name the columns and the key",
            )
        ],
    ),
    "a column of the same name that the source does not have": (
        customer({"nme": "="}),
        [
            (
                "mappings[0].columns.nme (shop.customer)",
                "'=' needs a column nme in public.customer, which has none",
                "one of id, name, email, balance",
                "Did you mean 'name'?",
            )
        ],
    ),
    "an expression over a column that does not exist": (
        customer({"name": "trim(c.nam)"}),
        [
            (
                "mappings[0].columns.name (shop.customer)",
                "column c.nam does not exist (at c.nam)",
                "one value for each source row",
                'Perhaps you meant to reference the column "c.name".',
            )
        ],
    ),
    "an expression that is no SQL": (
        customer({"name": "trim(c.name) ||"}),
        [
            (
                "mappings[0].columns.name (shop.customer)",
                'syntax error at or near ")" (at ))',
                "one value for each source row",
                "",
            )
        ],
    ),
    "an aggregate": (
        customer({"balance": "sum(c.balance)"}),
        [
            (
                "mappings[0].columns.balance (shop.customer)",
                "aggregate functions are not allowed here (at sum)",
                "one value for each source row",
                "",
            )
        ],
    ),
    "a set": (
        customer({"n": "generate_series(1, c.id)"}),
        [
            (
                "mappings[0].columns.n (shop.customer)",
                "set-returning functions are not allowed here (at generate_series)",
                "one value for each source row",
                "",
            )
        ],
    ),
    "a row of several values": (
        customer({"both": "(c.id, c.name)"}),
        [
            (
                "mappings[0].columns.both (shop.customer)",
                "the expression gives a row of several values",
                "one value",
                "",
            )
        ],
    ),
    "an expression that moves with the clock": (
        customer({"age": "now() - '2000-01-01'"}),
        [
            (
                "mappings[0].columns.age (shop.customer)",
                "now gives another value each time it is asked",
                "an expression that depends on the row alone: verification computes it a second time",
                "",
            )
        ],
    ),
    "an expression that draws lots": (
        customer({"ticket": "gen_random_uuid()"}),
        [
            (
                "mappings[0].columns.ticket (shop.customer)",
                "gen_random_uuid gives another value each time it is asked",
                "an expression that depends on the row alone: verification computes it a second time",
                "",
            )
        ],
    ),
    "joins that do not run": (
        customer({"name": "="}, joins="LEFT JOIN public.nation n ON n.id = c.nation"),
        [
            (
                "mappings[0].joins (shop.customer)",
                'relation "public.nation" does not exist (at public.nation)',
                "joins that run",
                "",
            )
        ],
    ),
    "joins that multiply rows": (
        customer({"name": "="}, joins="JOIN public.orders o ON o.customer = c.id"),
        [
            (
                "mappings[0].key (shop.customer)",
                "id is not unique: 1 values come more than once",
                "one row for each value",
                "the joins may give several rows for one; choose other columns, or correct the rows at the source",
            )
        ],
    ),
    "a key that is not unique": (
        customer({"email": "="}, key={"name": "c.name"}),
        [
            (
                "mappings[0].key (shop.customer)",
                "name is not unique: 1 values come more than once",
                "one row for each value",
                "choose other columns, or correct the rows at the source",
            )
        ],
    ),
    "a key that is null": (
        customer({"name": "="}, key={"email": "c.email"}),
        [
            (
                "mappings[0].key (shop.customer)",
                "email is NULL in 1 rows",
                "a value in every row",
                "choose other columns, or leave the rows out with `where`",
            )
        ],
    ),
    "a unique set that is not": (
        customer({"name": "="}, unique=[["name"]]),
        [
            (
                "mappings[0].unique[0] (shop.customer)",
                "name is not unique: 1 values come more than once",
                "one row for each value",
                "choose other columns, or correct the rows at the source",
            )
        ],
    ),
    "a key whose cast makes two values one": (
        customer({"name": "="}, key={"id": "c.id"}) | {"columns": {"id": {"from": "c.id / 2.0", "type": "integer"}}}
        | {"key": {"id": "c.id / 2.0"}},
        [
            (
                "mappings[0].key (shop.customer)",
                "id is not unique: 1 values come more than once",
                "one row for each value",
                "choose other columns, or correct the rows at the source",
            )
        ],
    ),
    "a filter that is no predicate": (
        customer({"name": "="}, where="c.balance"),
        [
            (
                "mappings[0].where (shop.customer)",
                "argument of WHERE must be type boolean, not type numeric (at c.balance)",
                "a predicate over the source row",
                "",
            )
        ],
    ),
    "a type that does not exist": (
        customer({"name": {"from": "=", "type": "tekst"}}),
        [
            (
                "mappings[0].columns.name.type (shop.customer)",
                'type "tekst" does not exist (at tekst)',
                "a type that the target knows",
                "Did you mean 'text'?",
            )
        ],
    ),
    "a serial": (
        customer({"number": {"from": "c.id", "type": "bigserial"}}),
        [
            (
                "mappings[0].columns.number.type (shop.customer)",
                'type "bigserial" does not exist (at bigserial)',
                "a type that the target knows",
                "write the integer type and `identity: by default`",
            )
        ],
    ),
    "a cast that does not exist": (
        customer({"name": {"from": "c.balance", "type": "date"}}),
        [
            (
                "mappings[0].columns.name (shop.customer)",
                "cannot cast type numeric to date",
                "an expression that can be cast from numeric(12,4) to date",
                "",
            )
        ],
    ),
    "a rule over a column that the target will not have": (
        customer({"name": "="}, rules={"name is present": "nam <> ''"}),
        [
            (
                "mappings[0].rules.name is present (shop.customer)",
                'column "nam" does not exist (at nam)',
                "a predicate over the target row",
                'Perhaps you meant to reference the column "customer.name".',
            )
        ],
    ),
    "a constraint with a subquery": (
        customer({"name": "="}, constraints={"known": "id IN (SELECT 1)"}),
        [
            (
                "mappings[0].constraints.known (shop.customer)",
                "a CHECK constraint can't hold a subquery",
                "a predicate over one row",
                "write it under `rules`",
            )
        ],
    ),
    "a default that does not fit": (
        customer({"balance": {"from": "=", "default": "'much'"}}),
        [
            (
                "mappings[0].columns.balance.default (shop.customer)",
                'invalid input syntax for type numeric: "much" (at \'much\')',
                "a value that fits numeric(12,4)",
                "",
            )
        ],
    ),
    "a generated column over what is not there": (
        customer({"shout": {"generated": "upper(nam)", "type": "text"}, "name": "="}),
        [
            (
                "mappings[0].columns.shout.generated (shop.customer)",
                'column "nam" does not exist (at nam)',
                "an expression over the target row",
                'Perhaps you meant to reference the column "customer.name".',
            )
        ],
    ),
    "an index over a column that is not there": (
        customer({"name": "="}, indexes=[["nam"]]),
        [
            (
                "mappings[0].indexes[0] (shop.customer)",
                "the mapping has no column nam",
                "one of id, name",
                "Did you mean 'name'?",
            )
        ],
    ),
    "an index over an expression that does not run": (
        customer({"name": "="}, indexes=[["(lower(id))"]]),
        [
            (
                "mappings[0].indexes[0] (shop.customer)",
                "function lower(integer) does not exist (at lower)",
                "an expression",
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            )
        ],
    ),
    "a foreign key to nowhere": (
        customer({"name": "="}, foreign_keys=["name -> shop.custmer"]),
        [
            (
                "mappings[0].foreign_keys[0] (shop.customer)",
                "table shop.custmer is neither in the plan nor on the target",
                "one of shop.customer",
                "Did you mean 'shop.customer'?",
            )
        ],
    ),
    "a foreign key to what is not unique": (
        customer({"name": "="}, foreign_keys=["name -> shop.customer(name)"]),
        [
            (
                "mappings[0].foreign_keys[0] (shop.customer)",
                "nothing makes name of shop.customer unique",
                "its primary key, or columns under its `unique`",
                "",
            )
        ],
    ),
    "a foreign key of another type": (
        customer({"name": "="}, foreign_keys=["name -> shop.customer"]),
        [
            (
                "mappings[0].foreign_keys[0] (shop.customer)",
                "operator does not exist: character varying = integer",
                "columns of types that can be compared: name is character varying(40), id is integer",
                "",
            )
        ],
    ),
    "a table to fill that does not exist": (
        customer({"name": "="}, mode="fill"),
        [
            (
                "mappings[0].target (shop.customer)",
                "table shop.customer does not exist on the target",
                "it, with `mode: fill`",
                "leave `mode` out, and the run makes the table",
            )
        ],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
async def surveyed(cluster: Cluster, second_cluster: Cluster) -> AsyncIterator[Surveyed]:
    """Surveys over one source and one target for all of this module: a survey writes nothing, on neither side."""
    dsn = cluster.create_database("problems")
    cluster.psql(LEGACY, "problems")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(cluster.drop_database, "problems")
        stack.callback(second_cluster.drop_database, "problems")
        reader = await connect(dsn, application_name="test reader", read_only=True)
        target = await connect(second_cluster.create_database("problems"), application_name="test target")
        await target.execute("CREATE SCHEMA taken; CREATE TABLE taken.orders AS SELECT 1 AS id")
        stack.callback(reader.terminate)
        stack.callback(target.terminate)
        yield surveys(reader, target)


@pytest.mark.parametrize("case", CASES)
async def test_a_mapping_is_refused_for(case: str, surveyed: Surveyed) -> None:
    mapping, expected = CASES[case]

    found = await surveyed(mapping)

    assert told(found) == expected


async def test_keys_are_examples_and_stand_in_nothing_that_goes_into_history(surveyed: Surveyed) -> None:
    [problem] = (await surveyed(customer({"email": "="}, key={"name": "c.name"}))).errors

    assert problem.examples == "(ann) 2 times"
    assert "ann" not in f"{problem.found} {problem.expected} {problem.hint}"


async def test_what_a_function_says_about_rows_is_an_example_too(surveyed: Surveyed) -> None:
    key = {"name": "(chr(48 + c.id) || 'x')::integer"}
    [problem] = (await surveyed(customer({"email": "="}, key=key))).errors

    assert "name can't be counted: counting keys: invalid text representation (SQLSTATE 22P02)" in problem.found
    assert 'type integer: "' in problem.examples
    assert "x" not in problem.found.replace("text", "")


async def test_a_phase_that_does_not_run_is_named(surveyed: Surveyed) -> None:
    found = await surveyed(
        customer({"name": "="}),
        rollout=[{"phase": "canary", "where": {"shop.customer": "c.idd = 1"}}, {"phase": "everyone"}],
    )

    assert told(found) == [
        (
            "rollout[0].where (shop.customer)",
            "column c.idd does not exist (at c.idd)",
            "a predicate over the source row",
            'Perhaps you meant to reference the column "c.id".',
        )
    ]


async def test_a_cross_check_is_held_against_both_sides(surveyed: Surveyed) -> None:
    queries = {
        "names": ("SELECT nam FROM customer", "SELECT name FROM shop.custmer"),
        "sums": ("SELECT count(*), sum(id) FROM customer", "SELECT count(*) FROM shop.customer"),
        "good": ("SELECT count(*) FROM customer", "SELECT sum(customer.id) FROM shop.customer"),
    }
    checks = [{"name": name, "source": here, "target": there} for name, (here, there) in queries.items()]

    found = await surveyed(customer({"name": "="}), checks=checks)

    assert [problem[:3] for problem in told(found)] == [
        ("checks[0] (names), source", 'column "nam" does not exist (at nam)', "a query that runs on the source"),
        (
            "checks[0] (names), target",
            'relation "shop.custmer" does not exist (at shop.custmer)',
            "a query that runs on the target",
        ),
        ("checks[1] (sums)", "2 columns from the source, 1 from the target", "the same number on both sides"),
    ]


async def test_all_problems_come_in_one_report(surveyed: Surveyed) -> None:
    found = await surveyed(
        customer({"name": "trim(c.nam)", "email": "=", "balance": "sum(c.balance)"}, where="c.id"),
        {"target": "taken.orders", "source": "public.orders"},
        {"target": "shop.gone", "source": "public.gone", "key": {"id": "id"}, "columns": {}},
        {"target": "shop.doubled", "source": "public.customer", "key": {"name": "name"}, "columns": {}},
        checks=[{"name": "x", "source": "SELECT 1 FROM nowhere", "target": "SELECT 1"}],
    )

    assert sorted(problem[0] for problem in told(found)) == [
        "checks[0] (x), source",
        "mappings[0].columns.balance (shop.customer)",
        "mappings[0].columns.name (shop.customer)",
        "mappings[0].where (shop.customer)",
        "mappings[1].target (taken.orders)",
        "mappings[2].source (shop.gone)",
        "mappings[3].key (shop.doubled)",
    ]


async def test_a_cast_that_rounds_is_said(surveyed: Surveyed) -> None:
    found = await surveyed(customer({"balance": {"from": "=", "type": "numeric(12,2)"}}))

    assert told(found, "warning") == [
        (
            "mappings[0].columns.balance (shop.customer)",
            "numeric(12,4) becomes numeric(12,2): what does not fit is rounded or cut off",
            "",
            "write the rounding into the expression to say that it is meant",
        )
    ]


async def test_a_phase_that_names_no_mapping_of_a_whole_schema_is_refused(
    source: Connection, surveyed: Surveyed
) -> None:
    await source.execute("CREATE TABLE public.customer (id integer PRIMARY KEY)")
    found = await surveyed(
        {"target": "shop.*", "source": "public.*"},
        rollout=[{"phase": "canary", "where": {"shop.custmer": "customer.id = 1"}}, {"phase": "everyone"}],
    )
    (problem,) = [one for one in found.errors if one.where.startswith("rollout")]
    assert problem.found == "shop.custmer is the target of no mapping"
    assert problem.hint == "Did you mean 'shop.customer'?"
