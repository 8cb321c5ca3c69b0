"""What the command line makes of what Temporal lists: one run, however often it continued, also without a worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import count
from typing import Final

import pytest
from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError
from temporalio.worker import Worker

from knarr.local.temporal import TemporalServer
from starter.following import look
from starter.runs import PLAN, STATE, RunHandle, listed
from tests.saga.scene import connect
from workflows.messages import Status

_numbers: Final = count(1)


@workflow.defn(name="Migration", sandboxed=False)
class Continues:
    """Stands where a run would, for what the server lists: continues as new, then waits."""

    @workflow.run
    async def run(self, more: int) -> None:
        if more:
            workflow.continue_as_new(more - 1)
        await workflow.wait_condition(lambda: False)


@pytest.fixture
async def often_continued(temporal: TemporalServer) -> AsyncIterator[RunHandle]:
    """A run that has continued as new twice, waits for approval, and has no worker any more."""
    client = await connect(temporal.address)
    plan = f"often-{next(_numbers)}"
    attributes = [SearchAttributePair(PLAN, plan), SearchAttributePair(STATE, "waiting for approval")]
    async with Worker(client, task_queue=plan, workflows=[Continues]):
        handle: RunHandle = await client.start_workflow(
            "Migration", 2, id=f"{plan}/2026-11-25T10-00-00Z", task_queue=plan, result_type=Status,
            search_attributes=TypedSearchAttributes(attributes),
        )  # fmt: skip
        async with asyncio.timeout(20):
            while (await client.count_workflows(f"WorkflowId = '{handle.id}'")).count < 3:
                await asyncio.sleep(0.1)
    yield handle
    with contextlib.suppress(RPCError):  # a test may have ended it
        await handle.terminate("the test is over")


async def test_a_run_that_continued_as_new_is_listed_once_and_began_when_it_began(
    temporal: TemporalServer, often_continued: RunHandle
) -> None:
    client = await connect(temporal.address)
    executions = [each async for each in client.list_workflows(f"WorkflowId = '{often_continued.id}'")]
    assert len(executions) == 3
    [run] = await listed(client, plan=often_continued.id.partition("/")[0])
    assert run.started_at == min(each.start_time for each in executions)
    assert (run.state, run.ended_at) == ("waiting for approval", None)


async def test_a_run_without_a_worker_is_in_the_state_that_it_told_the_server_last(
    temporal: TemporalServer, often_continued: RunHandle
) -> None:
    client = await connect(temporal.address)
    seen = await look(client, often_continued)
    assert (seen.answered, seen.state) == (False, "waiting for approval")
    await often_continued.terminate("somebody had enough")
    seen = await look(client, often_continued)
    assert (seen.running, seen.state) == (False, "terminated")
