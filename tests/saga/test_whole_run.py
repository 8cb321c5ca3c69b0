"""A run from its start to its end: what stands on the target, what is taken back, what is refused."""

from urllib.parse import urlsplit

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from knarr.local.cluster import Cluster
from tests.saga.scene import PLAN, Scene, run_script

pytestmark = pytest.mark.saga


def dump(cluster: Cluster, dsn: str) -> str:
    """Everything in the target but Knarr's own schema, as pg_dump writes it."""
    return cluster.pg_dump(urlsplit(dsn).path.lstrip("/"), "--exclude-schema=knarr")


async def test_a_run_moves_every_row_and_proves_it(scene: Scene) -> None:
    async with scene.worker(cached=0):
        handle = await scene.start()
        status = await handle.result()
    assert status.state == "completed"
    assert status.verdict is not None
    assert status.verdict.passed
    assert status.rows == 22_000
    assert await scene.in_target('SELECT count(*) FROM shop."order"') == 20_000
    assert await scene.in_target("SELECT count(*) FROM shop.customer WHERE name LIKE 'customer %'") == 2_000
    assert await scene.in_target('SELECT sum(total) FROM shop."order"') == await scene.in_source(
        "SELECT sum(o_total) FROM orders"
    )
    assert await scene.in_target("SELECT count(*) FROM knarr.ledger") > 2


async def test_a_difference_is_named_and_the_target_is_as_before(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker(cached=0):
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, 'UPDATE shop."order" SET total = total + 1 WHERE id = 4711')
        await scene.order(handle, "resume")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "MigrationRolledBack"
    assert "shop.order" in cause.message
    assert "first: shop.order: 1 changed in total" in cause.message and "4711" not in cause.message
    assert dump(second_cluster, scene.target_dsn) == before


async def test_an_abort_while_copying_ends_as_canceled_with_the_target_as_before(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker(cached=0):
        handle = await scene.start(pause_before=["build"])
        await scene.until(handle, "paused")
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
    assert await scene.in_target("SELECT state FROM knarr.run") == "aborted"


async def test_temporals_own_cancel_unwinds_like_an_abort(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["foreign keys"])
        await scene.until(handle, "paused")
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_completed_run_that_is_kept_open_can_still_be_rolled_back(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollback": {"keep_for": "7d"}})
        status = await scene.until(handle, "kept open")
        assert f"knarr complete {scene.run_id}" in status.waiting_for
        await scene.order(handle, "rollback", "the shop's people changed their minds")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_second_run_on_the_same_table_is_refused_with_the_holders_name(scene: Scene) -> None:
    async with scene.worker():
        first = await scene.start(pause_before=["copy"])
        await scene.until(first, "paused")
        second = await scene.start(PLAN | {"name": "other-plan"}, run_id=f"other-plan/{scene.number}")
        with pytest.raises(WorkflowFailureError) as failed:
            await second.result()
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "ClaimRefused"
        assert scene.run_id in failed.value.cause.message
        await scene.order(first, "resume")
        assert (await first.result()).state == "completed"


async def test_the_survey_refuses_an_occupied_target_and_writes_nothing(scene: Scene, second_cluster: Cluster) -> None:
    await run_script(scene.target_dsn, "CREATE SCHEMA shop; CREATE TABLE shop.customer (id int); ")
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start()
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "SurveyRefused"
    assert "shop.customer" in failed.value.cause.message
    assert dump(second_cluster, scene.target_dsn) == before
