"""A Redis key as a downstream check sees it: over a server that speaks the few words of the protocol that are asked."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from knarr.addresses import Address
from knarr.errors import DataError, PlanError, TransientError
from knarr.redis import get, greet

ANSWERS = {
    b"AUTH|ann|p@ss": b"+OK\r\n",
    b"AUTH|wrong": b"-WRONGPASS invalid\r\n",
    b"AUTH|repeated": b"-ERR unknown command 'AUTH', with args beginning with: 'repeated'\r\n",
    b"AUTH|odd": b"$odd\r\n",
    b"PING": b"+PONG\r\n",
    b"SELECT|3": b"+OK\r\n",
    b"GET|orders": b"$9\r\n20 \r\n000\xc3\r\n",
    b"GET|gone": b"$-1\r\n",
    b"GET|list": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server that reads commands as RESP arrays."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            writer.write(ANSWERS[b"|".join(words)])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


async def test_a_string_is_read_whatever_it_holds_and_a_key_that_is_gone_is_none(port: int) -> None:
    address = SecretStr(f"redis://ann:p%40ss@127.0.0.1:{port}/3")
    assert await get(address, "orders") == "20 \r\n000\udcc3"
    assert await get(address, "gone") is None


async def test_what_the_server_refuses_is_said(port: int) -> None:
    with pytest.raises(DataError, match="WRONGTYPE"):
        await get(SecretStr(f"redis://127.0.0.1:{port}"), "list")
    with pytest.raises(DataError, match="refused AUTH: WRONGPASS") as refused:
        await get(SecretStr(f"redis://:wrong@127.0.0.1:{port}"), "orders")
    assert "wrong@" not in str(refused.value)


async def test_a_server_that_repeats_the_password_is_not_quoted(port: int) -> None:
    with pytest.raises(DataError, match=r"refused AUTH: ERR\s") as refused:
        await get(SecretStr(f"redis://:repeated@127.0.0.1:{port}"), "orders")
    assert "repeated" not in f"{refused.value} {refused.value.detail}"


async def test_it_may_be_greeted_without_asking_for_a_key(port: int, unused_port: int) -> None:
    assert await greet(Address(f"redis://ann:p%40ss@127.0.0.1:{port}/3", "cache")) == (
        f"Redis 'cache' at 127.0.0.1:{port}"
    )
    with pytest.raises(DataError, match="refused AUTH: WRONGPASS"):
        await greet(SecretStr(f"redis://:wrong@127.0.0.1:{port}"))
    with pytest.raises(DataError, match="does not speak as a Redis server does"):
        await greet(SecretStr(f"redis://:odd@127.0.0.1:{port}"))
    with pytest.raises(TransientError, match="did not answer"):
        await greet(SecretStr(f"redis://127.0.0.1:{unused_port}"))


async def test_another_address_is_a_mistake_and_silence_may_pass(port: int, unused_port: int) -> None:
    with pytest.raises(PlanError, match="no Redis server"):
        await get(SecretStr("postgresql://127.0.0.1/shop"), "orders")
    with pytest.raises(TransientError, match="did not answer"):
        await get(SecretStr(f"redis://127.0.0.1:{unused_port}"), "orders")


async def test_an_error_names_the_alias_and_no_piece_of_the_password(unused_port: int) -> None:
    with pytest.raises(TransientError, match=f"Redis 'cache' at 127.0.0.1:{unused_port} did not answer"):
        await get(Address(f"redis://:canary@127.0.0.1:{unused_port}", "cache"), "orders")
    with pytest.raises(PlanError, match="a connection 'cache' whose address") as raised:
        await get(Address("redis://:zanz/ibar@127.0.0.1", "cache"), "orders")
    assert "zanz" not in f"{raised.value} {raised.value.detail}"


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
