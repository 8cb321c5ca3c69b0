"""A worker process ends when its worker does: one that lives on without polling is started again by nobody."""

import asyncio
from typing import cast

import pytest
from temporalio.worker import Worker

from worker import until_stopped


class Failing:
    """A worker that ends by itself."""

    async def run(self) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("poll failed")


class Polling:
    """A worker that polls until it is told to stop, and then finishes what it has."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self.finished = False

    async def run(self) -> None:
        await self._told.wait()
        await asyncio.sleep(0)
        self.finished = True

    async def shutdown(self) -> None:
        self._told.set()


async def test_a_worker_that_ends_by_itself_ends_the_process() -> None:
    with pytest.raises(RuntimeError, match="poll failed"):
        await asyncio.wait_for(until_stopped(cast(Worker, Failing()), asyncio.Event()), 5)


async def test_one_that_is_told_to_stop_finishes_first() -> None:
    polling, stop = Polling(), asyncio.Event()
    waiting = asyncio.create_task(until_stopped(cast(Worker, polling), stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(waiting, 5)
    assert polling.finished
