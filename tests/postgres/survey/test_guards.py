"""Guards are asked of the databases before a run begins: each must run, be allowed and give one number."""

from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import SecretStr

from knarr.postgres.session import Connection
from knarr.postgres.survey import Surroundings
from knarr.settings import Connections
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


async def test_a_guard_on_a_further_connection_is_tried_there(
    surveyed: Surveyed, source: Connection, source_dsn: str
) -> None:
    await source.execute(AUTHORS)
    connections = Connections({"warehouse": SecretStr(source_dsn)}, Path("knarr.toml"))
    asked = [
        guard("SELECT count(*) FROM public.author", "warehouse", "well"),
        guard("SELECT count(*) FROM public.custmer", "warehouse", "mistyped"),
        guard("SELECT count(*) FROM public.author", "warehous", "nowhere"),
    ]

    found = told(await surveyed(MOVED, guards=asked, around=Surroundings(connections.resolve, [])))

    assert [one[0] for one in found] == ["guards[1].query (mistyped)", "guards[2].on (nowhere)"]
    assert found[0][1] == 'relation "public.custmer" does not exist (at public.custmer)'
    assert found[1][1].startswith("connection 'warehous' leads nowhere")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("SELECT count(*) > 9 FROM pg_stat_activity", None),
        ("SELECT count(*) FROM pg_stat_activity", "a column of type bigint"),
        ("SELECT busy FROM public.nosuch", 'relation "public.nosuch" does not exist (at public.nosuch)'),
    ],
)
async def test_what_holds_verification_is_tried_too(
    query: str, problem: str | None, surveyed: Surveyed, source: Connection
) -> None:
    await source.execute(AUTHORS)

    found = told(await surveyed(MOVED, verification={"pause_while": {"query": query, "on": "source"}}))

    assert [one[:2] for one in found] == ([] if problem is None else [("verification.pause_while.query", problem)])
