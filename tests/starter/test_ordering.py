"""Orders to a run that has just continued as new: it knows its mappings by number until it has recalled its survey."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.models import (
    ClaimResult,
    Compensation,
    MappingSummary,
    PlanDocument,
    RunContext,
    RunInput,
    SurveyResult,
)
from knarr.audit.chain import AuditHead
from knarr.local.temporal import TemporalServer
from knarr.plan.models import Plan
from knarr.postgres.lease import Lease
from starter import ordering
from starter.exits import Exit
from starter.failures import StarterError
from starter.runs import RunHandle
from tests.endtoend.command import Knarr
from tests.saga.scene import connect
from worker import PASSED_THROUGH
from workflows.messages import MigrationInput, Order, Resumed, RollbackOrder, SagaState, Shown, Status, Turn
from workflows.registry import ALL_WORKFLOWS
from workflows.saga import Saga
from workflows.settings import RunSettings

NOW: Final = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
HEAD: Final = AuditHead(position=7, digest="d" * 64)
SETTINGS: Final = RunSettings.of(
    Plan.model_validate(
        {
            "name": "shop-v2",
            "source": "legacy",
            "target": "shop",
            "mappings": [{"target": "shop.a", "source": "public.a", "key": {"id": "id"}}],
            "rollout": [{"phase": "canary", "where": {"shop.a": "id % 10 = 0"}}, {"phase": "everyone"}],
        }
    )
)
BACK: Final = RollbackOrder(actor="tester", reason="a test says so", to="canary/shop.a")
_numbers: Final = count(1)


def half_way(run_id: str, *, paused: bool) -> Resumed:
    """What a run hands to itself that has moved and proved its one mapping's canary."""
    lease = Lease(lease_id=1, epoch=1)
    saga = Saga(SagaState())
    claimed = ClaimResult(lease=lease, head=HEAD)
    for step, undo in (
        ("claim", Compensation(activity="release_target", summary="lease on shop")),
        ("survey", Compensation(activity="discard_survey", summary="the survey")),
        ("create", Compensation(activity="drop_tables", summary="tables")),
        ("move/canary/0", Compensation(activity="remove_rows", summary="its rows", mapping=0, phase="canary")),
        ("proved/canary/0", Compensation(activity="remove_checkpoint", summary="it", mapping=0, phase="canary")),
    ):
        saga.register(step, undo)
        saga.finish(step, 1)
    state = saga.state.model_copy(update={"results": {"claim": claimed.model_dump(mode="json")}})
    return Resumed(
        run=RunContext(run_id=run_id, plan="shop-v2", source="legacy", target="shop", lease=lease),
        settings=SETTINGS,
        saga=state,
        shown=Shown(
            state="running", phase="canary", step="copy", message="", verdict=None, verified_rows=0, rows=1,
            estimated_rows=10, copy_started_at=None, copy_ended_at=None,
        ),
        paused=paused,
        pause_before=["create"],  # which comes right after the survey: nothing is copied here
        started_at=NOW,
        decided=0,
        round=1,
    )  # fmt: skip


@asynccontextmanager
async def continued(
    client: Client,
    recalled: asyncio.Event,
    *,
    paused: bool = False,
    turn: Turn | None = None,
    stops: int = 0,
    others: Sequence[Callable[..., Any]] = (),
    aborted: bool = False,
) -> AsyncIterator[RunHandle]:
    """A run that has just continued as new; its survey is recalled once `recalled` is set, and nothing after it.

    Args:
        turn: where it was on its way back to; then recalling does not wait, it fails until `recalled` is set.
        stops: how often it has asked a person before.
        others: further activities of the worker's.
        aborted: an abort came before it had begun to go on.
    """

    @activity.defn(name="recall_survey")
    async def recall(given: RunInput) -> SurveyResult:
        if turn and not recalled.is_set():
            raise ApplicationError("no survey is stored here", type="PlanError", non_retryable=True)
        await recalled.wait()
        mapping = MappingSummary(
            number=0, name="shop.a", partitions=1, estimated_rows=10, estimated_bytes=10, phases=["canary"]
        )
        return SurveyResult(mappings=[mapping], cross_checks=[], warnings=0, head=HEAD)

    number = next(_numbers)
    run_id, task_queue = f"shop-v2/continued-{number}", f"continued-{number}"
    worker = Worker(
        client,
        task_queue=task_queue,
        workflows=ALL_WORKFLOWS,
        activities=[recall, *others],
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
        ),
    )
    async with worker:
        handle: RunHandle = await client.start_workflow(
            "Migration",
            MigrationInput(
                plan_name="shop-v2", source="legacy", target="shop", plan=PlanDocument(canonical="", digest="0" * 64),
                resumed=half_way(run_id, paused=paused).model_copy(update={"turn": turn, "stops": stops}),
            ),
            id=run_id,
            task_queue=task_queue,
            result_type=Status,
            start_signal="abort" if aborted else None,
            start_signal_args=[Order(actor="tester", reason="a test says so")] if aborted else [],
        )  # fmt: skip
        try:
            yield handle
        finally:
            recalled.set()
            await handle.terminate("the test is over")


async def test_an_order_to_go_back_to_a_mapping_waits_until_the_run_knows_it_by_name(temporal: TemporalServer) -> None:
    recalled = asyncio.Event()
    async with continued(await connect(temporal.address), recalled) as handle:
        given = asyncio.create_task(ordering.give(handle, "rollback", BACK))
        await asyncio.sleep(1)
        assert not given.done(), "it was refused, or accepted under a name that the run does not know"
        recalled.set()
        answer = await asyncio.wait_for(given, 20)
    assert answer.state == "unwinding"
    assert "going back to checkpoint canary/shop.a" in answer.message


async def test_an_order_is_refused_with_the_reason_when_the_survey_is_not_recalled_in_time(
    temporal: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "NAMES_WITHIN_SECONDS", 0.5)
    async with continued(await connect(temporal.address), asyncio.Event()) as handle:
        with pytest.raises(StarterError, match="still recalling its survey") as refused:
            await ordering.give(handle, "rollback", BACK)
    assert refused.value.exit_code is Exit.REFUSED
    assert refused.value.hint == "try again in a moment"


async def test_a_paused_run_learns_the_names_too(temporal: TemporalServer) -> None:
    recalled = asyncio.Event()
    recalled.set()
    async with continued(await connect(temporal.address), recalled, paused=True) as handle:
        answer = await asyncio.wait_for(ordering.give(handle, "rollback", BACK), 20)
    assert "going back to checkpoint canary/shop.a" in answer.message


async def test_no_order_can_lead_to_a_mapping_by_its_number(temporal: TemporalServer) -> None:
    order = BACK.model_copy(update={"to": "canary/mapping 0"})
    async with continued(await connect(temporal.address), asyncio.Event()) as handle:
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update("rollback", order)


async def test_status_names_the_checkpoints_once_their_names_are_known(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    recalled = asyncio.Event()
    knarr = Knarr(tmp_path, {}, {"TEMPORAL_ADDRESS": temporal.address})

    async with continued(await connect(temporal.address), recalled) as handle:
        too_early = await asyncio.to_thread(knarr, "status", handle.id)
        recalled.set()
        named = await asyncio.to_thread(knarr, "status", handle.id)
    assert "look again in a moment" in too_early.stdout, too_early.stderr
    assert "mapping 0" not in too_early.stdout
    assert "\ncheckpoints: canary/shop.a\n" in named.stdout, named.stderr
    assert f"  back to the newest: knarr rollback {handle.id} --to canary/shop.a --reason ...\n" in named.stdout
