"""A TCP proxy that fails on demand: cuts, delays, goes silent, loses bytes, or resets just after a COMMIT went through.

It runs in a thread with a loop of its own, so that a test that blocks does not slow it. A proxy that goes silent is
not a dropped packet: this machine's kernel still answers keepalives (research/reliability.md, M6), so it is like a peer
that froze.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

CHUNK: Final = 65_536
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
# What asyncpg sends to begin a COPY into a table, and to commit.
COPY_IN: Final = b"FROM STDIN"
COMMIT: Final = b"COMMIT;"

Way = Literal["there", "back"]
BOTH_WAYS: Final[frozenset[Way]] = frozenset({"there", "back"})


@dataclass(eq=False)
class Pipe:
    """One client's connection and its way on."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    silent: bool = False
    swallows: frozenset[Way] = frozenset()
    swallowed: int = 0
    wrote: bool = False
    passed: int = 0
    tail: bytes = b""

    def reset(self) -> None:
        """Both ends get a reset, whatever is under way."""
        for writer in (self.client, self.server):
            peer = writer.get_extra_info("socket")
            if peer is not None and peer.fileno() >= 0:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


@dataclass
class Proxy:
    """Listens on a port of its own and forwards to the server of a DSN."""

    dsn: str
    port: int = 0
    delay: float = 0.0
    silent: bool = False
    refusing: bool = False
    resets_left: int = 0
    resets_done: int = 0
    resets_after: bytes = COPY_IN
    swallows: frozenset[Way] = frozenset()
    swallowed: int = 0
    cut_after: int = 0
    opened: int = 0
    _pipes: set[Pipe] = field(default_factory=set)

    def __enter__(self) -> "Proxy":
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end)
        self._thread.join(10)

    def cut(self) -> None:
        """Resets every open connection; new ones are taken."""

        def reset() -> None:
            for pipe in list(self._pipes):
                pipe.reset()

        self._call(reset)

    def silence(self) -> None:
        """Half-open: nothing more passes on the connections that are open, and they stay open; new ones work."""

        def hush() -> None:
            for pipe in self._pipes:
                pipe.silent = True

        self._call(hush)

    def speak(self) -> None:
        """What was silent goes on, with nothing lost."""

        def resume() -> None:
            self.silent = False
            for pipe in self._pipes:
                pipe.silent = False

        self._call(resume)

    def swallow(self, ways: frozenset[Way] = BOTH_WAYS, *, new_ones: bool = True) -> None:
        """A black hole: what comes is taken and lost, on the connections that are open and on new ones; none closes."""

        def open_hole() -> None:
            self.swallows = ways if new_ones else frozenset()
            for pipe in self._pipes:
                pipe.swallows = ways

        self._call(open_hole)

    def release(self) -> None:
        """The hole closes: a connection that lost bytes is reset, since nothing can give them back; others go on."""

        def close_hole() -> None:
            self.swallows = frozenset()
            for pipe in list(self._pipes):
                pipe.swallows = frozenset()
                if pipe.swallowed:
                    pipe.reset()

        self._call(close_hole)

    def _call(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()

        async def main() -> None:
            server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._stop.wait()
            server.close()
            for pipe in list(self._pipes):
                pipe.reset()
            if others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others, timeout=5)

        self._loop.run_until_complete(main())
        self._loop.close()

    def _end(self) -> None:
        self._stop.set()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        where = urlsplit(self.dsn)
        try:
            server_reader, server_writer = await asyncio.open_connection(where.hostname, where.port)
        except OSError:
            writer.transport.abort()
            return
        pipe = Pipe(writer, server_writer, swallows=self.swallows)
        self._pipes.add(pipe)
        self.opened += 1
        ways = [
            asyncio.create_task(self._forward(pipe, reader, server_writer, "there")),
            asyncio.create_task(self._forward(pipe, server_reader, writer, "back")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, server_writer):
                end.close()
            self._pipes.discard(pipe)

    async def _forward(self, pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        try:
            while chunk := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                while (pipe.silent or self.silent) and not self._stop.is_set():
                    await asyncio.sleep(0.02)
                if way in pipe.swallows:
                    pipe.swallowed += len(chunk)
                    self.swallowed += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()
                pipe.passed += len(chunk)
                if way == "there" and self._commits(pipe, chunk):
                    # The server has the COMMIT by now; its answer never arrives.
                    await asyncio.sleep(0.05)
                    self.resets_left -= 1
                    self.resets_done += 1
                    pipe.reset()
                    return
                if self.cut_after and pipe.passed > self.cut_after:
                    self.cut_after = 0
                    pipe.reset()
                    return
        except OSError:
            return

    def _commits(self, pipe: Pipe, chunk: bytes) -> bool:
        """Whether a transaction that wrote (by default: copied rows) commits with this chunk and is to be reset."""
        if self.resets_left <= 0:
            return False
        seen = pipe.tail + chunk
        pipe.tail = seen[-32:]
        if self.resets_after in seen:
            pipe.wrote = True
        if pipe.wrote and COMMIT in seen:
            pipe.wrote = False
            return True
        return False
