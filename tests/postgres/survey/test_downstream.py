"""Downstream checks are held against what is there before a run; what only the run will show is said to be so."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import SecretStr

from knarr.postgres.session import Connection
from knarr.postgres.survey import Surroundings
from knarr.settings import Connections
from tests.postgres.survey.conftest import Surveyed, told

MODULES: Final = itertools.count(1)
AUTHORS: Final = (
    "CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL); INSERT INTO author VALUES (1, 'ann')"
)
MOVED: Final = {"target": "shop.author", "source": "public.author"}
WAREHOUSE: Final = "CREATE SCHEMA crm; CREATE TABLE crm.author (id integer)"


def query(asked: str, target: str = "SELECT count(*) FROM shop.author", alias: str = "warehouse") -> dict[str, Any]:
    return {"name": "d", "query": {"alias": alias, "query": asked, "target": target}}


@pytest.fixture
def around(source_dsn: str, tmp_path: Path) -> Surroundings:
    """An alias of the source's database that the plan does not move from, and a folder for functions."""
    nobody = f"postgresql://127.0.0.1:{unused_port()}/nobody"
    addresses = {"warehouse": source_dsn, "down": nobody, "cache": f"redis://:secret@127.0.0.1:{unused_port()}/0"}
    secrets = {alias: SecretStr(address) for alias, address in addresses.items()}
    return Surroundings(Connections(secrets, Path("knarr.toml")).resolve, [tmp_path])


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("broken", "where", "found", "expected"),
    [
        (
            query("SELECT count(*) FROM crm.author", alias="warehous"),
            "downstream[0].query.alias (d)",
            "connection 'warehous' leads nowhere",
            "a PostgreSQL database that can be reached",
        ),
        (
            query("SELECT count(*) FROM crm.author", alias="down"),
            "downstream[0].query.alias (d)",
            "can't connect to 'down' at 127.0.0.1:",
            "a PostgreSQL database that can be reached",
        ),
        (
            query("SELECT count(*) FROM crm.nosuch"),
            "downstream[0].query.query (d)",
            'relation "crm.nosuch" does not exist (at crm.nosuch)',
            "a query that runs on warehouse",
        ),
        (
            query("SELECT count(*) FROM crm.author", "SELECT count(*) FROM shop.nosuch"),
            "downstream[0].query.target (d)",
            'relation "shop.nosuch" does not exist (at shop.nosuch)',
            "a query that runs on the target",
        ),
        (
            query("SELECT id, id FROM crm.author", "SELECT id FROM shop.author"),
            "downstream[0].query (d)",
            "2 columns from warehouse, 1 from the target",
            "the same number on both sides",
        ),
        (
            {"name": "d", "redis": {"alias": "nobody", "key": "k", "equals": "1"}},
            "downstream[0].redis.alias (d)",
            "connection 'nobody' leads nowhere",
            "the address of a Redis server",
        ),
        (
            {"name": "d", "redis": {"alias": "warehouse", "key": "k", "equals": "1"}},
            "downstream[0].redis.alias (d)",
            "a downstream check names a connection 'warehouse' whose address is no Redis server's",
            "a Redis server that answers",
        ),
        (
            {"name": "d", "redis": {"alias": "cache", "key": "k", "equals": "1"}},
            "downstream[0].redis.alias (d)",
            "Redis 'cache' at 127.0.0.1:",
            "a Redis server that answers",
        ),
        (
            {"name": "d", "function": "nosuchmodule:f"},
            "downstream[0].function (d)",
            "function 'nosuchmodule:f': no module 'nosuchmodule' in ",
            "a Python function that is called without arguments",
        ),
    ],
)
async def test_a_check_that_can_not_be_asked_is_found(
    broken: dict[str, Any],
    where: str,
    found: str,
    expected: str,
    surveyed: Surveyed,
    source: Connection,
    around: Surroundings,
) -> None:
    await source.execute(AUTHORS + ";" + WAREHOUSE)

    [problem] = told(await surveyed(MOVED, downstream=[broken], around=around))

    assert (problem[0], problem[2]) == (where, expected)
    assert problem[1].startswith(found)
    assert not any(word in "".join(problem) for word in ("secret", "tries again"))


async def test_what_the_role_may_not_ask_is_found(surveyed: Surveyed, source: Connection, around: Surroundings) -> None:
    await source.execute(AUTHORS + ";" + WAREHOUSE)
    await source.execute("CREATE ROLE looking LOGIN PASSWORD 'looking'; GRANT USAGE ON SCHEMA crm TO looking")
    try:
        login = around.resolve("warehouse").get_secret_value().split("@", 1)[1]
        as_looking = Connections({"warehouse": SecretStr(f"postgresql://looking:looking@{login}")}, Path("knarr.toml"))
        asked = [query("SELECT count(*) FROM crm.author")]
        found = await surveyed(MOVED, downstream=asked, around=Surroundings(as_looking.resolve, around.folders))
    finally:
        await source.execute("DROP OWNED BY looking; DROP ROLE looking")

    assert [problem[:3] for problem in told(found)] == [
        ("downstream[0].query.query (d)", "permission denied for table author", "a query that this role may run")
    ]


