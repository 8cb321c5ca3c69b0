"""The epoch is raised before anything is taken back, whenever the order comes; and a run keeps its lease."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from temporalio import activity

from activities.models import CompensationInput, RaiseResult, RunInput, StepResult
from knarr.audit.chain import AuditHead
from knarr.local.temporal import TemporalServer
from knarr.postgres.lease import Lease
from starter import ordering
from tests.saga.scene import connect
from tests.starter.test_answers import status_at
from tests.starter.test_ordering import continued
from workflows.messages import AnswerOrder

CLAIMED = Lease(lease_id=1, epoch=1)


class Target:
    """Stands in for the activities that a run turning back calls first."""

    def __init__(self, raised: Lease | None) -> None:
        self._raised = raised
        self.called: list[tuple[str, Lease | None]] = []
        self.taking_back = asyncio.Event()

    @property
    def activities(self) -> list[Callable[..., Any]]:
        @activity.defn(name="raise_epoch")
        async def raise_epoch(given: RunInput) -> RaiseResult:
            self.called.append(("raise_epoch", given.run.lease))
            return RaiseResult(lease=self._raised)

        @activity.defn(name="remove_checkpoint")
        async def remove_checkpoint(given: CompensationInput) -> StepResult:
            self.called.append(("remove_checkpoint", given.run.lease))
            self.taking_back.set()
            return StepResult(head=AuditHead(position=8, digest="e" * 64))

        return [raise_epoch, remove_checkpoint]


@pytest.fixture
def recalled() -> asyncio.Event:
    known = asyncio.Event()
    known.set()
    return known


async def test_an_abort_that_comes_first_of_all_raises_the_epoch_too(
    temporal: TemporalServer, recalled: asyncio.Event
) -> None:
    raised = Lease(lease_id=1, epoch=2)
    target = Target(raised)
    async with continued(await connect(temporal.address), recalled, others=target.activities, aborted=True):
        await asyncio.wait_for(target.taking_back.wait(), 20)
    assert target.called[:2] == [("raise_epoch", CLAIMED), ("remove_checkpoint", raised)]


async def test_a_run_keeps_its_lease_when_a_worker_of_before_finds_none(
    temporal: TemporalServer, recalled: asyncio.Event
) -> None:
    target = Target(None)
    async with continued(await connect(temporal.address), recalled, others=target.activities, aborted=True) as handle:
        status = await status_at(handle, 1)
        await ordering.give(handle, "retry", AnswerOrder(actor="tester", reason="again", stop=1))
        await status_at(handle, 2)
    assert "the raise found no lease on shop; is the alias the run's?" in status.message
    assert target.called == [("raise_epoch", CLAIMED), ("raise_epoch", CLAIMED)]
