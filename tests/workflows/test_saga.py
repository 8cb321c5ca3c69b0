"""The saga by itself: what is registered when, what is undone in which order, what survives continue-as-new."""

import pytest

from activities.models import Compensation
from workflows.messages import Moved, SagaState
from workflows.saga import Checkpoint, Saga


def undo(step: str, *, phase: str = "", mapping: int = -1, apart: bool = False) -> Compensation:
    return Compensation(activity=f"undo {step}", summary=step, mapping=mapping, phase=phase, apart=apart)


class Undone:
    """Remembers in which order steps were taken back."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def __call__(self, step: str, compensation: Compensation) -> None:
        self.steps.append(step)


async def run(saga: Saga, *steps: str, phase: str = "") -> None:
    for step in steps:

        async def act() -> int:
            return 2

        await saga.count(step, act, undo=undo(step, phase=phase))


async def copy(saga: Saga, phase: str, *mappings: int) -> None:
    """What is done to the rows of mappings: copied, keys built, sequences set; the last can't stay by itself."""
    for number in mappings:
        for kind, apart in (("move", True), ("build", True), ("sequences", False)):

            async def act(number: int = number) -> int:
                return 100 + number

            step = f"{kind}/{phase}/{number}"
            await saga.count(step, act, undo=undo(step, phase=phase, mapping=number, apart=apart))


async def checkpoint(saga: Saga, phase: str, mapping: int = -1) -> None:
    async def act() -> int:
        return 1

    step = f"checkpoint/{phase}" if mapping < 0 else f"proved/{phase}/{mapping}"
    removal = Compensation(activity="remove_checkpoint", summary=step, mapping=mapping, phase=phase, apart=mapping >= 0)
    await saga.count(step, act, undo=removal)


async def verified(phase: str = "everyone") -> Saga:
    """Three mappings copied side by side, of which the last and the first are proved, in that order."""
    saga = Saga(SagaState())
    await run(saga, "claim", "create")
    await copy(saga, phase, 0, 1, 2)
    await run(saga, "foreign keys", "verify", phase=phase)
    await checkpoint(saga, phase, 2)
    await checkpoint(saga, phase, 0)
    return saga


async def test_a_compensation_is_registered_before_its_step_runs() -> None:
    saga = Saga(SagaState())
    seen: list[list[str]] = []

    async def act() -> int:
        seen.append(saga.registered)
        return 0

    await saga.count("copy", act, undo=undo("copy"))
    assert seen == [["copy"]]


async def test_a_step_that_failed_half_way_is_taken_back_too() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim")

    async def fail() -> int:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await saga.count("copy", fail, undo=undo("copy"))
    await saga.unwind(None, undone)
    assert undone.steps == ["copy", "claim"]


async def test_unwinding_runs_in_reverse_and_leaves_nothing_registered() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim", "create", "copy")
    await saga.unwind(None, undone)
    assert undone.steps == ["copy", "create", "claim"]
    assert saga.state == SagaState()


async def test_a_step_that_is_done_is_not_run_again_and_gives_its_result() -> None:
    saga = Saga(SagaState())
    await run(saga, "copy")

    async def moved() -> Moved:
        return Moved(partitions=1, rows=7, bytes=3)

    async def never() -> Moved:
        raise AssertionError("ran again")

    async def not_again() -> int:
        raise AssertionError("ran again")

    await saga.step("verify", Moved, moved, undo=undo("verify"))
    assert (await saga.step("verify", Moved, never, undo=undo("verify"))).rows == 7
    assert await saga.count("copy", not_again, undo=undo("copy")) == 2


async def test_a_step_tried_again_after_a_failure_is_registered_once() -> None:
    saga, undone = Saga(SagaState()), Undone()

    async def fail() -> int:
        raise RuntimeError("once")

    with pytest.raises(RuntimeError, match="once"):
        await saga.count("copy", fail, undo=undo("copy"))
    await run(saga, "copy")
    await saga.unwind(None, undone)
    assert undone.steps == ["copy"]


async def test_unwinding_to_a_phase_keeps_what_was_verified_and_forgets_later_checkpoints() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim")
    await run(saga, "copy canary", phase="canary")
    await checkpoint(saga, "canary")
    await run(saga, "copy everyone", phase="everyone")
    await checkpoint(saga, "everyone")
    await saga.unwind(Checkpoint("canary"), undone)
    assert undone.steps == ["checkpoint/everyone", "copy everyone"]
    assert saga.checkpoints == [Checkpoint("canary")]
    assert saga.is_done("copy canary")
    assert not saga.is_done("copy everyone")


async def test_checkpoints_are_listed_in_the_order_in_which_they_were_proved() -> None:
    saga = await verified()
    await checkpoint(saga, "everyone", 1)
    await checkpoint(saga, "everyone")
    assert saga.checkpoints == [
        Checkpoint("everyone", 2),
        Checkpoint("everyone", 0),
        Checkpoint("everyone", 1),
        Checkpoint("everyone"),
    ]


