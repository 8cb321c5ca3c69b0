"""A run that completed and is taken back after people have begun to use its tables: their rows are asked about."""

import asyncio
from typing import Any, Final

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from knarr.local.cluster import Cluster
from tests.saga.scene import PATIENCE, PLAN, Scene, run_script
from tests.saga.test_whole_run import dump
from workflows.messages import Status

pytestmark = pytest.mark.saga

KEPT: Final = PLAN | {"mappings": PLAN["mappings"][:1], "checks": [], "rollback": {"keep_for": "7d"}}
USED: Final = """
INSERT INTO shop.customer (id, name, balance) VALUES (900001, 'a new customer', 0);
UPDATE shop.customer SET phone = '+49-0' WHERE id IN (7, 8);
"""
THEIRS: Final = "SELECT string_agg(id || ' ' || phone, ', ' ORDER BY id) FROM {} WHERE phone = '+49-0'"


async def waiting(scene: Scene, handle: WorkflowHandle[Any, Status], about: str) -> Status:
    """The run once it waits for a person about this; it may still show that it waits about something else."""
    async with asyncio.timeout(PATIENCE):
        while True:
            status = await scene.until(handle, "waiting for a person")
            if about in status.message:
                return status
            await asyncio.sleep(0.05)


async def taken_back(handle: WorkflowHandle[Any, Status]) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"


async def used_and_told_to_go_back(scene: Scene) -> WorkflowHandle[Any, Status]:
    """A run that is kept open, whose table is in use, and which waits for a person about the rows there."""
    handle = await scene.start(KEPT)
    await scene.until(handle, "kept open")
    await run_script(scene.target_dsn, USED)
    await scene.order(handle, "rollback")
    status = await waiting(scene, handle, "holds 2,001 rows, the ledger says that the run put 2,000 there; 3 of them")
    assert "somebody else has written to it" in status.message
    assert "a new customer" not in status.message
    assert await scene.in_target("SELECT count(*) FROM shop.customer") == 2_001
    return handle


async def decide(scene: Scene, what: str) -> None:
    decision = f"SELECT knarr.decide('{scene.run_id}', 'shop.customer', '{what}', 'ann', 'agreed')"
    await run_script(scene.target_dsn, decision)


async def test_restore_ours_takes_all_of_it_back(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await used_and_told_to_go_back(scene)
        await decide(scene, "restore ours")
        await scene.order(handle, "retry")
        await taken_back(handle)

    assert dump(second_cluster, scene.target_dsn) == before
    told = "SELECT count(*) FROM knarr.audit WHERE kind = 'decision' AND body LIKE '%3 rows written or changed by%'"
    assert await scene.in_target(told) == 1


async def test_keep_theirs_leaves_the_table_until_they_are_elsewhere(scene: Scene) -> None:
    async with scene.worker():
        handle = await used_and_told_to_go_back(scene)
        await decide(scene, "keep theirs")
        await scene.order(handle, "retry")
        status = await waiting(scene, handle, "shop.customer is not dropped: it holds 3 rows")
        assert "take them elsewhere" in status.message
        assert await scene.in_target(THEIRS.format("shop.customer")) == "7 +49-0, 8 +49-0"
        assert await scene.in_target("SELECT count(*) FROM shop.customer") == 3
        await run_script(
            scene.target_dsn, "CREATE TABLE public.theirs AS TABLE shop.customer; DELETE FROM shop.customer"
        )
        await scene.order(handle, "retry", "they are in public.theirs now")
        await taken_back(handle)

    assert await scene.in_target("SELECT to_regnamespace('shop') IS NULL")
    assert await scene.in_target(THEIRS.format("public.theirs")) == "7 +49-0, 8 +49-0"
    assert await scene.in_target("SELECT count(*) FROM public.theirs") == 3
