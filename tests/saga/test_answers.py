"""What a person answers reaches the stop that it is about, once, and only what a run can do without is left out."""

import asyncio
import json
from typing import Any, Final

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from knarr.local.cluster import Cluster
from tests.saga.scene import PLAN, Scene, run_script
from tests.saga.test_rows_of_others import waiting
from tests.saga.test_whole_run import dump
from workflows.messages import AnswerOrder, Status

pytestmark = pytest.mark.saga

CUSTOMER, ORDER = PLAN["mappings"]
# Without the key between them each table's rows are taken back, or are in the way, by themselves.
BOTH: Final = PLAN | {
    "mappings": [CUSTOMER, {key: value for key, value in ORDER.items() if key != "foreign_keys"}],
    "checks": [],
    "rollback": {"keep_for": "7d"},
}
USED: Final = """
INSERT INTO shop.customer (id, name, balance) VALUES (900001, 'a new customer', 0);
INSERT INTO shop.order (id, customer_id, status, total, placed_on) VALUES (900001, 1, 'open', 0, now());
"""
THEIRS: Final = "CREATE VIEW public.theirs AS SELECT id, name FROM shop.customer"


async def answer(handle: WorkflowHandle[Any, Status], action: str, reason: str, stop: int = 0) -> str:
    """What the run says to an answer, or why it refuses it."""
    try:
        given = await handle.execute_update(action, AnswerOrder(actor="tester", reason=reason, stop=stop))
    except WorkflowUpdateFailedError as refused:
        assert isinstance(refused.cause, ApplicationError)
        return f"refused: {refused.cause.message}"
    return str(given["message"])


async def test_an_answer_to_an_earlier_stop_does_not_reach_the_one_that_stands_now(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(BOTH)
        assert (await scene.until(handle, "kept open")).stop == 0
        await run_script(scene.target_dsn, USED)
        await scene.order(handle, "rollback")
        first = await scene.until(handle, "waiting for a person")
        assert first.stop == 1
        assert f"`knarr retry {scene.run_id} --stop 1 --reason ...`" in first.waiting_for
        assert f"`knarr skip {scene.run_id} --stop 1 --reason ...`" in first.waiting_for
        one, other = ("customer", "order") if "shop.customer · its rows" in first.message else ("order", "customer")
        await run_script(scene.target_dsn, f"DELETE FROM shop.{one} WHERE id = 900001")
        assert "trying again (stop 1: can't take back" in await answer(handle, "retry", "it is gone", 1)
        assert (await waiting(scene, handle, f"shop.{other} · its rows")).stop == 2

        # Somebody else had looked at the first stop, too.
        late = await answer(handle, "skip", f"shop.{one}: I looked at that row", 1)
        assert late.startswith(f"refused: it answers stop 1, and the run is at stop 2: can't take back: shop.{other}")
        await run_script(scene.target_dsn, f"DELETE FROM shop.{other} WHERE id = 900001")
        await answer(handle, "retry", "gone as well", 2)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert "The target is what it was before" in failed.value.cause.message
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%I looked at that row%'") == 0


async def test_of_two_answers_at_once_the_first_is_taken(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, THEIRS)
        await scene.order(handle, "abort")
        await scene.until(handle, "waiting for a person")
        await run_script(scene.target_dsn, "DROP VIEW public.theirs")
    # No worker is there, so both come in one workflow task.
    first = asyncio.create_task(answer(handle, "retry", "the view is gone"))
    await asyncio.sleep(1)
    second = asyncio.create_task(answer(handle, "skip", "leave it", 1))
    await asyncio.sleep(1)
    async with scene.worker():
        assert (await first).startswith("trying again (stop 1: ")
        assert await second == "refused: stop 1 is over: tester has answered with retry"
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    told = await scene.in_target("SELECT body FROM knarr.audit WHERE body LIKE '%leave it%'")
    assert json.loads(told)["accepted"] is False


async def test_the_raise_can_be_retried_and_not_skipped(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, "ALTER TABLE knarr.lease RENAME COLUMN epoch TO epoch_of_theirs")
        await scene.order(handle, "abort")
        status = await scene.until(handle, "waiting for a person")
        assert status.waiting_for == f"`knarr retry {scene.run_id} --stop 1 --reason ...`"
        told = await answer(handle, "skip", "not needed")
        assert told.startswith("refused: stop 1 can't be skipped: without the raise")
        await run_script(scene.target_dsn, "ALTER TABLE knarr.lease RENAME COLUMN epoch_of_theirs TO epoch")
        await answer(handle, "retry", "the column is back")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%not needed%'") == 0


async def test_the_closing_of_the_record_can_be_retried_and_not_skipped(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start(BOTH)
        await scene.until(handle, "kept open")
        await run_script(scene.target_dsn, "ALTER TABLE knarr.claim RENAME TO claim_of_theirs")
        await scene.order(handle, "complete")
        status = await scene.until(handle, "waiting for a person")
        assert status.waiting_for == f"`knarr retry {scene.run_id} --stop 1 --reason ...`"
        told = await answer(handle, "skip", "not needed", status.stop)
        assert told.startswith("refused: stop 1 can't be skipped: until the record is closed")
        await run_script(scene.target_dsn, "ALTER TABLE knarr.claim_of_theirs RENAME TO claim")
        await answer(handle, "retry", "the table is back", status.stop)
        assert (await handle.result()).state == "completed"
    assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