async def test_what_the_run_makes_is_known_later_on_a_copy_of_the_target(
    surveyed: Surveyed, source: Connection, around: Surroundings
) -> None:
    await source.execute(AUTHORS)

    found = await surveyed(MOVED, downstream=[query("SELECT count(*) FROM shop.author")], around=around)

    assert told(found) == []
    assert [problem[:3] for problem in told(found, "warning")] == [
        (
            "downstream[0].query.query (d)",
            'relation "shop.author" does not exist (at shop.author): the query asks for what the run will make on the '
            "target",
            "that warehouse has it too when it is asked, after the last phase; that can't be known now",
        )
    ]


async def test_a_host_that_is_not_known_yet_is_warned_of(
    surveyed: Surveyed, source: Connection, around: Surroundings
) -> None:
    await source.execute(AUTHORS)
    urls = ["http://shop.invalid/orders", f"http://127.0.0.1:{unused_port()}/"]
    checks = [{"name": url, "http": {"url": url, "equals": 1}} for url in urls]

    found = await surveyed(MOVED, downstream=checks, around=around)

    assert told(found) == []
    assert [problem[:2] for problem in told(found, "warning")] == [
        ("downstream[0].http.url (http://shop.invalid/orders)", "no host shop.invalid is known here (gaierror)")
    ]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def f():\n    raise RuntimeError('called')", None),
        ("def f(rows=()):\n    return []", None),
        ("f = dict", None),
        ("def f(rows):\n    return []", "function '{}:f' wants arguments"),
        ("async def f():\n    return []", "function '{}:f' is async"),
        ("def g():\n    return []", "function '{0}:f': {1}/{0}.py has no function 'f'"),
        ("raise RuntimeError('secret')", "function '{}:f': importing it failed: RuntimeError at {0}, line 1"),
    ],
)
async def test_a_function_is_imported_and_not_called(
    code: str, problem: str | None, surveyed: Surveyed, source: Connection, around: Surroundings
) -> None:
    await source.execute(AUTHORS)
    module = f"survey_downstream_{next(MODULES)}"
    (around.folders[0] / f"{module}.py").write_text(code)

    found = await surveyed(MOVED, downstream=[{"name": "d", "function": f"{module}:f"}], around=around)

    wanted = [] if problem is None else [problem.replace("{}", "{0}").format(module, around.folders[0])]
    assert [one[1] for one in told(found)] == wanted


async def test_the_function_of_a_mapping_is_imported_too(
    surveyed: Surveyed, source: Connection, around: Surroundings
) -> None:
    await source.execute(AUTHORS)
    module = f"survey_downstream_{next(MODULES)}"
    (around.folders[0] / f"{module}.py").write_text("def clean(rows):\n    return rows")

    async def found(function: str) -> list[str]:
        transform = {"function": f"{module}:{function}", "columns": ["name"]}
        return [one[0] for one in told(await surveyed(MOVED | {"transform": transform}, around=around))]

    assert await found("clean") == []
    assert await found("clear") == ["mappings[0].transform (shop.author)"]


@pytest.fixture
async def redis() -> AsyncIterator[str]:
    """The address of a server that answers a PING and nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n" if asked.startswith(b"*1\r\n") else b"-ERR\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await server.wait_closed()


async def test_checks_that_can_be_asked_are_no_matter(
    surveyed: Surveyed, source: Connection, source_dsn: str, redis: str
) -> None:
    await source.execute(AUTHORS + ";" + WAREHOUSE)
    checks = [
        query("SELECT count(*) FROM crm.author"),
        query("SELECT count(*) FROM shop.author", alias="shop") | {"name": "e"},
        query("SELECT 1", "SELECT sum(rows) FROM knarr.ledger") | {"name": "f"},
        {"name": "g", "redis": {"alias": "cache", "key": "k", "equals": "1"}},
    ]
    addresses = {"warehouse": source_dsn, "shop": source_dsn, "cache": redis}
    connections = Connections({alias: SecretStr(each) for alias, each in addresses.items()}, Path("knarr.toml"))

    found = await surveyed(MOVED, downstream=checks, around=Surroundings(connections.resolve, []))

    assert told(found) == []
    assert [problem for problem in told(found, "warning") if problem[0].startswith("downstream")] == []


async def test_a_table_whose_source_is_missing_is_told_once(
    surveyed: Surveyed, source: Connection, around: Surroundings
) -> None:
    await source.execute(AUTHORS + ";" + WAREHOUSE)
    lost = {"target": "shop.lost", "source": "public.lost"}
    asked = query("SELECT count(*) FROM crm.author", "SELECT count(*) FROM shop.lost")
    checks = [{"name": "c", "source": "SELECT count(*) FROM author", "target": "SELECT count(*) FROM shop.lost"}]

    found = await surveyed(MOVED, lost, checks=checks, downstream=[asked], around=around)

    assert [problem[0] for problem in told(found)] == ["mappings[1].source (shop.lost)"]
