"""What `knarr doctor` asks of the target's role: what the plan needs, and not more."""

import asyncio
from typing import Any, Final

import pytest

from knarr.local.cluster import Cluster
from knarr.plan.models import Plan
from knarr.postgres.session import connect
from knarr.settings import Connections, Settings
from starter.checkup import Line, Wanted, look_at, wanted_by
from starter.exits import Exit

MADE: Final = {"target": "made.customer", "source": "public.customer c", "key": {"id": "c.id"}, "columns": {}}
MERGED: Final = MADE | {"target": "shop.customer", "mode": "merge"}

# Somebody else's table in somebody else's schema, and a knarr schema that the role may make for itself.
TARGET: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id bigint PRIMARY KEY);
CREATE ROLE writer_of_{database} LOGIN PASSWORD 'writer';
GRANT CREATE ON DATABASE {database} TO writer_of_{database};
"""


def plan(*mappings: dict[str, Any], **more: Any) -> Plan:
    return Plan.model_validate({"name": "p", "source": "legacy", "target": "shop", "mappings": list(mappings)} | more)


def test_a_schema_is_to_be_writable_only_where_the_plan_makes_something() -> None:
    [source, target] = wanted_by(plan(MADE, MERGED))
    assert (source.made_in, source.filled) == ((), ())
    assert target.made_in == ("made",)
    assert [table.name for table in target.filled] == ["customer"]
    assert wanted_by(plan(MERGED))[1].made_in == ()
    assert wanted_by(plan(MERGED, types={"kinds.colour": ["red"]}))[1].made_in == ("kinds",)


def test_where_downstream_checks_ask_is_looked_at_too() -> None:
    asked = {"query": "SELECT 1", "target": "SELECT 1"}
    checks = [
        {"name": "a", "query": {"alias": "warehouse"} | asked},
        {"name": "b", "query": {"alias": "shop"} | asked},
        {"name": "c", "redis": {"alias": "cache", "key": "k", "equals": "1"}},
        {"name": "d", "function": "m:f"},
    ]
    assert [each.alias for each in wanted_by(plan(MERGED, downstream=checks))] == [
        "legacy",
        "shop",
        "cache",
        "warehouse",
    ]


async def test_a_redis_server_is_greeted_and_not_taken_for_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("KNARR_CONNECTION_CACHE", f"redis://127.0.0.1:{port}")
    connections = Connections.load(Settings())

    [line], leases = await look_at(connections, Wanted("cache"), needed=1)
    assert (line.outcome, line.found, leases) == ("ok", f"Redis 'cache' at 127.0.0.1:{port} answers", [])
    server.close()
    await server.wait_closed()

    [line], _ = await look_at(connections, Wanted("cache"), needed=1)
    assert (line.outcome, line.exit_code) == ("fail", Exit.UNREACHABLE)
    assert line.found.startswith(f"Redis 'cache' at 127.0.0.1:{port} did not answer")


def test_within_one_database_one_alias_is_both() -> None:
    [both] = wanted_by(plan(MERGED, target="legacy"))
    assert both.is_source
    assert both.is_target
    assert len(both.tables) == len(both.filled) == 1


@pytest.fixture
def database(second_cluster: Cluster, target_dsn: str) -> str:
    name = target_dsn.rsplit("/", 1)[1].partition("?")[0]
    second_cluster.psql(TARGET.format(database=name), name)
    return name


async def seen(monkeypatch: pytest.MonkeyPatch, target_dsn: str, database: str, wanted_plan: Plan) -> list[Line]:
    as_writer = f"postgresql://writer_of_{database}:writer@{target_dsn.split('@', 1)[1]}"
    monkeypatch.setenv("KNARR_CONNECTION_SHOP", as_writer)
    lines, _ = await look_at(Connections.load(Settings()), wanted_by(wanted_plan)[1], needed=1)
    return [line for line in lines if "privileges" in line.subject]


async def granted(target_dsn: str, statement: str) -> None:
    connection = await connect(target_dsn, application_name="test")
    await connection.execute(statement)
    await connection.close()


async def test_a_merge_needs_the_rights_on_its_table_and_none_to_make_tables(
    monkeypatch: pytest.MonkeyPatch, target_dsn: str, database: str
) -> None:
    role, merge = f"writer_of_{database}", plan(MERGED)
    told = await seen(monkeypatch, target_dsn, database, merge)
    assert [line.next for line in told] == [
        f"GRANT USAGE ON SCHEMA shop TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON shop.customer TO {role}",
    ]
    await granted(target_dsn, f"GRANT USAGE ON SCHEMA shop TO {role}; GRANT ALL ON shop.customer TO {role}")
    [line] = await seen(monkeypatch, target_dsn, database, merge)
    assert (line.outcome, line.found) == ("ok", f"role {role} may write what the plan names")
    [line] = await seen(monkeypatch, target_dsn, database, plan(MADE | {"target": "shop.other"}))
    assert line.next == f"GRANT USAGE, CREATE ON SCHEMA shop TO {role}"


async def test_the_knarr_schema_is_still_to_be_made(
    monkeypatch: pytest.MonkeyPatch, target_dsn: str, database: str
) -> None:
    role = f"writer_of_{database}"
    await granted(
        target_dsn,
        f"GRANT USAGE ON SCHEMA shop TO {role}; GRANT ALL ON shop.customer TO {role}; "
        f"REVOKE CREATE ON DATABASE {database} FROM {role}",
    )
    [line] = await seen(monkeypatch, target_dsn, database, plan(MERGED))
    assert (line.outcome, line.found) == ("fail", f"role {role} may not make schema knarr")


async def test_a_table_that_is_to_be_there_and_is_not_is_named(
    monkeypatch: pytest.MonkeyPatch, target_dsn: str, database: str
) -> None:
    await granted(target_dsn, f"GRANT USAGE ON SCHEMA shop TO writer_of_{database}")
    [line] = await seen(monkeypatch, target_dsn, database, plan(MERGED | {"target": "shop.nothing"}))
    assert (line.outcome, line.found) == ("fail", "no such table: shop.nothing")
