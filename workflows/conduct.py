"""How a run is conducted: its state in one place, and the few things that every part of the saga does with it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from temporalio import workflow

from workflows.saga import Checkpoint, Saga

with workflow.unsafe.imports_passed_through():
    from activities.models import (
        Compensation,
        MappingInput,
        MappingSummary,
        RunContext,
        RunInput,
        StepResult,
        SurveyResult,
        VerdictSummary,
    )
    from activities.survey import recall_survey
    from workflows.beside import Beside
    from workflows.controls import Controls
    from workflows.messages import Progress, Resumed, SagaState, Status
    from workflows.policies import LONG
    from workflows.settings import RunSettings
    from workflows.view import View

Value = TypeVar("Value")

# What is done to one mapping while others are still copied: the mapping's own line says it, the run is still copying.
BESIDE_COPYING: Final = ("build/", "sequences/")


MOST_LEFT: Final = 20
MORE_LEFT: Final = "and more, which the report names"

# In runs of before the deadline ran on while they were held at a checkpoint, and took the checkpoint back by itself.
CLOCK_RESTS: Final = "no deadline runs at a checkpoint"


class Conduct(Beside):
    """The state of one run and its primitives: a step, a gate to hold at, a person to ask, what is carried along."""

    def __init__(
        self, run: RunContext, settings: RunSettings, pause_before: list[str], before: Resumed | None = None
    ) -> None:
        run = before.run if before else run
        self.settings = before.settings if before else settings
        self.saga = Saga(before.saga if before else SagaState(), is_over=self._turns_back)
        controls = Controls(
            paused=bool(before and before.paused),
            decided=before.decided if before else 0,
            stops=before.stops if before else 0,
            asked=before.asked if before else "",
            unrecorded=before.unrecorded if before else (),
        )
        started_at = before.started_at if before else workflow.info().start_time
        super().__init__(run, controls, View(run, started_at, [phase.name for phase in self.settings.phases]))
        self.pause_before = list(before.pause_before if before else pause_before)
        self.round = before.round if before else 0
        self.survey: SurveyResult | None = None
        self.checked: list[int] = []
        self.skipped: list[str] = list(before.skipped if before else [])
        self.left: list[str] = list(before.left if before else [])
        self.errors: dict[str, int] = dict(before.errors if before else {})
        self.clock_from = (before.clock_from if before else None) or self.view.started_at
        self.raised = bool(before and before.turn and before.raised)  # the epoch, since the run turned back
        self.clock_rests = False  # no deadline runs: who decides at a checkpoint may take the time it needs
        self._checkpoint = ""
        self._cancelled_before = bool(before and before.cancelled)
        if before:
            self.view.restore(before.shown)
            self.controls.turn = before.turn

    def status(self) -> Status:
        """Where the run is."""
        return self.view.status(self.checkpoints)

    def progress(self) -> Progress:
        """How far the run is, mapping by mapping."""
        return self.view.progress(self.checkpoints)

    @property
    def checkpoints(self) -> list[str]:
        """Names of what a rollback can stop at, in the order in which it was verified: PHASE or PHASE/MAPPING."""
        return [self.checkpoint_name(each) for each in self.saga.checkpoints]

    @property
    def orderable(self) -> list[str]:
        """Those that an order can name: until the survey is recalled a mapping's is a number, which no order may be."""
        known = self.view.mappings
        return [self.checkpoint_name(at) for at in self.saga.checkpoints if at.mapping < 0 or at.mapping in known]

    def checkpoint_name(self, checkpoint: Checkpoint) -> str:
        """What an operator calls it."""
        phase, number = checkpoint
        return spelled_out(phase if number < 0 else f"{phase}/{self.name_of(number)}")

    def name_of(self, number: int) -> str:
        """The mapping's name, or its number while the survey has not been recalled."""
        known = self.view.mappings.get(number)
        return known.name if known else f"mapping {number}"

    @property
    def cancelled(self) -> bool:
        """Whether Temporal's cancellation has come, to this run of the workflow or to one that it goes on from."""
        return self._cancelled_before or workflow.cancellation_reason() is not None

    def surveyed(self, survey: SurveyResult) -> None:
        """Learns what there is to move; what has been moved already is seen again."""
        self.survey = survey
        self.view.expect(survey.mappings)
        known = {(each.phase, each.mapping) for each in self.saga.checkpoints}
        verified: dict[int, bool] = {}
        for step in self.saga.counts("move/"):
            _, phase, number = step.split("/")
            verified[int(number)] = (phase, -1) in known or (phase, int(number)) in known
        proved = {number for number, stands in verified.items() if stands}
        self.view.recalled(self._rows_moved(), proved, going_back=self.controls.turn is not None)

    async def recall(self) -> None:
        """Reads the survey again after the workflow has continued as new. Raises ActivityError when it is gone."""
        if self.survey is None and self.saga.is_done("survey"):
            given = RunInput(run=self.run)
            recalled = await workflow.execute_activity(
                recall_survey, given, summary="what is moved, after continuing as new", **LONG
            )
            self.surveyed(recalled)

    async def step(
        self,
        step: str,
        activity: Any,
        summary: str,
        mapping: MappingSummary | None = None,
        phase: str = "",
        *,
        undo: str,
    ) -> None:
        """A step that is one activity, with the compensation of that name.

        `summary` names what is made: the timeline shows it as it is made, and as `take back: ...` when it is undone,
        with the mapping's name before it. What is built on one mapping's rows alone can stay with them.
        """
        number = mapping.number if mapping else -1
        named = f"{mapping.name} · {summary}" if mapping else summary
        given = MappingInput(run=self.run, mapping=number, phase=phase) if mapping else RunInput(run=self.run)

        async def act() -> int:
            result: StepResult = await workflow.execute_activity(activity, given, summary=named, **LONG)
            return result.count

        if not step.startswith(BESIDE_COPYING):
            self.view.show(step=step.split("/")[0])
        apart = step.startswith("build/")
        compensation = Compensation(activity=undo, summary=summary, mapping=number, phase=phase, apart=apart)
        await self.saga.count(step, act, undo=compensation)

    async def gate(self, step: str) -> None:
        """Holds before a step while the run is paused, or when the run was asked at its start to pause there."""
        if step in self.pause_before:
            self.pause_before.remove(step)
            self.controls.paused = True
            self.controls.note("decision", "pause", "start", f"asked to pause before {step}", "paused")
        if self.controls.paused:
            at = f"at checkpoint {self._checkpoint}" if self._checkpoint else f"before {step}"
            self.view.show(
                "at checkpoint" if self._checkpoint else "paused",
                step=at,
                waiting_for=f"`knarr resume {self.run.run_id} --reason ...` (paused {at})",
            )
            await workflow.wait_condition(lambda: not self.controls.paused)
            self._checkpoint, self.view.message = "", ""
            if self.clock_rests:
                self.clock_rests, self.clock_from = False, workflow.now()
            self.view.show("running")

    def hold_at(self, checkpoint: str) -> None:
        """After a rollback to a checkpoint the run holds there; `resume` goes forward again, with a new deadline."""
        self._checkpoint = checkpoint
        self.settled = self.raised = False
        verdicts = list(self.saga.results("verify/", VerdictSummary).values())
        self.view.taken_back(self._rows_moved(), verdicts[-1] if verdicts else None)
        self.controls.turn = None
        self.controls.paused = True
        self.pause_before = []
        self.errors = {}
        self.clock_from, self.clock_rests = workflow.now(), workflow.patched(CLOCK_RESTS)
        self.view.message = f"taken back to checkpoint {checkpoint}"
        for what in (self.not_taken_back, self.but_for):
            self.view.message += f"; {what}" if what else ""
        if self.cancelled:
            # It came while the run was unwinding, which nothing cuts short; it is not lost.
            self.controls.turn_back("abort", "temporal", "cancellation was requested")

    @property
    def not_taken_back(self) -> str:
        """What a person has decided to leave, in words; empty: nothing."""
        return f"NOT TAKEN BACK, by a person's decision: {'; '.join(self.skipped)}" if self.skipped else ""

    @property
    def but_for(self) -> str:
        """What was taken back and still is not what it was, in words; empty: nothing."""
        return f"Not as it was before: {'; '.join(self.left)}" if self.left else ""

    def leave(self, left: list[str]) -> None:
        """Remembers what is not what it was; so much of it as people read, the report has all."""
        room = max(0, MOST_LEFT - len(self.left))
        self.left += left[:room]
        if len(left) > room and self.left[-1:] != [MORE_LEFT]:
            self.left.append(MORE_LEFT)

    def count_errors(self, phase: str, mapping: int, errors: int) -> None:
        """A mapping's failed attempts to copy, so far; turns the run back when the plan's criterion is met."""
        allowed = self.settings.errors_allowed
        if allowed is None or not errors:
            return
        self.errors[f"{phase}/{mapping}"] = errors
        total = sum(self.errors.values())
        if total > allowed and self.controls.turn is None and self.view.state != "unwinding":
            each = ", ".join(f"{number} in {where}" for where, number in self.errors.items())
            self.controls.turn_back(
                "rollback", "plan", f"{total} attempts to copy failed, the plan allows {allowed} errors: {each}"
            )

    def _turns_back(self) -> bool:
        return self.controls.turn is not None and not self.settled

    def resumed(self) -> Resumed:
        """All there is to know, for the next run of the same workflow; a few numbers a mapping."""
        return Resumed(
            run=self.run,
            settings=self.settings,
            saga=self.saga.state,
            shown=self.view.shown,
            paused=self.controls.paused,
            pause_before=self.pause_before,
            started_at=self.view.started_at,
            decided=self.controls.decided,
            round=self.round,
            skipped=self.skipped,
            left=self.left,
            errors=self.errors,
            clock_from=self.clock_from,
            turn=self.controls.turn,
            raised=self.raised,
            cancelled=self.cancelled,
            stops=self.controls.stops,
            asked=self.controls.asked,
            unrecorded=self.controls.unrecorded,
        )

    def _rows_moved(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        for step, moved in self.saga.counts("move/").items():
            number = int(step.rsplit("/", 1)[1])
            rows[number] = rows.get(number, 0) + moved
        return rows


def spelled_out(name: str) -> str:
    """A name in one line of text, what no line can hold being written as an escape; different for different names."""
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode() for each in name
    )


async def shielded(work: Coroutine[Any, Any, Value]) -> Value:
    """Awaits work that no cancellation may cut short: unwinding, and what comes after it."""
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()
