"""What is played for the pictures: a run that rolls back, and one that gets stuck, pauses and is kept open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from knarr.plan.load import LoadedPlan, canonical_json, digest_of
from knarr.plan.models import Plan
from starter import runs
from tests.saga.scene import PLAN, Scene, run_script
from tests.ui.album import Album
from tests.ui.shots import Shot
from workflows.messages import Status

SHOP_PLAN: Final = PLAN | {
    "description": "Orders and customers move to the new shop.",
    "rollback": {"keep_for": "7d"},
    "limits": {"partition_size": "256KiB", "lock_timeout": "1s"},
}
ROLLED_BACK: Final = "shop-v2/2026-11-23T10-15-02Z"
AT_WORK: Final = "shop-v2/2026-11-23T10-45-02Z"
ACTOR: Final = "ada@example"


async def begin(scene: Scene, run_id: str, *, pause_before: list[str]) -> WorkflowHandle[Any, Status]:
    """Start a run as the starter does, at the time that gives it this id."""
    plan = Plan.model_validate(SHOP_PLAN)
    canonical = canonical_json(plan)
    return await runs.start(
        scene.client,
        LoadedPlan(plan=plan, canonical=canonical, digest=digest_of(canonical), path=Path("shop.yaml")),
        task_queue=scene.task_queue,
        actor=ACTOR,
        pause_before=pause_before,
        now=datetime.strptime(run_id.rpartition("/")[2], "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC),
    )


async def rolled_back(scene: Scene, album: Album) -> list[Shot]:
    """Somebody changes a row before verification; the run finds it and takes itself back.

    Returns the pictures that are to be taken of it.
    """
    handle = await begin(scene, ROLLED_BACK, pause_before=["verify"])
    await scene.until_shown(handle, "paused")
    await run_script(scene.target_dsn, 'UPDATE shop."order" SET total = total + 1 WHERE id = 4711')
    await scene.order(handle, "resume", "nothing was found")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    return [
        await album.page_of("rolled-back-timeline", handle, "timeline", ["ROLLED BACK", "take back: lease on shop"]),
        await album.page_of("rolled-back-history", handle, "history", ["Workflow Execution Failed"]),
        await album.page_of("rolled-back-relationships", handle, "relationships", ["shop.customer"]),
        await album.page_of("rolled-back-user-metadata", handle, "user-metadata", ["Current Details"], ["as of"]),
    ]


async def at_work(scene: Scene, album: Album, others: list[Shot]) -> None:
    """A run that can't get past a lock, then waits before verification, then is kept open; and other pictures."""
    handle = await begin(scene, AT_WORK, pause_before=["copy", "verify"])
    await scene.until_shown(handle, "paused")
    await _stuck(scene, album, handle)
    await scene.until_shown(handle, "paused")
    await album.take(
        album.list_of_runs("list", [AT_WORK]),
        album.list_of_runs("list-configured", [AT_WORK, "KnarrState"], configured=True),
        await album.page_of("paused-timeline", handle, "timeline", ["asked to pause before verify"]),
        await album.page_of("paused-history", handle, "history", ["Workflow Task Completed"]),
        await album.page_of("paused-relationships", handle, "relationships", ["shop.customer"]),
        await album.page_of(
            "paused-user-metadata", handle, "user-metadata", ["Current Details"], ["paused before verify"]
        ),
        await album.page_of("paused-search-attributes", handle, "search-attributes", ["KnarrState"]),
        *others,
    )
    await scene.order(handle, "resume", "go on")
    await scene.until_shown(handle, "kept open")
    await album.take(
        await album.page_of("kept-open-timeline", handle, "timeline", ["the seal"]),
        await album.page_of("kept-open-user-metadata", handle, "user-metadata", ["Current Details"], ["kept open"]),
    )


async def _begun(child: WorkflowHandle[Any, Any]) -> None:
    """A child is there a moment after the order that lets its parent start it."""
    async with asyncio.timeout(30):
        while True:
            try:
                await child.describe()
                return
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.1)


async def _stuck(scene: Scene, album: Album, handle: WorkflowHandle[Any, Status]) -> None:
    child = scene.client.get_workflow_handle(f"{AT_WORK}/shop.order")
    async with locked(scene.source_dsn, "public.orders"):
        await scene.order(handle, "resume", "the window is open")
        await _begun(child)
        link = await album.page_of("stuck-link", handle, "user-metadata", ["Current Details"], ["at work"])
        link["follow"], link["arrived"] = "shop.order", child.id
        await album.take(
            await album.page_of("stuck-user-metadata", handle, "user-metadata", ["Current Details"], ["copying"]),
            link,
            await album.page_of("stuck-pending-activities", child, "pending-activities", ["lock timeout"]),
            await album.page_of("stuck-child-timeline", child, "timeline", ["partition 1 of"]),
        )


@asynccontextmanager
async def locked(dsn: str, table: str) -> AsyncIterator[None]:
    """Somebody holds a lock on a table that no reader gets past."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()
