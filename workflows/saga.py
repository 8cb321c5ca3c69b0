"""The saga: steps that register how to take them back before they are scheduled, and unwinding in reverse.

After H. Garcia-Molina and K. Salem, "Sagas" (SIGMOD 1987): a long-lived transaction is a sequence of steps
T1..Tn with compensations C1..Cn; it ends either as T1..Tn or as T1..Tj, Cj..C1. Two things differ from the paper:
a compensation is registered before its step starts, so it must hold when the step ran, half ran or never ran;
and a checkpoint (the paper's save-point) is a place whose data has been verified.

Nothing here knows what a step does. All of the state is one value, so a workflow can continue as new with it.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import JsonValue

    from activities.models import Compensation, Message
    from workflows.messages import SagaState

Result = TypeVar("Result", bound=Message)

Compensate = Callable[[str, Compensation], Awaitable[None]]


class Saga:
    """Runs steps once each, remembers their results, and unwinds what is registered."""

    def __init__(self, state: SagaState) -> None:
        self._registered: list[tuple[str, Compensation]] = list(state.registered)
        self._done: dict[str, JsonValue] = dict(state.done)
        self._checkpoints: dict[str, int] = dict(state.checkpoints)

    @property
    def state(self) -> SagaState:
        """All there is to know, to be handed to the next run of the workflow."""
        return SagaState(registered=self._registered, done=self._done, checkpoints=self._checkpoints)

    @property
    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that unwinding can stop at, oldest first."""
        return list(self._checkpoints)

    def is_done(self, step: str) -> bool:
        """Whether the step has run to its end and has not been taken back."""
        return step in self._done

    def results(self, prefix: str, result_type: type[Result]) -> dict[str, Result]:
        """The results of the steps done whose names begin so, oldest first."""
        return {
            step: result_type.model_validate(value) for step, value in self._done.items() if step.startswith(prefix)
        }

    async def step(
        self,
        step: str,
        result_type: type[Result],
        action: Callable[[], Awaitable[Result]],
        *,
        undo: Compensation,
    ) -> Result:
        """Runs `action` once, with `undo` registered before it; a step that is done gives its result again.

        Raises whatever the action raises. The compensation then stays registered: the step may have half run.
        """
        if step in self._done:
            return result_type.model_validate(self._done[step])
        if not any(registered == step for registered, _ in self._registered):
            self._registered.append((step, undo))
        result = await action()
        self._done[step] = result.model_dump(mode="json")
        return result

    def checkpoint(self, name: str) -> None:
        """Marks all that is registered now as verified: unwinding to `name` keeps it."""
        self._checkpoints[name] = len(self._registered)

    async def unwind(self, to: str, compensate: Compensate) -> None:
        """Runs the compensations in reverse, down to a checkpoint by name, or all of them for `start`.

        `compensate` retries, asks a person if it must, and returns only when the step is taken back or a person
        has decided to skip it; so this never leaves an earlier step behind because a later one is stuck.
        Raises KeyError for a checkpoint that is not there.
        """
        keep = 0 if to == "start" else self._checkpoints[to]
        while len(self._registered) > keep:
            step, compensation = self._registered[-1]
            await compensate(step, compensation)
            self._registered.pop()
            self._done.pop(step, None)
        self._checkpoints = {name: count for name, count in self._checkpoints.items() if count <= keep}
