"""The worker is killed, again and again; the run ends as if it never had been."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle

from knarr.local.cluster import Cluster
from tests.faults.processes import WorkerProcess
from tests.faults.record import SEED, recorded
from tests.saga.scene import PLAN, Scene, run_script
from tests.saga.test_whole_run import dump

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10

# Enough rows that a run lasts for ten lives of a worker.
MORE = (
    "INSERT INTO orders SELECT n, n % 2000 + 1, 'O', n / 100.0, date '2021-01-01' FROM generate_series(20001, 400000) n"
)
SMALL_PARTITIONS = PLAN | {"limits": {"partition_size": "1MiB"}, "parallelism": {"mappings": 1, "partitions": 1}}

CONTENT = """
SELECT md5(string_agg(t::text, ';' ORDER BY t.id)) FROM shop."order" t
"""
EXPECTED = """
SELECT md5(string_agg(ROW(o_id, o_customer, CASE o_status WHEN 'O' THEN 'open' WHEN 'F' THEN 'fulfilled' ELSE 'pending'
       END, o_total, o_date)::text, ';' ORDER BY o_id)) FROM orders
"""


async def is_running(handle: WorkflowHandle[Any, Any]) -> bool:
    return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING


async def kill_again_and_again(scene: Scene, handle: WorkflowHandle[Any, Any], log: Path, chance: random.Random) -> int:
    """Kills and restarts the worker until it has been killed often enough or the run has ended; then lets it end."""
    kills = 0
    while kills < KILLS and await is_running(handle):
        worker = WorkerProcess(scene, log)
        await asyncio.sleep(chance.uniform(1.5, 5.0))
        worker.kill()
        kills += 1
    worker = WorkerProcess(scene, log)
    try:
        async with asyncio.timeout(300):
            while await is_running(handle):
                await asyncio.sleep(0.5)
    finally:
        worker.kill()
    return kills


async def test_a_run_whose_worker_is_killed_ten_times_ends_complete_and_equal(scene: Scene, tmp_path: Path) -> None:
    with recorded(
        "worker.py SIGKILLed at random moments of one run, timers as in production",
        "the run completes; target complete and equal, each partition once",
        seed=SEED,
    ) as case:
        case.tried = KILLS
        print(f"seed {SEED}")
        await run_script(scene.source_dsn, MORE)
        handle = await scene.start(SMALL_PARTITIONS)
        kills = await kill_again_and_again(scene, handle, tmp_path / "worker.log", random.Random(SEED))
        assert kills == KILLS, "the run ended before it was killed often enough: make it longer"
        status = await handle.result()
        assert status.state == "completed"
        assert await scene.in_target(CONTENT) == await scene.in_source(EXPECTED)
        partitions = await scene.in_target("SELECT count(*) FROM knarr.partition")
        assert await scene.in_target("SELECT count(*) FROM knarr.ledger") == partitions
        assert await scene.in_target("SELECT sum(rows) FROM knarr.ledger") == 402_000


async def test_an_abort_whose_worker_is_killed_ten_times_leaves_the_target_as_before(
    scene: Scene, second_cluster: Cluster, tmp_path: Path
) -> None:
    with recorded(
        "worker.py SIGKILLed at random moments of one undoing, timers as in production",
        "the target equals its dump before",
        seed=SEED,
    ) as case:
        case.tried = KILLS
        print(f"seed {SEED}")
        await run_script(scene.source_dsn, MORE)
        before = dump(second_cluster, scene.target_dsn)
        handle = await scene.start(SMALL_PARTITIONS, pause_before=["verify"])
        worker = WorkerProcess(scene, tmp_path / "worker.log")
        await scene.until(handle, "paused")
        await scene.order(handle, "abort")
        worker.kill()
        await kill_again_and_again(scene, handle, tmp_path / "worker.log", random.Random(SEED))
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
        assert dump(second_cluster, scene.target_dsn) == before


async def test_a_frozen_worker_that_wakes_up_adds_nothing(
    scene: Scene, second_cluster: Cluster, tmp_path: Path
) -> None:
    with recorded(
        "worker.py SIGSTOPped in mid COPY, run aborted, then woken, timers as in production",
        "the target equals its dump before",
    ):
        await run_script(scene.source_dsn, MORE)
        before = dump(second_cluster, scene.target_dsn)
        handle = await scene.start(SMALL_PARTITIONS)
        frozen = WorkerProcess(scene, tmp_path / "frozen.log")
        while not await scene.in_target("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY %shop%order%'"):
            await asyncio.sleep(0.02)
        frozen.freeze()
        worker = WorkerProcess(scene, tmp_path / "worker.log")
        try:
            async with asyncio.timeout(200):
                await scene.order(handle, "abort")
                while await is_running(handle):
                    await asyncio.sleep(0.5)
            frozen.wake()
            await asyncio.sleep(5)
        finally:
            frozen.kill()
            worker.kill()
        assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
        assert dump(second_cluster, scene.target_dsn) == before
