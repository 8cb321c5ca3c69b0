"""The worker is killed while it verifies, again and again: the verdict is the same, and nothing is verified twice."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import WorkerProcess
from tests.faults.record import SEED, recorded
from tests.faults.test_killed_workers import MORE, SMALL_PARTITIONS, is_running
from tests.saga.scene import Scene, run_script

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10

# Verification at a pace at which it lasts for ten lives of a worker.
SLOWLY = SMALL_PARTITIONS | {
    "limits": {"partition_size": "1MiB", "verify_rows_per_second": 12_000},
    "parallelism": {"mappings": 1, "partitions": 2, "verify": 1},
}
COMPUTED = """
SELECT coalesce(json_object_agg(concat_ws('/', kind, name, mapping, partition), computed_at || md5(result::text)), '{}')
  FROM knarr.check_result
"""


async def computed(scene: Scene) -> dict[str, str]:
    """What is stored so far: check by check, when it was computed and what it says."""
    found: dict[str, str] = json.loads(await scene.in_target(COMPUTED))
    return found


async def test_a_verification_whose_worker_is_killed_ten_times_comes_to_the_same(scene: Scene, tmp_path: Path) -> None:
    with recorded(
        "worker.py SIGKILLed at random moments of one verification",
        "the verdict finds what was planted, no more; no check that is done is done again",
        seed=SEED,
    ) as case:
        case.tried = KILLS
        print(f"seed {SEED}")
        chance = random.Random(SEED)
        await run_script(scene.source_dsn, MORE)
        handle = await scene.start(SLOWLY, pause_before=["verify"])
        worker = WorkerProcess(scene, tmp_path / "worker.log")
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, 'UPDATE shop."order" SET total = total + 1 WHERE id IN (4711, 399999)')
        await scene.order(handle, "resume")
        seen: dict[str, str] = {}
        kills = 0
        while kills < KILLS:
            before = await computed(scene)
            assert {check: before[check] for check in seen} == seen, "a complete check was computed again"
            seen = before
            async with asyncio.timeout(60):
                # A life of a worker ends in the middle of things, but not before it has done anything at all.
                while await is_running(handle) and len(await computed(scene)) == len(seen):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            assert await is_running(handle), f"it ended after {kills} kills: make it slower"
            worker.kill()
            kills += 1
            worker = WorkerProcess(scene, tmp_path / "worker.log")
        try:
            verdict = await _verdict(scene)
        finally:
            after = await computed(scene)
            worker.kill()
        assert {check: after[check] for check in seen} == seen
        assert (verdict["passed"], verdict["findings_total"]) == (False, 2 + _of_the_cross_check(verdict))
        parity = [check for check in verdict["checks"] if check["kind"] == "parity" and check["name"] == "shop.order"]
        assert [(finding["key"]["id"], finding["column"]) for finding in parity[0]["findings"]] == [
            ("4711", "total"),
            ("399999", "total"),
        ]
        assert parity[0]["source_rows"] == parity[0]["target_rows"] == 400_000


async def _verdict(scene: Scene) -> dict[str, Any]:
    async with asyncio.timeout(300):
        while not (document := await scene.in_target("SELECT max(document::text) FROM knarr.verdict")):
            await asyncio.sleep(0.1)
    verdict: dict[str, Any] = json.loads(document)
    return verdict


def _of_the_cross_check(verdict: dict[str, Any]) -> int:
    return sum(check["findings_total"] for check in verdict["checks"] if check["kind"] == "cross")
