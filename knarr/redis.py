"""Asking a Redis server for one string: the few lines of its protocol that a check needs, without a client library."""

import asyncio
import ssl
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from knarr.addresses import Address
from knarr.errors import DataError, PlanError, TransientError

SCHEMES: Final = ("redis", "rediss")
DEFAULT_PORT: Final = 6379
SECONDS: Final = 10.0
LARGEST_VALUE: Final = 8 * 1024 * 1024  # bytes


def is_address(address: SecretStr) -> bool:
    """Whether it is meant to be a Redis server's."""
    return address.get_secret_value().partition("://")[0] in SCHEMES


async def get(address: SecretStr, key: str) -> str | None:
    """The string under a key; None when there is no such key.

    Args:
        address: redis://[user:password@]host[:port][/database], or rediss:// for TLS.
        key: the key's name.

    Raises:
        PlanError: the address is none of a Redis server.
        DataError: the server refuses, or the key holds something other than a string.
        TransientError: nobody answered in time.
    """
    return await _asked(address, "GET", key)


async def greet(address: SecretStr) -> str:
    """Logs in, chooses the database and asks for no key; returns where that was. Arguments and errors as above."""
    await _asked(address, "PING")
    return _where(address, urlsplit(address.get_secret_value()))


async def _asked(address: SecretStr, *command: str) -> str | None:
    try:
        parts = urlsplit(address.get_secret_value())
        port = parts.port or DEFAULT_PORT
    except ValueError:  # which quotes what it took for a port: it may be a piece of the password
        parts, port = urlsplit(""), 0
    if parts.scheme not in SCHEMES or not parts.hostname:
        alias = f"'{address.alias}' " if isinstance(address, Address) else ""
        raise PlanError(
            f"a downstream check names a connection {alias}whose address is no Redis server's",
            hint="redis://host:port/0; special characters of the password are percent-encoded: / as %2F, @ as %40",
        )
    secure = ssl.create_default_context() if parts.scheme == "rediss" else None
    where = _where(address, parts)
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
            try:
                if parts.password:
                    user = [unquote(parts.username)] if parts.username else []
                    await _ask(reader, writer, where, "AUTH", *user, unquote(parts.password))
                if database := parts.path.strip("/"):
                    await _ask(reader, writer, where, "SELECT", database)
                return await _ask(reader, writer, where, *command)
            finally:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise TransientError(
            f"{where} did not answer: {type(error).__name__}", hint="check that it is up, and the host and port there"
        ) from error
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise DataError(
            f"{where} does not speak as a Redis server does: {type(error).__name__}", hint="check the host and port"
        ) from error


def _where(address: SecretStr, parts: SplitResult) -> str:
    alias = f"'{address.alias}' " if isinstance(address, Address) else ""
    return f"Redis {alias}at {parts.hostname}:{parts.port or DEFAULT_PORT}"


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str, *words: str) -> str | None:
    encoded = [word.encode() for word in words]
    writer.write(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded))
    await writer.drain()
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:].decode(errors="replace")
    if kind == b"+":
        return rest
    if kind == b"$":
        length = int(rest)
        if length < 0:
            return None
        if length > LARGEST_VALUE:
            raise DataError(f"{where} answered {words[0]} with {length} bytes")
        return (await reader.readexactly(length + 2))[:-2].decode(errors="surrogateescape")
    if words[0] == "AUTH":
        # A server that does not know the order may repeat all its words, the password among them.
        raise DataError(
            f"{where} refused AUTH: {rest.partition(' ')[0]}", hint="check user and password in the alias's address"
        )
    raise DataError(f"{where} refused {words[0]}: {rest}", hint="a downstream check reads a key that holds a string")
