"""A server that suggests to continue as new early: parent and children do so, and the run ends the same."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from tests.saga.scene import PLAN, SHOP, Scene, connect, run_script
from tests.saga.test_checkpoints import CANARY
from tests.saga.test_whole_run import dump
from workflows.messages import MigrationInput, RollbackOrder

pytestmark = pytest.mark.saga

MANY_PARTITIONS = PLAN | {
    "limits": {"partition_size": "64KiB"},
    "parallelism": {"mappings": 1, "partitions": 2, "verify": 1},
}


async def test_a_run_that_continues_as_new_moves_and_proves_the_same(
    source_dsn: str, target_dsn: str, hasty_temporal: TemporalServer
) -> None:
    await run_script(source_dsn, SHOP)
    scene = Scene(source_dsn, target_dsn, await connect(hasty_temporal.address))
    async with scene.worker():
        handle = await scene.start(MANY_PARTITIONS)
        status = await handle.result()
    assert status.state == "completed"
    assert status.rows == 22_000
    assert await scene.in_target('SELECT count(*) FROM shop."order"') == 20_000
    runs = [each async for each in scene.client.list_workflows(f"WorkflowId STARTS_WITH '{scene.run_id}'")]
    continued = {each.workflow_type for each in runs if each.status == WorkflowExecutionStatus.CONTINUED_AS_NEW}
    assert continued == {"Migration", "MoveMapping", "VerifyPhase"}


async def test_a_run_that_turns_back_continues_as_new_too_and_knows_where_it_was(
    source_dsn: str, target_dsn: str, hasty_temporal: TemporalServer, second_cluster: Cluster
) -> None:
    await run_script(source_dsn, SHOP)
    scene = Scene(source_dsn, target_dsn, await connect(hasty_temporal.address))
    before = dump(second_cluster, target_dsn)
    phases = [{"phase": "canary", "where": CANARY}, {"phase": "everyone", "approve": "manual"}]
    async with scene.worker():
        handle = await scene.start(MANY_PARTITIONS | {"rollout": phases})
        held = await scene.until(handle, "waiting for approval")
        assert held.rows == 22_000
        of_canary = ["canary/shop.order", "canary/shop.customer"]
        assert held.checkpoints == [*of_canary, "canary", "everyone/shop.order", "everyone/shop.customer"]
        undisturbed = dump(second_cluster, target_dsn)

        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="back", to=of_canary[0]))
        held = await scene.until(handle, "at checkpoint")
        assert held.checkpoints == of_canary[:1]
        assert held.rows == 2_000
        await scene.order(handle, "resume")
        held = await scene.until(handle, "waiting for approval")
        assert held.checkpoints == [*of_canary, "canary", "everyone/shop.order", "everyone/shop.customer"]
        assert sorted(dump(second_cluster, target_dsn).splitlines()) == sorted(undisturbed.splitlines())

        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, target_dsn) == before
    continued = [each async for each in scene.client.list_workflows(f"WorkflowId = '{scene.run_id}'")]
    turning_back = 0
    for each in continued:
        history = await scene.client.get_workflow_handle(each.id, run_id=each.run_id).fetch_history()
        [given] = await scene.client.data_converter.decode(
            history.events[0].workflow_execution_started_event_attributes.input.payloads, [MigrationInput]
        )
        turning_back += bool(given.resumed and given.resumed.turn)
        assert bool(given.plan.canonical) == (given.resumed is None), "the plan crosses once"
    assert turning_back >= 2
