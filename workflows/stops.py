"""Where a run stops for a person: the question, the answers that it takes, and what else may end the waiting."""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Literal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.models import RunContext
    from workflows.controls import Controls
    from workflows.view import View


# Runs of before kept what was stuck in one history until the server ended it, and told nobody that a decision was not
# recorded.
LASTS: Final = "what lasts is left behind and told"


class HistoryIsLongError(Exception):
    """Nothing runs any more; the workflow is to continue as new before its history grows longer."""


class Stops:
    """The run's switches and what it shows; it can stop there and ask."""

    def __init__(self, run: RunContext, controls: Controls, view: View) -> None:
        self.run = run
        self.controls = controls
        self.view = view

    def leave_room(self) -> None:
        """Raises HistoryIsLongError when history has grown long; to be called where nothing runs."""
        if workflow.info().is_continue_as_new_suggested():
            raise HistoryIsLongError

    def leave_a_stop(self) -> None:
        """The same where a run is stuck: what it is stuck with, and what could not be recorded, is carried along."""
        if workflow.info().is_continue_as_new_suggested() and workflow.patched(LASTS):
            raise HistoryIsLongError

    async def ask_a_person(
        self,
        problem: str,
        *,
        again_after: timedelta | None = None,
        no_skip: str = "",
        until: Callable[[], bool] = lambda: False,
    ) -> Literal["retry", "skip"]:
        """Waits for `retry` or `skip`; the problem is shown in full by the CLI and the Web UI.

        Args:
            again_after: nobody needs to answer for something that passes by itself; this counts as `retry`.
            no_skip: why it can't be skipped; only `retry` is taken then.
            until: says that the problem has passed by itself; this counts as `retry` too.
        """
        workflow.logger.error("waiting for a person: %s", problem)
        stop = self.controls.ask(problem, no_skip)
        before, self.view.message = self.view.message, problem
        self.view.stop = stop.number
        answers = ["retry"] if no_skip else ["retry", "skip"]
        given = f"{self.run.run_id} --stop {stop.number} --reason ..."
        self.view.show("waiting for a person", waiting_for=" or ".join(f"`knarr {each} {given}`" for each in answers))
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self.controls.answer is not None or until(), timeout=again_after, timeout_summary="try again"
            )
        self.view.message, self.view.waiting_for, self.view.changed = before, "", True
        return self.controls.take_answer()
