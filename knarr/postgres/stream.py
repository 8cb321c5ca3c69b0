"""Bytes from COPY TO on one connection to COPY FROM on another; either end that fails stops the other at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import asyncpg
from pydantic import BaseModel, ConfigDict

from knarr.errors import DataError, KnarrError, TransientError
from knarr.plan.resolved import TableName
from knarr.postgres.failures import classify
from knarr.postgres.session import Connection
from knarr.postgres.transform import Transformation

DEPTH: Final = 16  # chunks between reader and writer; more gains nothing (research/performance.md 1.1)
# A chunk is a row at least, and a row can be large: beyond so much the reader waits until it is written.
MOST_HELD: Final = 16 * 1024 * 1024
# The driver copies what it is given twice on its way to the socket; of a large row that is to be a piece at a time.
PIECE: Final = 1024 * 1024
WATCH_SECONDS: Final = 10.0

STATE: Final = "SELECT state FROM pg_stat_activity WHERE pid = $1"
FAILED: Final = "idle in transaction (aborted)"

Reconnect = Callable[[], contextlib.AbstractAsyncContextManager[Connection]]
OnBytes = Callable[[int], None]


class Streamed(BaseModel):
    """What went through: rows by the servers' own count, bytes as the source sent them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    bytes: int


class Stream:
    """One COPY from a query on the source into a table of the target, inside their open transactions.

    asyncpg's `copy_to_table` learns of a server's error, and of a lost connection, only when its input ends. So this
    watches for both: a lost connection ends the copy, and so does a target whose transaction has failed.
    """

    def __init__(self, source: Connection, target: Connection, doing: str, on_bytes: OnBytes) -> None:
        self._source = source
        self._target = target
        self._doing = doing
        self._on_bytes = on_bytes
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(DEPTH)
        self._bytes = 0
        self._held = 0
        self._written = asyncio.Event()
        self._failed_early = False
        self._lost: list[str] = []

    async def run(
        self,
        query: str,
        table: TableName,
        columns: list[str],
        copy_format: Literal["binary", "text"],
        transformation: Transformation | None,
        reconnect: Reconnect,
    ) -> Streamed:
        """Copies and returns what went through; the caller commits.

        Raises:
            DataError: the rows are not what the target takes, or the target took fewer than it was given.
            TransientError: a connection or a server was lost.
            PlanError: the query or the table is wrong.
        """
        reading = asyncio.create_task(self._read(query, copy_format))
        chunks: AsyncIterator[bytes] = self._chunks(reading)
        if transformation is not None:
            chunks = transformation.lines(chunks)
        writing = asyncio.create_task(
            self._target.copy_to_table(
                table.name, source=_pieces(chunks), columns=columns, schema_name=table.schema_name, format=copy_format
            )
        )
        watching = asyncio.create_task(self._watch(reconnect))

        def source_lost(_: object) -> None:
            self._lost.append("source")
            writing.cancel()

        def target_lost(_: object) -> None:
            self._lost.append("target")
            writing.cancel()

        self._source.add_termination_listener(source_lost)
        self._target.add_termination_listener(target_lost)
        try:
            taken = await writing
            given = await reading if reading.done() else None
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._lost and current is not None and not current.cancelling():
                raise self._connection_lost() from None
            raise
        except KnarrError:
            raise
        except Exception as error:
            if self._lost:
                raise self._connection_lost() from error
            raise classify(error, f"{self._doing}: writing on the target") from error
        finally:
            self._source.remove_termination_listener(source_lost)
            self._target.remove_termination_listener(target_lost)
            await _stop(watching, reading, writing)
        return self._account(given, taken)

    def _connection_lost(self) -> TransientError:
        return TransientError(
            f"{self._doing}: the connection to the {self._lost[0]} was lost in the middle of the copy",
            hint="nothing of this partition was written; it is retried",
            sqlstate="08006",
        )

    def _account(self, given: str | None, taken: str) -> Streamed:
        if given is None:
            raise TransientError(f"{self._doing}: the copy was stopped before the source had given all its rows")
        rows, written = _rows(given), _rows(taken)
        if rows != written:
            raise DataError(
                f"{self._doing}: the source gave {rows:,} rows, the target took {written:,}",
                hint="a trigger or a rule on the target leaves rows out; nothing of this partition was written",
            )
        return Streamed(rows=rows, bytes=self._bytes)

    async def _read(self, query: str, copy_format: Literal["binary", "text"]) -> str:
        try:
            return await self._source.copy_from_query(query, output=self._put, format=copy_format)
        except Exception as error:
            raise classify(error, f"{self._doing}: reading from the source") from error
        finally:
            # Tells the writer that there is no more; a cancelled reader has a cancelled writer.
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(None)

    async def _put(self, chunk: bytes) -> None:
        """Returns when there is room for more: the driver reads nothing meanwhile."""
        self._held += len(chunk)
        await self._queue.put(chunk)
        while self._held > MOST_HELD:
            self._written.clear()
            await self._written.wait()

    async def _chunks(self, reading: "asyncio.Task[str]") -> AsyncIterator[bytes]:
        while not self._failed_early:
            chunk = await self._next(reading)
            if chunk is None:
                # Raises the source's error here, inside the input, so that asyncpg sends CopyFail: an end of copy after
                # an error would commit a part as if it were the whole.
                await reading
                return
            self._bytes += len(chunk)
            self._on_bytes(self._bytes)
            size = len(chunk)
            yield chunk
            del chunk
            self._held -= size
            self._written.set()

    async def _next(self, reading: "asyncio.Task[str]") -> bytes | None:
        if reading.done() and self._queue.empty():
            return None
        return await self._queue.get()

    async def _watch(self, reconnect: Reconnect) -> None:
        """Ends the input once the target's transaction has failed, so that its error is heard before the last row."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                async with reconnect() as other:
                    state = await other.fetchval(STATE, self._target.get_server_pid())
            except (KnarrError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                continue  # the copy itself will tell what is wrong with the server
            if state == FAILED:
                self._failed_early = True
                return


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if len(chunk) <= PIECE:
            yield chunk
            continue
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]


async def _stop(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _rows(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
