"""An order is the first thing that a worker hears of a run that another worker had: the run must replay ever after.

What such a worker is handed differs from what a later one is (temporalio/sdk-rust #1146): after two workflow tasks that
gave no command, the order comes together with what the second of them had taken in, and before it.
"""

import asyncio
from typing import Any, Final

import asyncpg
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError

from tests.saga.scene import PATIENCE, PLAN, Scene, replayer
from workflows.messages import Order, VerifiedRows

pytestmark = pytest.mark.saga

ONE_BY_ONE: Final = PLAN | {"parallelism": {"mappings": 1, "partitions": 2, "verify": 2}}
# How a history ends that has just taken something in: what came, and a workflow task without a command.
TASK: Final = ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED"]


async def taken_in(handle: WorkflowHandle[Any, Any], event: str) -> None:
    """Waits until the run's last task has taken in an event of this type and has answered with no command."""
    async with asyncio.timeout(PATIENCE):
        while True:
            last = [EventType.Name(each.event_type) for each in (await handle.fetch_history()).events[-4:]]
            if last == [f"EVENT_TYPE_{name}" for name in (event, *TASK)]:
                return
            await asyncio.sleep(0.05)


async def scheduled(handle: WorkflowHandle[Any, Any]) -> None:
    """Waits until the run has given an activity to do: what comes now is taken in by a task of its own."""
    async with asyncio.timeout(PATIENCE):
        while not (await handle.describe()).raw_description.pending_activities:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("action", ["resume", "abort", "rollback"])
async def test_an_order_that_a_new_worker_takes_first_of_all_replays(scene: Scene, action: str) -> None:
    async with scene.worker():
        handle = await scene.start(ONE_BY_ONE, pause_before=["next mapping"])
        await scene.until_shown(handle, "paused")
        await taken_in(handle, "ACTIVITY_TASK_COMPLETED")
        target = await asyncpg.connect(scene.target_dsn)
        async with target.transaction():
            # What is recorded waits for this, so that it ends after the next signal.
            await target.execute("SELECT FROM knarr.audit_head FOR UPDATE")
            await handle.signal("pause", Order(actor="tester", reason="paused already: only to be recorded"))
            await scheduled(handle)
            await handle.signal("verified_rows", VerifiedRows(rows=0, round=-1))
            await taken_in(handle, "WORKFLOW_EXECUTION_SIGNALED")
        await target.close()
        await taken_in(handle, "ACTIVITY_TASK_COMPLETED")

    given = asyncio.create_task(scene.order(handle, action))
    async with scene.worker(cached=0):
        await given
        try:
            async with asyncio.timeout(PATIENCE):
                await handle.result()
        except WorkflowFailureError:
            assert action != "resume"

    await replayer().replay_workflow(await handle.fetch_history())


@pytest.mark.parametrize(("before", "orders"), [("copy", ["resume", "pause"]), ("", ["pause", "resume"])])
async def test_orders_that_wait_for_a_worker_are_carried_out_as_they_came(
    scene: Scene, before: str, orders: list[str]
) -> None:
    async with scene.worker():
        # Paused before it has anything to do, or waiting for an approval.
        plan = ONE_BY_ONE | {"rollout": [{"phase": "first", "approve": "manual"}, {"phase": "everyone"}]}
        plan["rollout"][0]["where"] = {"shop.customer": "c.c_id = 1"}
        handle = await scene.start(plan, pause_before=[before] if before else [])
        await scene.until(handle, "paused" if before else "waiting for approval")

    given = []
    for action in orders:
        given.append(asyncio.create_task(scene.order(handle, action)))
        await asyncio.sleep(0.5)
    async with scene.worker(cached=0):
        await asyncio.gather(*given)
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await scene.order(handle, orders[-1])
        assert f"to {orders[-1]}" in str(refused.value.cause) or "paused already" in str(refused.value.cause)
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError):
            await handle.result()

    await replayer().replay_workflow(await handle.fetch_history())
