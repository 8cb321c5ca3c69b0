"""How a run is conducted: its state in one place, and the few things that every part of the saga does with it."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows.saga import Saga

with workflow.unsafe.imports_passed_through():
    from activities.decide import record_decision
    from activities.models import (
        Compensation,
        DecisionInput,
        MappingInput,
        MappingSummary,
        RunContext,
        RunInput,
        StepResult,
        VerdictSummary,
    )
    from workflows.controls import Controls
    from workflows.messages import Moved, Pausing, Resumed, SagaState, Status
    from workflows.policies import BRIEF, LONG
    from workflows.settings import RunSettings
    from workflows.view import View

Value = TypeVar("Value")

# What is done to one mapping while others are still copied: the mapping's own line says it, the run is still copying.
RECORD_AGAIN: Final = timedelta(seconds=30)
BESIDE_COPYING: Final = ("build/", "sequences/")


class Conduct:
    """The state of one run and its primitives: a step, a child, a gate to hold at, a person to ask."""

    def __init__(
        self, run: RunContext, settings: RunSettings, pause_before: list[str], before: Resumed | None = None
    ) -> None:
        self.run = before.run if before else run
        self.settings = before.settings if before else settings
        self.saga = Saga(before.saga if before else SagaState())
        self.controls = Controls(paused=bool(before and before.paused), decided=before.decided if before else 0)
        self.view = View(
            self.run,
            before.started_at if before else workflow.info().start_time,
            [phase.name for phase in self.settings.phases],
        )
        self.pause_before = list(before.pause_before if before else pause_before)
        self.round = before.round if before else 0
        self.skipped: list[str] = list(before.skipped if before else [])
        self.errors: dict[str, int] = dict(before.errors if before else {})
        self.clock_from = (before.clock_from if before else None) or self.view.started_at
        self.settled = False
        self._checkpoint = ""
        self._children: dict[str, workflow.ChildWorkflowHandle[Any, Any]] = {}
        self._told_paused = self.controls.paused
        self._watchers: list[asyncio.Task[None]] = []
        if before:
            self.view.restore(before.progress)

    def status(self) -> Status:
        """Where the run is."""
        return self.view.status(self.saga.checkpoints)

    def start_watchers(self) -> None:
        """Starts what runs beside the saga: decisions go to the audit trail, pauses go to the children."""
        self._watchers = [asyncio.create_task(self._record_decisions()), asyncio.create_task(self._relay_pauses())]

    async def recorded(self) -> None:
        """Waits until every decision is in the audit trail, if there is a run to record it in."""
        await workflow.wait_condition(lambda: not self.controls.unrecorded or self.run.lease is None)

    async def stop_watchers(self) -> None:
        """Waits until every decision is recorded, and stops watching."""
        await self.recorded()
        for watcher in self._watchers:
            watcher.cancel()

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

        `summary` names what is made: the timeline shows it as it is made, and as `take back: ...` when it is undone.
        """
        number = mapping.number if mapping else -1
        given = MappingInput(run=self.run, mapping=number, phase=phase) if mapping else RunInput(run=self.run)

        async def act() -> StepResult:
            result: StepResult = await workflow.execute_activity(activity, given, summary=summary, **LONG)
            return result

        if not step.startswith(BESIDE_COPYING):
            self.view.show(step=step.split("/")[0])
        compensation = Compensation(activity=undo, summary=summary, mapping=number, phase=phase)
        await self.saga.step(step, StepResult, act, undo=compensation)

    async def child(self, workflow_run: Any, given: Any, *, name: str, summary: str) -> Any:
        """Runs a child workflow that can be told to hold; its id reads `<run id>/<name>`."""
        child = await workflow.start_child_workflow(
            workflow_run,
            given,
            id=f"{self.run.run_id}/{name}",
            static_summary=summary,
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            parent_close_policy=workflow.ParentClosePolicy.TERMINATE,
        )
        self._children[name] = child
        try:
            if given.paused != self.controls.paused:
                await self._tell(child)
            return await child
        finally:
            del self._children[name]

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
            self.view.show("running")

    def hold_at(self, checkpoint: str) -> None:
        """After a rollback to a checkpoint the run holds there; `resume` goes forward again, with a new deadline."""
        self._checkpoint = checkpoint
        self.settled = False
        rows: dict[int, int] = {}
        for step, moved in self.saga.results("move/", Moved).items():
            number = int(step.rsplit("/", 1)[1])
            rows[number] = rows.get(number, 0) + moved.rows
        verdicts = list(self.saga.results("verify/", VerdictSummary).values())
        self.view.taken_back(rows, verdicts[-1] if verdicts else None)
        self.controls.turn = None
        self.controls.paused = True
        self.pause_before = []
        self.errors = {}
        self.clock_from = workflow.now()
        self.view.message = f"taken back to checkpoint {checkpoint}"
        if self.skipped:
            self.view.message += f"; NOT TAKEN BACK, by a person's decision: {'; '.join(self.skipped)}"
        if workflow.cancellation_reason() is not None:
            # It came while the run was unwinding, which nothing cuts short; it is not lost.
            self.controls.turn_back("abort", "temporal", "cancellation was requested")

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

    async def ask_a_person(self, problem: str, *, again_after: timedelta | None = None) -> Literal["retry", "skip"]:
        """Waits for `retry` or `skip`; the problem is shown in full by the CLI and the Web UI.

        `again_after`: nobody needs to answer for something that passes by itself; this counts as `retry`.
        """
        workflow.logger.error("waiting for a person: %s", problem)
        self.controls.answer = None
        before, self.view.message = self.view.message, problem
        run_id = self.run.run_id
        self.view.show(
            "waiting for a person",
            waiting_for=f"`knarr retry {run_id} --reason ...` or `knarr skip {run_id} --reason ...`",
        )
        try:
            await workflow.wait_condition(
                lambda: self.controls.answer is not None, timeout=again_after, timeout_summary="try again"
            )
        except TimeoutError:
            self.controls.answer = "retry"
        self.view.message = before
        return self.controls.take_answer()

    def resumed(self) -> Resumed:
        """All there is to know, for the next run of the same workflow."""
        return Resumed(
            run=self.run,
            settings=self.settings,
            saga=self.saga.state,
            progress=self.view.progress(self.saga.checkpoints),
            paused=self.controls.paused,
            pause_before=self.pause_before,
            started_at=self.view.started_at,
            decided=self.controls.decided,
            round=self.round,
            skipped=self.skipped,
            errors=self.errors,
            clock_from=self.clock_from,
        )

    async def _record_decisions(self) -> None:
        """Brings every order and every decision into the audit trail, in order, as soon as there is one."""
        while True:
            await workflow.wait_condition(self._may_record)
            decision = self.controls.unrecorded[0]
            given = DecisionInput(
                run=self.run,
                key=f"decision/{self.controls.decided + 1}",
                kind=decision.kind,
                action=decision.action,
                actor=decision.actor,
                reason=decision.reason,
                answer=decision.answer,
                accepted=decision.accepted,
            )
            summary = _in_short(f"{decision.action} by {decision.actor}", decision.reason)
            try:
                await workflow.execute_activity(record_decision, given, summary=summary, **BRIEF)
            except ActivityError as error:
                # A decision is never dropped: a server that only reads today may write again in a minute.
                workflow.logger.error("a decision could not be recorded yet: %s", error.cause)
                await workflow.sleep(RECORD_AGAIN, summary="record the decision again")
                continue
            self.controls.decided += 1
            self.controls.unrecorded.pop(0)

    def _may_record(self) -> bool:
        # While the saga is being cancelled only its own commands go out: two tasks that are woken by one order would
        # race, and a replay that is handed the order in another batch would see them the other way round (TMPRL1100).
        settled = self.controls.turn is None or self.settled
        return settled and bool(self.controls.unrecorded) and self.run.lease is not None

    async def _relay_pauses(self) -> None:
        """Tells running children when the run is paused and when it goes on."""
        while True:
            await workflow.wait_condition(lambda: self._told_paused != self.controls.paused)
            self._told_paused = told = self.controls.paused
            # A gate that paused the run has said more already.
            if self.view.state == ("running" if told else "paused"):
                waiting_for = f"`knarr resume {self.run.run_id} --reason ...`" if told else ""
                self.view.show("paused" if told else "running", waiting_for=waiting_for)
            for child in list(self._children.values()):
                await self._tell(child)

    async def _tell(self, child: workflow.ChildWorkflowHandle[Any, Any]) -> None:
        try:
            await child.signal("hold", Pausing(paused=self.controls.paused))
        except ApplicationError:
            workflow.logger.info("a child had ended before it could be told to hold")


def _in_short(who: str, why: str) -> str:
    """Who did what and why, on one line of a timeline."""
    line = " ".join(f"{who}: {why}".split()) if why else who
    return line if len(line) <= 120 else f"{line[:119]}…"


async def shielded(work: Coroutine[Any, Any, Value]) -> Value:
    """Awaits work that no cancellation may cut short: unwinding, and what comes after it."""
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()
