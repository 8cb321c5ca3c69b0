"""The saga: steps that register how to take them back before they are scheduled, and unwinding in reverse.

After H. Garcia-Molina and K. Salem, "Sagas" (SIGMOD 1987): a long-lived transaction is a sequence of steps
T1..Tn with compensations C1..Cn; it ends either as T1..Tn or as T1..Tj, Cj..C1. Three things differ from the paper:
a compensation is registered before its step starts, so it must hold when the step ran, half ran or never ran;
a checkpoint (the paper's save-point) is a place whose data has been verified; and beside those of whole phases there
are checkpoints of single mappings, which keep what belongs to these mappings alone and let go of the others' steps
between.

Nothing here knows what a step does. All of the state is one value, so a workflow can continue as new with it; it is
small, since what is alike in the steps of many mappings is said once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import JsonValue

    from activities.models import Compensation, Message
    from workflows.messages import SagaState

Result = TypeVar("Result", bound=Message)

Compensate = Callable[[str, Compensation], Awaitable[None]]

# A step that is taken back by this is a checkpoint.
REMOVES_CHECKPOINT: Final = "remove_checkpoint"


class Checkpoint(NamedTuple):
    """A place where unwinding can stop: a phase, or (number >= 0) a mapping's rows of that phase."""

    phase: str
    mapping: int = -1


class Undo(NamedTuple):
    """How a step is taken back: what is alike for many mappings (one object), and which mapping it is."""

    kind: Compensation
    mapping: int


