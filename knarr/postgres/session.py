"""Connections whose settings are pinned, and the pools that lend them and never take a poisoned one back."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import asyncpg
from pydantic import SecretStr

from knarr import addresses
from knarr.postgres.failures import classified
from knarr.postgres.reach import reaching
from knarr.settings import Connections

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # has no type parameters when it runs

CONNECT_SECONDS: Final = 20.0
RELEASE_SECONDS: Final = 5.0
END_SECONDS: Final = 3.0

# Sent with the start-up packet, so that RESET ALL and DISCARD ALL come back to them. Values in text must look the
# same on both sides (research/performance.md 4.2); a plan author's SQL finds built-in names first, then `public`,
# and pg_temp last, since it would come first if it were not named.
PINNED: Final[dict[str, str]] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "search_path": "pg_catalog, public, pg_temp",
    # A row that a policy hides must be an error, not a row fewer.
    "row_security": "off",
    "lock_timeout": "30s",
    # Ends a session whose worker froze between two statements (measured, M4), late enough for one side of a
    # comparison to wait for the other; a retry ends it at once (lease.step_lock).
    "idle_in_transaction_session_timeout": "6h",
    # A dead peer is noticed within about 11 s (measured, M6).
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}

# A backend that is busy with a query notices that its client has gone only with this; PostgreSQL before 14, or not on
# Linux, refuses it.
WHERE_KNOWN: Final[dict[str, str]] = {"client_connection_check_interval": "5s"}


class _KeptAlive(Connection):
    """A connection whose own end also asks after a silent peer; asyncpg leaves that to the kernel's two hours."""

    __slots__ = ()

    def __init__(self, protocol, transport, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(protocol, transport, *args, **kwargs)
        peer = transport.get_extra_info("socket")
        if peer is None or peer.family not in (socket.AF_INET, socket.AF_INET6):
            return
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):  # macOS has no TCP_KEEPIDLE
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def short_name(application_name: str) -> str:
    """The name cut to what the server keeps: 63 bytes, never in the middle of a character."""
    return application_name.encode("utf-8")[:63].decode("utf-8", "ignore")


async def connect(dsn: SecretStr | str, *, application_name: str, read_only: bool = False) -> Connection:
    """A new pinned connection.

    Args:
        dsn: postgresql://... or libpq's key=value spelling.
        application_name: what pg_stat_activity shows; cut to 63 bytes.
        read_only: transactions are read only unless they say otherwise: a seat belt. The guard is the role's grants.

    Raises:
        PlanError: wrong password, no such database, a certificate that does not match, an address that is none.
        TransientError: nobody answered. Each names the alias, the server and the database.
    """
    address = dsn if isinstance(dsn, SecretStr) else SecretStr(dsn)
    settings = {**PINNED, "application_name": short_name(application_name)}
    if read_only:
        settings["default_transaction_read_only"] = "on"
    with reaching(address, CONNECT_SECONDS):
        try:
            return await _connect(address, settings | WHERE_KNOWN)
        except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
            return await _connect(address, settings)


async def _connect(address: SecretStr, settings: dict[str, str]) -> Connection:
    connecting = asyncpg.connect(
        addresses.driver_url(address),
        connection_class=_KeptAlive,
        server_settings=settings,
        timeout=CONNECT_SECONDS,
        # Plans of statements that were prepared before a DDL of ours would fail once after it.
        statement_cache_size=0,
    )
    return await connecting


async def end(connection: Connection) -> None:
    """Ends a connection whatever it is doing: its query is cancelled and its transaction rolled back, within seconds.

    Closing the socket alone would leave a busy backend to finish its query for nobody.
    """
    try:
        await connection.close(timeout=END_SECONDS)
    except Exception:
        connection.terminate()  # it could not say good-bye; all that matters is that it goes


async def rename(connection: Connection, application_name: str) -> None:
    """Shows what the connection is doing until it goes back to its pool."""
    await connection.execute("SELECT set_config('application_name', $1, false)", short_name(application_name))


class Pools:
    """One pool of pinned connections for each alias, filled on demand.

    Args:
        connections: where the aliases lead.
        application_name: the name that idle connections carry.
        size: how many connections of one alias and kind may be lent at once; more callers wait.
    """

    def __init__(self, connections: Connections, *, application_name: str = "knarr", size: int = 32) -> None:
        self._connections = connections
        self._application_name = application_name
        self._size = size
        self._idle: dict[tuple[str, bool], list[Connection]] = {}
        self._seats: dict[tuple[str, bool], asyncio.Semaphore] = {}
        self._lent: set[Connection] = set()

    @contextlib.asynccontextmanager
    async def acquire(
        self, alias: str, *, application_name: str | None = None, read_only: bool = False
    ) -> AsyncIterator[Connection]:
        """Lends a connection; it is ended, not taken back, when the block leaves by an exception or a cancellation.

        Raises:
            PlanError, TransientError: as `connect`.
        """
        kind = (alias, read_only)
        seats = self._seats.setdefault(kind, asyncio.Semaphore(self._size))
        async with seats:
            connection = await self._take(kind)
            self._lent.add(connection)
            try:
                if application_name:
                    with classified(f"connecting to '{alias}'"):
                        await rename(connection, application_name)
                yield connection
            except BaseException:
                await end(connection)
                raise
            else:
                await self._take_back(kind, connection)
            finally:
                self._lent.discard(connection)

    async def _take(self, kind: tuple[str, bool]) -> Connection:
        idle = self._idle.setdefault(kind, [])
        while idle:
            connection = idle.pop()
            if not connection.is_closed():
                return connection
        alias, read_only = kind
        address = self._connections.resolve(alias)
        return await connect(address, application_name=self._application_name, read_only=read_only)

    async def _take_back(self, kind: tuple[str, bool], connection: Connection) -> None:
        try:
            # RESET ALL, and so on: back to what `connect` pinned, with no lock, cursor or transaction left.
            await connection.reset(timeout=RELEASE_SECONDS)
        except Exception:
            # The borrower's work is done; a connection that can't be reset is of no use to the next one.
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise
        else:
            self._idle[kind].append(connection)

    def resolve(self, alias: str) -> SecretStr:
        """The address behind an alias, for what is no PostgreSQL server. Raises PlanError where it leads nowhere."""
        return self._connections.resolve(alias)

    def redact(self, text: str) -> str:
        """The text without any address or password that the aliases stand for."""
        return self._connections.redact(text)

    async def close(self) -> None:
        """Ends all connections; those that are lent out are cut off, and their transactions roll back."""
        idle = [connection for kept in self._idle.values() for connection in kept]
        self._idle.clear()
        for connection in self._lent:
            connection.terminate()
        for connection in idle:
            await end(connection)
