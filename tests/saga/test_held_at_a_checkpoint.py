"""A run that is held at a checkpoint waits for as long as a person takes: no clock of the plan's runs there."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from tests.saga.scene import Scene, run_script
from tests.saga.test_checkpoints import FILL, FILLED
from workflows.messages import RollbackOrder

pytestmark = pytest.mark.saga

CANARY: Final = {"phase": "canary", "where": {"shop.customer": "c.c_id % 10 = 0"}}
DEADLINE: Final = timedelta(seconds=12)
SOON_OVER: Final = FILL | {
    "rollout": [CANARY, {"phase": "everyone", "approve": "manual"}],
    "rollback": {"on": ["verification", f"deadline {DEADLINE.seconds}s"], "keep_for": "7d"},
}


async def test_the_deadline_rests_at_a_checkpoint_and_begins_anew_when_the_run_goes_on(scene: Scene) -> None:
    await run_script(scene.target_dsn, FILLED)
    async with scene.worker():
        handle = await scene.start(SOON_OVER)
        await scene.until(handle, "waiting for approval")
        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="keep these", to="canary"))
        await scene.until(handle, "at checkpoint")

        await asyncio.sleep(DEADLINE.seconds + 1)
        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        assert await scene.in_target("SELECT count(*) FROM shop.customer") == 200

        resumed = datetime.now(UTC)
        await scene.order(handle, "resume")
        assert (await scene.until(handle, "waiting for approval")).rows == 2_000
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        assert datetime.now(UTC) - resumed >= DEADLINE
    assert isinstance(failed.value.cause, ApplicationError)
    assert "the plan's deadline of 12 s since" in failed.value.cause.message