class Saga:
    """Runs steps once each, remembers their results, and unwinds what is registered."""

    def __init__(self, state: SagaState, *, is_over: Callable[[], bool] = lambda: False) -> None:
        self._is_over = is_over
        self._registered: dict[str, Undo] = {}
        self._done: dict[str, JsonValue] = {}
        self._kinds: dict[Compensation, Compensation] = {}
        kinds = [(name, self._kinds.setdefault(kind, kind)) for name, kind in state.kinds]
        for place, mapping, count in state.steps:
            name, kind = kinds[place]
            step = f"{name}/{mapping}" if mapping >= 0 else name
            self._registered[step] = Undo(kind, mapping)
            if count is not None:
                self._done[step] = state.results.get(step, count)

    @property
    def state(self) -> SagaState:
        """All there is to know, to be handed to the next run of the workflow."""
        kinds: list[tuple[str, Compensation]] = []
        places: dict[tuple[str, int], int] = {}
        steps: list[tuple[int, int, int | None]] = []
        results: dict[str, JsonValue] = {}
        for step, (kind, mapping) in self._registered.items():
            result = self._done.get(step)
            name = step.removesuffix(f"/{mapping}") if mapping >= 0 else step
            place = places.setdefault((name, id(kind)), len(kinds))
            if place == len(kinds):
                kinds.append((name, kind))
            if isinstance(result, dict):
                results[step], result = result, 0
            steps.append((place, mapping, result if isinstance(result, int) else None))
        return SagaState(kinds=kinds, steps=steps, results=results)

    @property
    def registered(self) -> list[str]:
        """The steps that unwinding would take back, oldest first."""
        return list(self._registered)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """What unwinding can stop at, in the order in which it was verified."""
        return [
            Checkpoint(kind.phase, mapping)
            for step, (kind, mapping) in self._registered.items()
            if kind.activity == REMOVES_CHECKPOINT and step in self._done
        ]

    def is_done(self, step: str) -> bool:
        """Whether the step has run to its end and has not been taken back."""
        return step in self._done

    def results(self, prefix: str, result_type: type[Result]) -> dict[str, Result]:
        """The results of the steps done whose names begin so, oldest first."""
        return {
            step: result_type.model_validate(self._done[step])
            for step in self._registered
            if step.startswith(prefix) and step in self._done
        }

    def counted(self, step: str) -> int:
        """What a step has counted; 0 for one that is not done."""
        count = self._done.get(step)
        return count if isinstance(count, int) else 0

    def counts(self, prefix: str) -> dict[str, int]:
        """What the steps done whose names begin so have counted, oldest first."""
        found = {step: self._done.get(step) for step in self._registered if step.startswith(prefix)}
        return {step: count for step, count in found.items() if isinstance(count, int)}

    async def step(
        self,
        step: str,
        result_type: type[Result],
        action: Callable[[], Awaitable[Result]],
        *,
        undo: Compensation,
    ) -> Result:
        """Runs `action` once, with `undo` registered before it; a step that is done gives its result again.

        The result is carried along when the workflow continues as new: for the few steps whose result is needed.
        Raises whatever the action raises. The compensation then stays registered: the step may have half run.
        Raises CancelledError, whatever the action gave, once `is_over` says that no step may follow.
        """
        if step in self._done:
            return result_type.model_validate(self._done[step])
        self.stop_if_over()
        self.register(step, undo)
        result = await action()
        self._done[step] = result.model_dump(mode="json")
        self.stop_if_over()
        return result

    async def count(self, step: str, action: Callable[[], Awaitable[int]], *, undo: Compensation) -> int:
        """The same for a step of which only a number is remembered: rows moved, things made."""
        if step not in self._done:
            self.stop_if_over()
            self.register(step, undo)
            self._done[step] = await action()
            self.stop_if_over()
        return self.counted(step)

    def stop_if_over(self) -> None:
        """Raises CancelledError once the run turns back: nothing more may go forward."""
        # An activity or a child that ends in the very workflow task in which it is cancelled gives its result, and the
        # cancellation is lost (temporalio 1.35.0): without this the run would go on forward, and be waited for.
        task = asyncio.current_task()
        if self._is_over() or (task is not None and task.cancelling()):
            raise asyncio.CancelledError

    def register(self, step: str, undo: Compensation) -> None:
        """Says how to take a step back, before it is scheduled; what is registered already stays in its place.

        Raises ValueError for a mapping's step that would not be carried along in a few numbers: its name must end with
        the mapping's number, and its compensation must have no name of its own.
        """
        mapping = undo.mapping
        if mapping >= 0 and not step.endswith(f"/{mapping}"):
            raise ValueError(f"the step {step!r} is of mapping {mapping}; its name must end with /{mapping}")
        if mapping >= 0 and undo.name:
            raise ValueError(
                f"the step {step!r} is of mapping {mapping}; its undo must not carry the name {undo.name!r}"
            )
        kind = undo.model_copy(update={"mapping": -1})
        self._registered.setdefault(step, Undo(self._kinds.setdefault(kind, kind), mapping))

    def finish(self, step: str, count: int = 0) -> None:
        """A registered step has run to its end."""
        self._done[step] = count

    def reopen(self, step: str) -> None:
        """A step that was done no longer is: it is no checkpoint any more, and stays registered to be taken back."""
        self._done.pop(step, None)

    def forget(self, step: str) -> None:
        """A registered step has left nothing that would have to be taken back, or no longer has."""
        self._registered.pop(step)
        self._done.pop(step, None)

    async def unwind(self, to: Checkpoint | None, compensate: Compensate) -> None:
        """Runs the compensations in reverse, down to a checkpoint, or all of them (None).

        A phase's checkpoint keeps all that was registered until then. A mapping's keeps what was registered before its
        phase, and of the phase what can stay by itself (`apart`) of this mapping and of those proved before it; all
        else of the phase, and all that came after it, is taken back.

        `compensate` retries, asks a person if it must, and returns only when the step is taken back or a person
        has decided to skip it; so this never leaves an earlier step behind because a later one is stuck.
        Raises KeyError for a checkpoint that is not there.
        """
        kept = self._kept(to) if to else set()
        for step, (kind, mapping) in reversed(list(self._registered.items())):
            if step not in kept:
                await compensate(step, kind.model_copy(update={"mapping": mapping}))
                self.forget(step)

    def _kept(self, to: Checkpoint) -> set[str]:
        known = self.checkpoints
        if to not in known:
            raise KeyError(to)
        steps = list(self._registered.items())
        if to.mapping < 0:
            [end] = [
                place
                for place, (_, (kind, mapping)) in enumerate(steps)
                if kind.activity == REMOVES_CHECKPOINT and Checkpoint(kind.phase, mapping) == to
            ]
            return {step for step, _ in steps[: end + 1]}
        begin = next(place for place, (_, (kind, _)) in enumerate(steps) if kind.phase == to.phase)
        until = known[: known.index(to) + 1]
        proved = {each.mapping for each in until if each.phase == to.phase}
        of_the_phase = {
            step
            for step, (kind, mapping) in steps[begin:]
            if kind.phase == to.phase and kind.apart and mapping in proved
        }
        return {step for step, _ in steps[:begin]} | of_the_phase
