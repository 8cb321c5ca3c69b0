"""Guards are asked of the databases before a run begins: each must run, be allowed and give one number."""

from typing import Any, Final

import pytest

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, told

AUTHORS: Final = (
    "CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL); INSERT INTO author VALUES (1, 'ann')"
)
MOVED: Final = {"target": "shop.author", "source": "public.author"}


def guard(query: str, on: str = "target", name: str = "g") -> dict[str, Any]:
    return {"name": name, "on": on, "query": query, "max": 1}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (
            guard("SELECT count(*) FROM public.custmer", "source"),
            (
                "guards[0].query (g)",
                'relation "public.custmer" does not exist (at public.custmer)',
                "a query that runs on the source",
            ),
        ),
        (
            guard("SELECT count(*) FROM shop.author WHERE nam = ''", "shop"),
            ("guards[0].query (g)", 'column "nam" does not exist (at nam)', "a query that runs on the target"),
        ),
        (
            guard("SELECT id, id FROM shop.author"),
            ("guards[0].query (g)", "2 columns", "one column, which is a number"),
        ),
        (
            guard("SELECT max(name) FROM shop.author"),
            ("guards[0].query (g)", "a column of type text", "one column, which is a number"),
        ),
    ],
)
async def test_a_guard_that_can_not_be_asked_is_found(
    broken: dict[str, Any], problem: tuple[str, str, str], surveyed: Surveyed, source: Connection
) -> None:
    await source.execute(AUTHORS)
    found = await surveyed(MOVED, guards=[broken])

    assert [one[:3] for one in told(found)] == [problem]


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_guard_that_the_role_may_not_ask_is_found(
    side: str, surveyed: Surveyed, source: Connection, target: Connection, reader: Connection
) -> None:
    await source.execute(AUTHORS)
    for connection in (source, target):
        await connection.execute("CREATE TABLE public.closed ()")
    asking, owner = (reader, source) if side == "source" else (target, target)
    await owner.execute("CREATE ROLE guarding")
    try:
        await asking.execute("SET ROLE guarding")
        found = await surveyed(
            MOVED,
            guards=[guard("SELECT count(*) FROM public.closed", side)],
        )
    finally:
        await asking.execute("RESET ROLE")
        await owner.execute("DROP ROLE guarding")

    assert [one[:3] for one in told(found) if one[0].startswith("guards")] == [
        ("guards[0].query (g)", "permission denied for table closed", "a query that this role may run")
    ]


async def test_guards_that_can_be_asked_are_no_problem(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(AUTHORS)
    await target.execute("CREATE TABLE public.load (now real)")
    asked = [
        guard("SELECT count(*) FROM shop.author WHERE name = ''", name="of a table that the run makes"),
        guard("SELECT max(now) FROM public.load", name="of a table that is there"),
        guard("SELECT count(*)::numeric FROM public.author", "source", name="of the source"),
        guard("SELECT sum(rows) FROM knarr.ledger", name="of what a run has only once it is claimed"),
        guard("SELECT 1 FROM nowhere", "elsewhere", name="of a server that the survey has no connection to"),
    ]

    found = await surveyed(MOVED, guards=asked)

    assert told(found) == []
