"""A sliding window: many pieces of work, at most so many at once, started in order."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable

from temporalio import workflow

Piece = Callable[[], Coroutine[None, None, None]]


async def sliding_window(limit: int, pieces: Iterable[Piece], *, may_start: Callable[[], Awaitable[bool]]) -> int:
    """Runs the pieces, `limit` at once; returns how many were started, all of which have ended.

    `may_start` is awaited before each piece: it waits while the run is paused, and says False when nothing more
    may start because history has grown long; the count then tells where to go on.
    The first failure cancels the others, waits for them, and is raised. Cancellation does the same.
    """
    running: list[asyncio.Task[None]] = []
    started = 0
    try:
        for piece in pieces:
            while len(running) >= limit:
                running = await _until_one_ends(running)
            if not await may_start():
                break
            running.append(asyncio.create_task(piece()))
            started += 1
        while running:
            running = await _until_one_ends(running)
    except (Exception, asyncio.CancelledError):  # and no GeneratorExit: a run that a worker drops can await nothing
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
    return started


async def _until_one_ends(running: list[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    """Returns those that still run; raises the failure of one that ended. Order is kept, for replay."""
    done, pending = await workflow.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return list(pending)
