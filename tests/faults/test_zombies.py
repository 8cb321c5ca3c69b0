"""A worker that froze in mid COPY wakes up when its work has been done, taken back or is another run's."""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import WorkflowHandle

from tests.faults.record import LONG, recorded
from tests.faults.shop import PLAN
from tests.faults.stage import Theatre, play

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

PLACES: Final = [
    pytest.param("in the middle of COPY"),
    pytest.param("audited copy", marks=pytest.mark.slow),
    pytest.param("ledger row entered", marks=pytest.mark.slow),
    pytest.param("audited create", marks=pytest.mark.slow),
]
AWAKE_SECONDS: Final = 3.0


@pytest.mark.parametrize("place", PLACES)
async def test_a_worker_frozen_past_its_heartbeat_adds_nothing_when_it_wakes(
    theatre: Theatre, tmp_path: Path, place: str
) -> None:
    must = "another worker does its work; when it wakes it adds nothing"
    with recorded("worker SIGSTOPped, woken when the run had completed", must) as case:
        case.note = place
        async with theatre.stage(tmp_path) as stage:

            async def freeze(handle: WorkflowHandle[Any, Any]) -> None:
                frozen = stage.worker(place, "hold", few_polls=not LONG)
                await frozen.until_reached()
                frozen.freeze()
                frozen.go()
                stage.worker()
                outcome, _ = await stage.ended(handle)
                assert outcome == "completed"
                frozen.wake()
                await asyncio.sleep(AWAKE_SECONDS)

            case.violations += await play(stage, act=freeze)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in the middle of COPY", "audited copy", "audited step build"])
async def test_a_worker_frozen_before_an_abort_adds_nothing_to_what_was_taken_back(
    theatre: Theatre, tmp_path: Path, place: str
) -> None:
    must = "the abort ends; when the worker wakes the target stays as it was before"
    with recorded("worker SIGSTOPped, run aborted, then woken", must) as case:
        case.note = place
        async with theatre.stage(tmp_path) as stage:

            async def freeze(handle: WorkflowHandle[Any, Any]) -> None:
                frozen = stage.worker(place, "hold")
                await frozen.until_reached()
                frozen.freeze()
                frozen.go()
                stage.worker()
                await stage.scene.order(handle, "abort")
                outcome, _ = await stage.ended(handle)
                assert outcome == "aborted"
                frozen.wake()
                await asyncio.sleep(AWAKE_SECONDS)

            case.violations += await play(stage, act=freeze, wanted="aborted")


@pytest.mark.slow
async def test_a_worker_frozen_before_an_abort_adds_nothing_to_the_run_that_follows(
    theatre: Theatre, tmp_path: Path
) -> None:
    must = "the next run completes; when the first one's worker wakes it adds nothing"
    with recorded("worker SIGSTOPped, run aborted, next run completed, then woken", must) as case:
        async with theatre.stage(tmp_path) as stage:
            first = await stage.scene.start(PLAN)
            frozen = stage.worker("in the middle of COPY", "hold")
            await frozen.until_reached()
            frozen.freeze()
            frozen.go()
            stage.worker()
            await stage.scene.order(first, "abort")
            outcome, _ = await stage.ended(first)
            assert outcome == "aborted"
            second = f"{stage.run_id}/again"
            handle = await stage.scene.start(PLAN, run_id=second)
            outcome, _ = await stage.ended(handle)
            frozen.wake()
            await asyncio.sleep(AWAKE_SECONDS)
            case.violations += await stage.judge(outcome, "completed", run_id=second)