async def test_unwinding_to_a_mapping_keeps_it_and_takes_back_the_others_and_what_lies_between_them() -> None:
    saga, undone = await verified(), Undone()
    await saga.unwind(Checkpoint("everyone", 2), undone)
    assert undone.steps == [
        "proved/everyone/0",
        "verify",
        "foreign keys",
        "sequences/everyone/2",
        "sequences/everyone/1",
        "build/everyone/1",
        "move/everyone/1",
        "sequences/everyone/0",
        "build/everyone/0",
        "move/everyone/0",
    ]
    assert saga.registered == ["claim", "create", "move/everyone/2", "build/everyone/2", "proved/everyone/2"]
    assert saga.checkpoints == [Checkpoint("everyone", 2)]


async def test_unwinding_to_a_mapping_keeps_those_proved_before_it_too() -> None:
    saga, undone = await verified(), Undone()
    await saga.unwind(Checkpoint("everyone", 0), undone)
    assert saga.checkpoints == [Checkpoint("everyone", 2), Checkpoint("everyone", 0)]
    assert saga.counts("move/") == {"move/everyone/0": 100, "move/everyone/2": 102}


async def test_a_way_forward_from_a_mapping_and_back_to_it_again_ends_at_the_same_place() -> None:
    saga = await verified()
    await saga.unwind(Checkpoint("everyone", 2), Undone())
    stood = saga.state
    await copy(saga, "everyone", 0, 1, 2)
    await run(saga, "foreign keys", "verify", phase="everyone")
    await checkpoint(saga, "everyone", 1)
    await checkpoint(saga, "everyone", 0)
    assert [each.mapping for each in saga.checkpoints] == [2, 1, 0]
    await saga.unwind(Checkpoint("everyone", 2), Undone())
    assert saga.state == stood


async def test_unwinding_to_a_mapping_of_an_earlier_phase_takes_back_all_later_phases() -> None:
    saga, undone = await verified("canary"), Undone()
    await checkpoint(saga, "canary")
    await copy(saga, "everyone", 2, 0)
    await checkpoint(saga, "everyone", 2)
    await saga.unwind(Checkpoint("canary", 2), undone)
    assert saga.registered == ["claim", "create", "move/canary/2", "build/canary/2", "proved/canary/2"]
    assert "move/everyone/2" in undone.steps


async def test_a_checkpoint_that_no_longer_stands_is_forgotten() -> None:
    saga = await verified()
    saga.forget("proved/everyone/2")
    assert saga.checkpoints == [Checkpoint("everyone", 0)]
    with pytest.raises(KeyError):
        await saga.unwind(Checkpoint("everyone", 2), Undone())


async def test_a_checkpoint_that_is_being_recorded_is_none_yet() -> None:
    saga = await verified()
    removal = Compensation(activity="remove_checkpoint", summary="", mapping=1, phase="everyone", apart=True)
    saga.register("proved/everyone/1", removal)
    assert Checkpoint("everyone", 1) not in saga.checkpoints
    saga.finish("proved/everyone/1")
    assert Checkpoint("everyone", 1) in saga.checkpoints


async def test_unwinding_to_an_unknown_checkpoint_takes_nothing_back() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim")
    with pytest.raises(KeyError):
        await saga.unwind(Checkpoint("nowhere"), undone)
    assert undone.steps == []


async def test_a_saga_goes_on_from_its_state_in_the_next_run_of_the_workflow() -> None:
    first, undone = await verified(), Undone()
    first.register("move/everyone/3", undo("move", phase="everyone", mapping=3, apart=True))

    async def judged() -> Moved:
        return Moved(partitions=1, rows=5, bytes=6)

    await first.step("verify/everyone/2", Moved, judged, undo=undo("verify", phase="everyone"))
    second = Saga(SagaState.model_validate_json(first.state.model_dump_json()))
    second.register("move/everyone/4", undo("move", phase="everyone", mapping=4, apart=True))
    assert len(second.state.kinds) == len(first.state.kinds), "a kind that was carried is known again"
    second.forget("move/everyone/4")
    assert second.registered == first.registered
    assert second.checkpoints == first.checkpoints
    assert second.counts("move/") == first.counts("move/")
    assert not second.is_done("move/everyone/3")
    assert second.results("verify/", Moved)["verify/everyone/2"].rows == 5
    await run(second, "seal")
    await second.unwind(Checkpoint("everyone", 2), undone)
    assert undone.steps[:3] == ["seal", "verify/everyone/2", "move/everyone/3"]
    assert second.registered == ["claim", "create", "move/everyone/2", "build/everyone/2", "proved/everyone/2"]


async def test_a_compensation_that_raises_leaves_its_step_registered() -> None:
    saga, undone = Saga(SagaState()), Undone()
    await run(saga, "claim", "copy")

    async def stuck(step: str, compensation: Compensation) -> None:
        raise RuntimeError(f"{step} is stuck")

    with pytest.raises(RuntimeError, match="copy is stuck"):
        await saga.unwind(None, stuck)
    await saga.unwind(None, undone)
    assert undone.steps == ["copy", "claim"]


def test_a_step_of_a_mapping_that_does_not_say_so_in_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="its name must end with /3"):
        Saga(SagaState()).register("move/everyone/4", undo("move", mapping=3))


def test_a_name_of_a_mapping_in_its_undo_is_refused_since_it_would_be_carried_along() -> None:
    named = undo("checkpoint", mapping=3).model_copy(update={"name": "everyone/shop.order"})
    with pytest.raises(ValueError, match=r"must not carry the name 'everyone/shop\.order'"):
        Saga(SagaState()).register("proved/everyone/3", named)
