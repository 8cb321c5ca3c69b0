"""Rollback criteria: a guard that is breached, a guard that can't be asked, too many errors, a deadline."""

import asyncio
from typing import Any

import asyncpg
import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from knarr.local.cluster import Cluster
from tests.saga.scene import PLAN, Scene, run_script
from tests.saga.test_whole_run import dump

pytestmark = pytest.mark.saga

SOAKING = [{"phase": "everyone", "soak": "60s"}]
COMPLAINTS = "CREATE TABLE public.complaint (id integer GENERATED ALWAYS AS IDENTITY)"
GUARD = {"name": "complaints", "query": "SELECT count(*) FROM public.complaint", "max": 2, "every": "1s"}


async def rolled_back(handle: WorkflowHandle[Any, Any]) -> str:
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    return failed.value.cause.message


async def trail(scene: Scene, text: str) -> int:
    return int(await scene.in_target(f"SELECT count(*) FROM knarr.audit WHERE position(E'{text}' IN body) > 0"))


async def test_a_breached_guard_takes_the_run_back_with_the_figure_on_record(
    scene: Scene, second_cluster: Cluster
) -> None:
    await run_script(scene.target_dsn, COMPLAINTS)
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollout": SOAKING, "guards": [GUARD], "rollback": {"on": "guard"}})
        await scene.until(handle, "soaking")
        await run_script(scene.target_dsn, "INSERT INTO public.complaint SELECT FROM generate_series(1, 3)")
        message = await rolled_back(handle)
    assert "guard 'complaints' breached: 3 is above max 2" in message
    await run_script(scene.target_dsn, "TRUNCATE public.complaint RESTART IDENTITY")
    assert dump(second_cluster, scene.target_dsn) == before
    assert await trail(scene, '"figure":3') == 1
    assert await trail(scene, '"action":"roll back"') == 1


async def test_without_the_criterion_a_breach_pauses_and_resuming_accepts_it(scene: Scene) -> None:
    rollout = [{"phase": "everyone", "soak": "5s"}]
    guard = GUARD | {"min": 1, "on": "source", "query": "SELECT count(*) FROM public.customer WHERE c_id < 0"}
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollout": rollout, "guards": [guard]})
        status = await scene.until(handle, "paused")
        assert status.step == "soak"
        assert "guard 'complaints' breached: 0 is below min 1" in status.message
        assert "knarr resume" in status.waiting_for
        await scene.order(handle, "resume", "there never were any")
        assert (await handle.result()).state == "completed"
    assert await trail(scene, '"action":"pause","actor":"plan"') == 1


async def test_a_guard_that_cannot_be_asked_is_a_breach_and_says_why(scene: Scene, second_cluster: Cluster) -> None:
    await run_script(scene.target_dsn, COMPLAINTS)
    before = dump(second_cluster, scene.target_dsn)
    guard = GUARD | {"query": "SELECT 1 / count(*) FROM public.complaint", "during": "copy"}
    async with scene.worker():
        handle = await scene.start(PLAN | {"guards": [guard], "rollback": {"on": "guard"}})
        message = await rolled_back(handle)
    assert "guard 'complaints' can't be asked" in message
    assert "division by zero" in message
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_guard_that_can_never_be_asked_is_refused_before_anything_is_written(scene: Scene) -> None:
    guard = GUARD | {"query": "SELECT count(*) FROM public.complaints"}
    async with scene.worker():
        handle = await scene.start(PLAN | {"guards": [guard]})
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "SurveyRefused"
    assert 'guards[0].query (complaints): relation "public.complaints" does not exist' in failed.value.cause.message


async def test_guards_that_stay_within_their_bounds_let_the_run_through(scene: Scene) -> None:
    guards = [
        GUARD | {"name": during, "during": during, "query": "SELECT 2.5", "max": 3}
        for during in ("copy", "soak", "always")
    ]
    rollout = [{"phase": "everyone", "soak": "1s"}]
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollout": rollout, "guards": guards, "rollback": {"on": "guard"}})
        assert (await handle.result()).state == "completed"
    history = await handle.fetch_history()
    asked = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert asked.count("check_guards") >= 3


async def attempts(scene: Scene, child: str) -> list[int]:
    """Which attempt each pending activity of a child workflow is at."""
    description = await scene.client.get_workflow_handle(child).describe()
    return [pending.attempt for pending in description.raw_description.pending_activities]


@pytest.mark.parametrize("errors", [1, 5])
async def test_too_many_failed_attempts_take_the_run_back(errors: int, scene: Scene, second_cluster: Cluster) -> None:
    """One partition that fails more than it may, or several together: `errors 1` is met by one, `errors 5` by two."""
    before = dump(second_cluster, scene.target_dsn)
    limits = {"partition_size": "256KiB", "lock_timeout": "300ms"}
    async with scene.worker():
        handle = await scene.start(
            PLAN | {"limits": limits, "rollback": {"on": [f"errors {errors}"]}}, pause_before=["copy"]
        )
        await scene.until(handle, "paused")
        somebody = await asyncpg.connect(scene.target_dsn)
        try:
            async with somebody.transaction():
                await somebody.execute('LOCK TABLE shop."order" IN ACCESS EXCLUSIVE MODE')
                await scene.order(handle, "resume")
                async with asyncio.timeout(60):
                    while (await handle.query("status"))["state"] != "unwinding":
                        tried = await attempts(scene, f"{scene.run_id}/shop.order") if errors > 1 else []
                        if len(tried) > 1 and min(tried) > 3:
                            break
                        await asyncio.sleep(0.1)
        finally:
            await somebody.close()
        message = await rolled_back(handle)
    assert f"the plan allows {errors} errors" in message
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_deadline_takes_the_run_back(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollback": {"on": "deadline 8s"}}, pause_before=["verify"])
        message = await rolled_back(handle)
    assert "the plan's deadline of 8 s since" in message
    assert dump(second_cluster, scene.target_dsn) == before
