"""A child that can't go on, as after a deploy that its history does not fit: turning back does not wait for it."""

import asyncio
from typing import Final

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError

from knarr.local.cluster import Cluster
from tests.saga import scene as stage
from tests.saga.scene import PLAN, Scene
from tests.saga.test_checkpoints import CANARY
from tests.saga.test_whole_run import dump
from workflows.messages import RollbackOrder
from workflows.move import MoveMappingWorkflow
from workflows.registry import ALL_WORKFLOWS

pytestmark = pytest.mark.saga

KNOWN: Final = list(ALL_WORKFLOWS)
ALL_BUT_MOVING: Final = [each for each in KNOWN if each is not MoveMappingWorkflow]
MOVING: Final = "WorkflowType = 'MoveMapping' AND WorkflowId STARTS_WITH '{}'"


async def states(scene: Scene) -> dict[str, list[WorkflowExecutionStatus | None]]:
    """The children that copy, by id: how each stands, the latest first."""
    found: dict[str, list[WorkflowExecutionStatus | None]] = {}
    async for each in scene.client.list_workflows(MOVING.format(scene.run_id)):
        found.setdefault(each.id, []).append(each.status)
    return found


async def until_one_is_stuck(scene: Scene) -> None:
    async with asyncio.timeout(stage.PATIENCE):
        while not any(WorkflowExecutionStatus.RUNNING in each for each in (await states(scene)).values()):
            await asyncio.sleep(0.1)


async def test_an_abort_takes_everything_back_and_ends_the_child_with_the_run(
    scene: Scene, second_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    monkeypatch.setattr(stage, "ALL_WORKFLOWS", ALL_BUT_MOVING)
    async with scene.worker():
        handle = await scene.start()
        await until_one_is_stuck(scene)
        await scene.order(handle, "abort")
        async with asyncio.timeout(30):
            with pytest.raises(WorkflowFailureError) as failed:
                await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    async with asyncio.timeout(stage.PATIENCE):
        while any(WorkflowExecutionStatus.RUNNING in each for each in (await states(scene)).values()):
            await asyncio.sleep(0.1)


async def test_a_run_that_goes_on_from_a_checkpoint_replaces_the_child(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = [{"phase": "canary", "where": CANARY, "approve": "manual"}, {"phase": "everyone"}]
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollout": phases})
        await scene.until(handle, "waiting for approval")
    monkeypatch.setattr(stage, "ALL_WORKFLOWS", ALL_BUT_MOVING)
    async with scene.worker():
        await scene.order(handle, "approve")
        await until_one_is_stuck(scene)
        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="it is stuck", to="canary"))
        held = await scene.until(handle, "at checkpoint")
        assert held.rows == 2_200
        await scene.order(handle, "resume")
        await until_one_is_stuck(scene)
        async with asyncio.timeout(stage.PATIENCE):
            while not any(WorkflowExecutionStatus.TERMINATED in each for each in (await states(scene)).values()):
                await asyncio.sleep(0.1)
        assert (await scene.until(handle, "running")).message == ""
    monkeypatch.setattr(stage, "ALL_WORKFLOWS", KNOWN)
    async with scene.worker():
        status = await handle.result()
    assert status.state == "completed"
    assert await scene.in_target('SELECT count(*) FROM shop."order"') == 20_000
