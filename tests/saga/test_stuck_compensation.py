"""A compensation that can't work: the run waits for a person, and what that person may and may not say then."""

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from knarr.audit.facts import ReportData
from knarr.audit.gather import gather
from knarr.local.cluster import Cluster
from knarr.postgres.session import connect
from starter.trails import said_by
from tests.saga.scene import Scene, run_script
from tests.saga.test_whole_run import dump
from workflows.messages import Order, Status

pytestmark = pytest.mark.saga

# Somebody else's, so it is never dropped: the table under it can't be either.
THEIRS = "CREATE VIEW public.theirs AS SELECT id, name FROM shop.customer"


async def stuck(scene: Scene, handle: WorkflowHandle[Any, Status], order: str) -> Status:
    """A run that was told to turn back, and can't drop a table because of somebody's view."""
    await scene.until(handle, "paused")
    await run_script(scene.target_dsn, THEIRS)
    await scene.order(handle, order)
    return await scene.until(handle, "waiting for a person")


async def report(scene: Scene, handle: WorkflowHandle[Any, Status]) -> ReportData:
    """What `knarr report` makes of the run now."""
    connection = await connect(scene.target_dsn, application_name="test report", read_only=True)
    try:
        return await gather(connection, scene.run_id, said=await said_by(scene.client, handle))
    finally:
        await connection.close()


async def refusal(scene: Scene, handle: WorkflowHandle[Any, Status], action: str, reason: str = "a test") -> str:
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await scene.order(handle, action, reason)
    assert isinstance(refused.value.cause, ApplicationError)
    assert refused.value.cause.type == "OrderRefused"
    return refused.value.cause.message


async def test_the_exact_error_is_shown_and_a_retry_ends_it_once_the_cause_is_mended(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        status = await stuck(scene, handle, "abort")
        assert "can't take back: schemas, types and bare tables" in status.message
        assert "DROP TABLE" in status.message, "the statement to look at"
        assert "shop.customer" in status.message
        assert "view theirs depends on table shop.customer" in status.message
        assert f"knarr retry {scene.run_id}" in status.waiting_for
        assert f"knarr skip {scene.run_id}" in status.waiting_for

        reported = await report(scene, handle)
        assert reported.headline.startswith("Being taken back, and waiting for a person:")
        assert "shop.customer because other objects depend on it. To answer: knarr" in reported.explanation
        assert f"knarr retry {scene.run_id}" in reported.explanation

        await scene.order(handle, "retry", "perhaps it works now")
        await scene.until(handle, "waiting for a person")
        await run_script(scene.target_dsn, "DROP VIEW public.theirs")
        await scene.order(handle, "retry", "the view is gone")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%the view is gone%'") == 1


async def test_a_skip_ends_it_and_the_run_says_what_was_not_taken_back(scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await stuck(scene, handle, "rollback")
        assert "skip needs a reason" in await refusal(scene, handle, "skip", reason="")
        await scene.order(handle, "skip", "their view must stay; the empty table may")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        status = await handle.query("status", result_type=Status)
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    assert "NOT TAKEN BACK, by a person's decision: schemas, types and bare tables" in failed.value.cause.message
    assert status.state == "rolled back"
    # What could be taken back was: the rows, and the claim.
    assert await scene.in_target("SELECT count(*) FROM shop.customer") == 0
    assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%their view must stay%'") == 1


@pytest.mark.parametrize("first", ["abort", "rollback"])
async def test_unwinding_is_not_interrupted_by_another_order(first: str, scene: Scene) -> None:
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await stuck(scene, handle, first)
        for action in ("abort", "rollback", "pause", "resume"):
            told = await refusal(scene, handle, action)
            assert f"the run is taking itself back ({first} by tester)" in told
        # A signal can't be refused; it is on record that it was not followed.
        await handle.signal("abort", Order(actor="somebody", reason="stop it"))
        await run_script(scene.target_dsn, "DROP VIEW public.theirs")
        await scene.order(handle, "retry")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    ended = CancelledError if first == "abort" else ApplicationError
    assert isinstance(failed.value.cause, ended)
    assert await scene.in_target(
        "SELECT count(*) FROM knarr.audit WHERE kind = 'operator' AND body::jsonb @> "
        """'{"action": "abort", "actor": "somebody", "accepted": false}'"""
    )


async def test_a_run_that_takes_itself_back_is_not_interrupted_either(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, f"UPDATE shop.customer SET name = 'x' WHERE id = 7; {THEIRS}")
        await scene.order(handle, "resume")
        await scene.until(handle, "waiting for a person")
        for action in ("abort", "rollback", "pause"):
            assert "the run is taking itself back (failure by plan)" in await refusal(scene, handle, action)
        # Nor by Temporal's own cancel: it must not leave the target half way.
        await handle.cancel()
        assert (await scene.until(handle, "waiting for a person")).state == "waiting for a person"
        await run_script(scene.target_dsn, "DROP VIEW public.theirs")
        await scene.order(handle, "retry")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_raise_that_finds_no_lease_is_retried_until_the_alias_is_right_again(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        # As if the alias led to a server without Knarr for a moment.
        await run_script(scene.target_dsn, "ALTER SCHEMA knarr RENAME TO knarr_elsewhere")
        await scene.order(handle, "abort")
        status = await scene.until(handle, "waiting for a person")
        assert "fence off all that was writing: the database that shop leads to now does not know" in status.message
        assert "is the alias the run's?" in status.message
        await run_script(scene.target_dsn, "ALTER SCHEMA knarr_elsewhere RENAME TO knarr")
        await scene.order(handle, "retry", "the alias is right again")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%the alias is right again%'") == 1
