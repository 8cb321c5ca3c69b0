"""The disk of the target's write-ahead log is full: the whole server goes down, and stays down until there is room."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from temporalio.client import WorkflowHandle

from knarr.local.cluster import Cluster
from tests.faults import oracle
from tests.faults.disk import Disk, mounted, move_wal, until_full
from tests.faults.record import not_possible, recorded
from tests.faults.shop import TARGET
from tests.faults.stage import Stage, Theatre, play
from tests.servers import new_folder, stop_cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(600)]

# Four segments of 16 MB fit, and none is kept for later.
SIZE: Final = "80m"
SMALL: Final = {
    "min_wal_size": "32MB",
    "max_wal_size": "48MB",
    "wal_recycle": "off",
    "autovacuum": "off",
    "shared_buffers": "64MB",
}
DOWN_SECONDS: Final = 4.0
# A megabyte of log that nobody reads: so much of it that the log needs a segment for which there is no room.
LOG_A_MEGABYTE: Final = "SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1 << 20))"
GONE: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@asynccontextmanager
async def own_target(theatre: Theatre, disk: Disk) -> AsyncIterator[Theatre]:
    """A theatre whose target is a server of its own with its log on the disk."""
    folder = new_folder() / "postgres"
    first = await asyncio.to_thread(lambda: Cluster.start(folder, durable=False, settings=SMALL))
    data = first.data
    first.stop()
    move_wal(data, disk)
    target = await asyncio.to_thread(lambda: Cluster.start(folder, durable=False, settings=SMALL))
    try:
        target.create_database(theatre.template)
        target.psql(TARGET, theatre.template)
        yield Theatre(theatre.source, target, theatre.nursery, theatre.client)
    finally:
        disk.empty()
        stop_cluster(target)


async def fill_the_log(stage: Stage, disk: Disk) -> None:
    """Leaves no room, then writes log until the server has panicked."""
    disk.fill()
    panicked = asyncio.create_task(until_full(stage.target, b"PANIC:"))
    await asyncio.sleep(0)
    with suppress(*GONE):
        writer = await asyncpg.connect(stage.scene.target_dsn)
        try:
            while True:
                await writer.execute(LOG_A_MEGABYTE)
        finally:
            writer.terminate()
    await panicked


async def make_room(stage: Stage, disk: Disk) -> str:
    """Gives room and brings the server back; how it had stood meanwhile, for the table."""
    disk.empty()
    stood = "had come up by itself" if stage.target.alive else "stayed down until there was room"
    await asyncio.to_thread(stage.target.restart, "immediate")
    return f"the server panicked and {stood}"


@pytest.mark.parametrize("wanted", ["completed", "aborted"])
async def test_the_log_of_the_target_has_no_room(theatre: Theatre, tmp_path: Path, wanted: oracle.Outcome) -> None:
    fault = f"ENOSPC under the target's pg_wal (PANIC) in mid COPY, room made after {DOWN_SECONDS:.0f} s"
    must = "the run waits, whatever was acknowledged is there; it completes, or, aborted meanwhile, is taken back"
    with mounted(SIZE) as disk:
        if isinstance(disk, str):
            not_possible(fault, must, disk)
        async with own_target(theatre, disk) as place:
            with recorded(fault, must) as case:
                async with place.stage(tmp_path) as stage:

                    async def starve(handle: WorkflowHandle[Any, Any]) -> None:
                        worker = stage.worker("in the middle of COPY", "hold", 2)
                        await worker.until_reached()
                        await fill_the_log(stage, disk)
                        worker.go()
                        await asyncio.sleep(DOWN_SECONDS)
                        if wanted == "aborted":
                            await stage.scene.order(handle, "abort")
                        assert await stage.running(handle), "the run did not wait for room"
                        case.note = f"{await make_room(stage, disk)}, run {wanted}"

                    case.violations += await play(stage, act=starve, wanted=wanted)
