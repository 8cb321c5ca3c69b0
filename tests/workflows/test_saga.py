"""The saga by itself: what is registered when, what is undone in which order, what survives continue-as-new."""

import pytest

from activities.models import Compensation
from workflows.messages import Moved, SagaState
from workflows.saga import Saga


def undo(name: str) -> Compensation:
    return Compensation(activity=f"undo_{name}", summary=f"undo {name}")


class Undone:
    """Remembers in which order steps were taken back."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def __call__(self, step: str, compensation: Compensation) -> None:
        assert compensation.activity == f"undo_{step}"
        self.steps.append(step)


async def run(saga: Saga, *steps: str) -> None:
    for step in steps:

        async def act() -> Moved:
            return Moved(partitions=1, rows=2, bytes=3)

        await saga.step(step, Moved, act, undo=undo(step))


async def test_a_compensation_is_registered_before_its_step_runs() -> None:
    saga = Saga(SagaState())
    seen: list[list[str]] = []

    async def act() -> Moved:
        seen.append([step for step, _ in saga.state.registered])
        return Moved(partitions=0, rows=0, bytes=0)

    await saga.step("copy", Moved, act, undo=undo("copy"))
    assert seen == [["copy"]]


async def test_a_step_that_failed_half_way_is_taken_back_too() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim")

    async def fail() -> Moved:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await saga.step("copy", Moved, fail, undo=undo("copy"))
    await saga.unwind("start", undone)
    assert undone.steps == ["copy", "claim"]


async def test_unwinding_runs_in_reverse_and_leaves_nothing_registered() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim", "create", "copy")
    await saga.unwind("start", undone)
    assert undone.steps == ["copy", "create", "claim"]
    assert saga.state == SagaState()


async def test_a_step_that_is_done_is_not_run_again_and_gives_its_result() -> None:
    saga = Saga(SagaState())
    await run(saga, "copy")

    async def never() -> Moved:
        raise AssertionError("ran again")

    assert (await saga.step("copy", Moved, never, undo=undo("copy"))).rows == 2


async def test_a_step_tried_again_after_a_failure_is_registered_once() -> None:
    saga, undone = Saga(SagaState()), Undone()

    async def fail() -> Moved:
        raise RuntimeError("once")

    with pytest.raises(RuntimeError, match="once"):
        await saga.step("copy", Moved, fail, undo=undo("copy"))
    await run(saga, "copy")
    await saga.unwind("start", undone)
    assert undone.steps == ["copy"]


async def test_unwinding_to_a_checkpoint_keeps_what_was_verified_and_forgets_later_checkpoints() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim", "copy canary")
    saga.checkpoint("canary")
    await run(saga, "copy everyone")
    saga.checkpoint("everyone")
    await saga.unwind("canary", undone)
    assert undone.steps == ["copy everyone"]
    assert saga.checkpoints == ["canary"]
    assert saga.is_done("copy canary")
    assert not saga.is_done("copy everyone")


async def test_unwinding_to_an_unknown_checkpoint_takes_nothing_back() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim")
    with pytest.raises(KeyError):
        await saga.unwind("nowhere", undone)
    assert undone.steps == []


async def test_a_saga_goes_on_from_its_state_in_the_next_run_of_the_workflow() -> None:
    first = Saga(SagaState())
    await run(first, "claim", "copy")
    first.checkpoint("canary")
    carried = SagaState.model_validate_json(first.state.model_dump_json())
    second, undone = Saga(carried), Undone()
    await run(second, "build")
    await second.unwind("start", undone)
    assert undone.steps == ["build", "copy", "claim"]


async def test_a_compensation_that_raises_leaves_its_step_registered() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim", "copy")

    async def stuck(step: str, compensation: Compensation) -> None:
        raise RuntimeError(f"{step} is stuck")

    with pytest.raises(RuntimeError, match="copy is stuck"):
        await saga.unwind("start", stuck)
    await saga.unwind("start", undone)
    assert undone.steps == ["copy", "claim"]
