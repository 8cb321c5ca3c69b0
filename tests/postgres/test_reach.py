"""A server that can't be reached: the error says which alias, where it leads, what that means, and no password."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import pytest

from knarr.addresses import Address
from knarr.errors import KnarrError, PlanError, TransientError
from knarr.local.cluster import Cluster
from knarr.local.ports import free_port
from knarr.postgres import session

SECRET: Final = "canary-in-a-mine"


async def refused(address: str, expected: type[KnarrError]) -> KnarrError:
    with pytest.raises(expected) as raised:
        await session.connect(Address(address, "shop"), application_name="reach")
    told = f"{raised.value} {raised.value.detail}"
    assert SECRET not in told
    assert raised.value.hint
    return raised.value


@asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[int]:
    """The port of something that listens and is no PostgreSQL server: it gives its answer and hangs up."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(answer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_nothing_listens() -> None:
    port = free_port()

    error = await refused(f"postgresql://me:{SECRET}@127.0.0.1:{port}/orders", TransientError)

    assert f"can't connect to 'shop' at 127.0.0.1:{port}/orders: no server listens there" in error.message
    assert "the address of 'shop'" in error.hint


async def test_nothing_listens_on_any_of_the_addresses_of_a_name() -> None:
    error = await refused(f"host=localhost port={free_port()} password={SECRET} dbname=orders", TransientError)

    assert "no server listens there" in error.message


async def test_a_name_that_nobody_knows() -> None:
    error = await refused(f"host=db.invalid dbname=orders password={SECRET}", TransientError)

    assert "can't connect to 'shop' at db.invalid:5432/orders: no host of that name is known here" in error.message


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        error = await refused(f"postgresql://me:{SECRET}@127.0.0.1:{port}/orders", TransientError)

    assert f"'shop' at 127.0.0.1:{port}/orders: nobody answered within 1 s" in error.message
    assert "firewall" in error.hint


async def test_what_listens_hangs_up() -> None:
    async with listening(b"") as port:
        error = await refused(f"postgresql://me:{SECRET}@127.0.0.1:{port}/orders", TransientError)

    assert f"'shop' at 127.0.0.1:{port}/orders: what listens there hung up" in error.message


async def test_what_listens_is_something_else() -> None:
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = await refused(f"postgresql://me:{SECRET}@127.0.0.1:{port}/orders", TransientError)

    assert f"'shop' at 127.0.0.1:{port}/orders: what answers there refuses TLS, or is no Postgre" in error.message


async def test_a_server_without_tls(cluster: Cluster) -> None:
    dsn = cluster.dsn("orders").replace("sslmode=disable", "sslmode=require")

    error = await refused(dsn, TransientError)

    assert "'shop' at 127.0.0.1:" in error.message
    assert "refuses TLS" in error.message


async def test_no_such_database(cluster: Cluster) -> None:
    dsn = cluster.dsn("ordrs")

    error = await refused(dsn, PlanError)

    assert f"connecting to 'shop' at 127.0.0.1:{urlsplit(dsn).port}/ordrs: " in error.message
    assert error.sqlstate == "3D000"


async def test_a_wrong_password(cluster: Cluster) -> None:
    port = urlsplit(cluster.dsn()).port

    error = await refused(f"host=127.0.0.1 port={port} user=postgres dbname=x password={SECRET}", PlanError)

    assert f"connecting to 'shop' at 127.0.0.1:{port}/x: " in error.message
    assert error.sqlstate == "28P01"


async def test_no_socket() -> None:
    error = await refused(f"host=/nowhere port=5433 dbname=orders password={SECRET}", TransientError)

    assert "can't connect to 'shop' at /nowhere:5433/orders: the server's local socket is not there" in error.message


async def test_a_mode_of_tls_that_there_is_not() -> None:
    error = await refused(f"postgresql://me:{SECRET}@127.0.0.1/orders?sslmode=requires", PlanError)

    assert "can't connect to 'shop' at 127.0.0.1:5432/orders: `sslmode`" in error.message
    assert "verify-full" in error.message


async def test_an_address_that_is_none() -> None:
    error = await refused(f"mysql://me:{SECRET}@127.0.0.1/orders", PlanError)

    assert "the address of 'shop' is a URL of mysql" in error.message
    assert "postgresql://" in error.hint
