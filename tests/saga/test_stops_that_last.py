"""What a run is stuck with may last for months: no history grows with it, nothing is lost, and a person is told."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from tests.saga import scene as stage
from tests.saga.scene import SHOP, Scene, connect, run_script
from tests.saga.test_whole_run import dump
from workflows import back, policies
from workflows.messages import AnswerOrder, Order, Status

pytestmark = pytest.mark.saga

REFUSING: Final = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'as a test wants it' USING ERRCODE = TG_ARGV[0]; END $$;
"""
NO_RAISE: Final = """
CREATE TRIGGER refuse BEFORE UPDATE ON knarr.lease FOR EACH ROW EXECUTE FUNCTION public.refuse('40001');
"""
NO_REMOVAL: Final = """
CREATE TRIGGER refuse BEFORE DELETE ON knarr.ledger FOR EACH ROW EXECUTE FUNCTION public.refuse('40001');
"""
NO_RECORD: Final = """
CREATE TRIGGER refuse BEFORE INSERT ON knarr.audit FOR EACH ROW WHEN (NEW.kind = 'operator')
EXECUTE FUNCTION public.refuse('42501');
"""
# Nothing of theirs may be left for the comparison.
MENDED: Final = "DROP FUNCTION public.refuse() CASCADE"
RECORDED: Final = "SELECT count(*) FROM knarr.audit WHERE kind = 'operator' AND body LIKE '%\"action\":\"abort\"%'"


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt and a tenth of a second, where the house takes eight and a minute."""
    usual = policies.COMPENSATION
    once = usual | {"retry_policy": replace(usual["retry_policy"], maximum_attempts=1)}
    monkeypatch.setattr(back, "COMPENSATION", once)
    monkeypatch.setattr(policies, "FIRST_PAUSE", timedelta(milliseconds=100))
    monkeypatch.setattr(policies, "LONGEST_PAUSE", timedelta(milliseconds=200))


async def links(scene: Scene) -> int:
    """How often the run has continued as new."""
    runs = [each async for each in scene.client.list_workflows(f"WorkflowId = '{scene.run_id}'")]
    return sum(each.status == WorkflowExecutionStatus.CONTINUED_AS_NEW for each in runs)


async def until_left_twice(scene: Scene) -> None:
    before = await links(scene)
    async with asyncio.timeout(stage.PATIENCE):
        while await links(scene) < before + 2:
            await asyncio.sleep(0.2)


async def now(handle: WorkflowHandle[Any, Status], *states: str) -> Status:
    async with asyncio.timeout(stage.PATIENCE):
        while True:
            status: Status = await handle.query("status", result_type=Status)
            if status.state in states:
                return status
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize(
    "obstacle",
    [NO_RAISE, NO_REMOVAL, NO_REMOVAL + NO_RECORD.replace("refuse B", "refuse_too B")],
    ids=["the raise", "rows", "rows, and nothing can be recorded"],
)
async def test_a_compensation_that_fails_again_and_again_continues_as_new_and_goes_on_where_it_was(
    source_dsn: str, target_dsn: str, hasty_temporal: TemporalServer, second_cluster: Cluster, obstacle: str
) -> None:
    await run_script(source_dsn, SHOP)
    scene = Scene(source_dsn, target_dsn, await connect(hasty_temporal.address))
    before = dump(second_cluster, target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        epoch = await scene.in_target("SELECT epoch FROM knarr.lease")
        await run_script(target_dsn, REFUSING + obstacle)
        handle = scene.client.get_workflow_handle(scene.run_id, result_type=Status)
        await scene.order(handle, "abort")
        await until_left_twice(scene)

        status = await now(handle, "waiting for a person")
        assert "refuse()" in status.message
        assert status.stop == 1, "the same problem is the same stop, so an answer to it still fits"
        await run_script(target_dsn, MENDED)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, target_dsn) == before
    assert await scene.in_target("SELECT epoch FROM knarr.lease") > epoch
    assert await scene.in_target(RECORDED) == 1


async def test_an_order_that_can_not_be_recorded_stops_the_run_before_its_record_closes(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, REFUSING + NO_RECORD)
        await handle.execute_update("abort", Order(actor="tester", reason="enough"))
        status = await scene.until(handle, "waiting for a person")
        assert status.message.startswith("can't record the decision `abort`: decision:")
        assert "refuse()" in status.message
        assert status.waiting_for == f"`knarr retry {scene.run_id} --stop 1 --reason ...`"
        assert await scene.in_target("SELECT count(*) FROM knarr.claim") > 0
        await run_script(scene.target_dsn, MENDED)
        await handle.execute_update("retry", AnswerOrder(actor="tester", reason="it may write again", stop=1))
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target(RECORDED) == 1
    assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%it may write again%'") == 1
