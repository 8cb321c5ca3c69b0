"""A server that suggests to continue as new early: parent and children do so, and the run ends the same."""

from collections.abc import Iterator

import pytest
from temporalio.client import WorkflowExecutionStatus

from knarr.local.temporal import TemporalServer
from tests.saga.scene import PLAN, SHOP, Scene, connect, run_script
from tests.servers import start_temporal, stop_temporal

pytestmark = pytest.mark.saga

FEW_EVENTS = 40
MANY_PARTITIONS = PLAN | {"limits": {"partition_size": "64KiB"}, "parallelism": {"mappings": 1, "partitions": 2}}


@pytest.fixture(scope="module")
def hasty_temporal() -> Iterator[TemporalServer]:
    """A Temporal server that finds forty events a long history."""
    server = start_temporal(history_suggested=FEW_EVENTS)
    yield server
    stop_temporal(server)


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
