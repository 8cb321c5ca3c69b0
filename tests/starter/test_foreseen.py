"""What an order would lead to, found out before it is given and before anybody is asked to confirm it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest
from temporalio import workflow
from temporalio.worker import Worker

from knarr.local.temporal import TemporalServer
from starter.exits import Exit
from starter.failures import StarterError
from starter.foreseen import held_against
from starter.runs import STATE, RunHandle
from tests.endtoend.command import Knarr
from tests.saga.scene import connect
from tests.starter.test_screen import RUN, snapshot
from workflows.messages import AnswerOrder, Order, RollbackOrder, State, Status

_numbers: Final = count(1)


def status(state: State, *checkpoints: str) -> Status:
    seen = snapshot(300, state=state).progress
    assert seen is not None
    return seen.status.model_copy(update={"checkpoints": list(checkpoints)})


def leads_to(where: Status, to: str) -> str:
    order = held_against(where, "rollback", RollbackOrder(actor="mira", reason="a test", to=to))
    assert isinstance(order, RollbackOrder)
    assert (order.actor, order.reason) == ("mira", "a test")
    return order.to


@pytest.mark.parametrize("asked", ["", "everyone"])
def test_going_back_to_where_the_run_stands_is_refused_and_says_what_takes_all_back(asked: str) -> None:
    with pytest.raises(StarterError, match="stands at checkpoint everyone already") as refused:
        leads_to(status("at checkpoint", "canary", "everyone"), asked)
    assert refused.value.exit_code is Exit.REFUSED
    assert f"knarr rollback {RUN} --to start --reason ..." in refused.value.hint
    assert f"knarr resume {RUN} --reason ..." in refused.value.hint


def test_a_run_at_a_checkpoint_can_be_taken_further_back() -> None:
    held = status("at checkpoint", "canary", "everyone/shop.a")
    assert leads_to(held, "") == "canary"
    assert leads_to(held, "canary") == "canary"
    assert leads_to(held, "start") == "start"


def test_a_run_that_goes_on_can_be_taken_back_to_its_newest_checkpoint() -> None:
    assert leads_to(status("running", "canary"), "") == "canary"


def test_a_run_that_is_kept_open_is_taken_back_whole_unless_a_checkpoint_is_named() -> None:
    kept = status("kept open", "canary", "everyone")
    assert leads_to(kept, "") == "start"
    assert leads_to(kept, "everyone") == "everyone"


@pytest.mark.parametrize(
    ("action", "state", "reason"),
    [
        ("abort", "completed", "the run has ended: completed"),
        ("abort", "unwinding", "is taking itself back"),
        ("complete", "running", "nothing to complete: the run is running, not kept open"),
        ("skip", "running", "nothing to skip"),
        ("rollback", "running", "there is no checkpoint 'canaries'; there are: start, canary"),
    ],
)
def test_what_the_run_would_refuse_is_refused_before_anybody_is_asked(action: str, state: State, reason: str) -> None:
    order = RollbackOrder(actor="mira", to="canaries") if action == "rollback" else Order(actor="mira", reason="why")
    with pytest.raises(StarterError, match=f"{action} is refused: .*{reason}") as refused:
        held_against(status(state, "canary"), action, order)
    assert refused.value.exit_code is Exit.REFUSED


def test_an_answer_to_the_stop_that_stands_is_foreseen_to_be_taken_and_one_to_another_is_not() -> None:
    waiting = status("waiting for a person").model_copy(update={"stop": 3, "message": "can't take back: its rows"})
    for order in (AnswerOrder(actor="mira", reason="why", stop=3), Order(actor="mira", reason="why")):
        assert held_against(waiting, "skip", order) == order
    with pytest.raises(StarterError, match="it answers stop 2, and the run is at stop 3: can't take back: its rows"):
        held_against(waiting, "skip", AnswerOrder(actor="mira", reason="why", stop=2))


@workflow.defn(name="Migration", sandboxed=False)
class EndsAtOnce:
    """Stands where a run would that has ended."""

    @workflow.run
    async def run(self, state: State) -> None:
        workflow.upsert_search_attributes([STATE.value_set(state)])


@pytest.fixture
async def ended(temporal: TemporalServer) -> AsyncIterator[RunHandle]:
    """A run that has completed, and whose worker is gone."""
    client = await connect(temporal.address)
    queue = f"foreseen-{next(_numbers)}"
    async with Worker(client, task_queue=queue, workflows=[EndsAtOnce]):
        handle: RunHandle = await client.start_workflow(
            "Migration", "completed", id=f"{queue}/2026-11-25T10-00-00Z", task_queue=queue, result_type=Status
        )
        async with asyncio.timeout(20):
            await client.get_workflow_handle(handle.id).result()
    yield handle


@pytest.mark.parametrize("action", ["abort", "complete", "rollback", "retry", "skip"])
async def test_an_order_to_a_run_that_has_ended_asks_nobody(
    temporal: TemporalServer, ended: RunHandle, tmp_path: Path, action: str
) -> None:
    knarr = Knarr(tmp_path, {}, {"TEMPORAL_ADDRESS": temporal.address})
    done = await asyncio.to_thread(knarr, action, ended.id, "--reason", "a test")
    assert done.returncode == Exit.REFUSED, done.stderr
    assert f"{action} is refused: the run has ended: completed" in done.stderr
    assert "?" not in done.stderr
