"""The migration: the whole saga on one page, in the order in which it happens."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Final, NoReturn

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.build import add_foreign_keys, create_tables
    from activities.claim import claim_target
    from activities.models import (
        CheckpointInput,
        ClaimInput,
        ClaimResult,
        Compensation,
        PlanDocument,
        RunContext,
        RunInput,
        SurveyResult,
    )
    from activities.seal import record_checkpoint, seal_run
    from activities.survey import survey_databases
    from knarr.plan.models import Plan
    from knarr.wording import counted
    from workflows.back import complete, raise_how_it_ended, turn_back, what_failed
    from workflows.beside import RECORD_PATIENCE, WAITS_FOR_NO_CHILD
    from workflows.conduct import Conduct, shielded
    from workflows.guarding import GuardBreachedError, guarded
    from workflows.messages import MigrationInput, Status, Turn
    from workflows.orders import TakesOrders
    from workflows.policies import BRIEF, CLAIM, LONG
    from workflows.proof import VerificationDiffersError, verify_rows
    from workflows.rows import move_rows
    from workflows.settings import PhaseSettings, RunSettings
    from workflows.stops import LASTS, HistoryIsLongError


FIRST_ORDER_RAISES: Final = "an order that comes first of all raises the epoch too"


@workflow.defn(name="Migration")
class MigrationWorkflow(TakesOrders):
    """One run of a plan. It ends completed, or FAILED with type MigrationRolledBack, or CANCELED after an abort."""

    @workflow.init
    def __init__(self, start: MigrationInput) -> None:
        run = RunContext(
            run_id=workflow.info().workflow_id, plan=start.plan_name, source=start.source, target=start.target
        )
        settings = (
            start.resumed.settings if start.resumed else RunSettings.of(Plan.model_validate_json(start.plan.canonical))
        )
        super().__init__()
        self._start = start
        self.conduct = Conduct(run, settings, start.pause_before, start.resumed)

    @workflow.run
    async def run(self, start: MigrationInput) -> Status:
        """Goes forward; turns back when something fails or somebody asks; says at the end how it went."""
        turn = self.conduct.controls.turn  # of the run of the workflow that this one goes on from, or an order's
        self.conduct.view.show("unwinding" if turn else "running")
        self.conduct.start_watchers()
        if turn and not (start.resumed and start.resumed.turn):
            # The order came before this line, and nothing has been raised for it: in a run that has only begun nothing
            # needs to be. Runs of before took it for done in others, too.
            self.conduct.raised = start.resumed is None or not workflow.patched(FIRST_ORDER_RAISES)
        while turn := turn or await self._go_forward():
            try:
                await shielded(turn_back(self.conduct, turn))
            except HistoryIsLongError:
                await shielded(self._until_nothing_is_open())
                self._go_on_as_new()
            if turn.to == "start":
                await raise_how_it_ended(self.conduct, turn)
            self.conduct.hold_at(turn.to)
            turn = None
        self.conduct.view.show("completed", step="ended")
        return self.conduct.status()

    async def _forward(self) -> None:
        """The saga. Each step registers how to take it back before it is scheduled; a step done is not repeated."""
        await self.conduct.recall()  # before any gate, so that a paused run knows its mappings by name too
        await self._claim()
        survey = await self._survey()
        await self._create_tables()
        for phase in self.conduct.settings.phases:
            if self.conduct.saga.is_done(f"checkpoint/{phase.name}"):
                continue
            self.conduct.view.show("running", phase=phase.name)
            await guarded(self.conduct, phase.name, "always", self._phase(survey, phase))
        await self._seal()
        await self._keep_open()
        await complete(self.conduct)

    async def _phase(self, survey: SurveyResult, phase: PhaseSettings) -> None:
        """A part of the rows: moved, verified, watched, approved, and then a place where a rollback can stop."""
        await guarded(self.conduct, phase.name, "copy", move_rows(self.conduct, survey, phase))
        await self._add_foreign_keys(survey, phase)
        await verify_rows(self.conduct, survey, phase)
        await guarded(self.conduct, phase.name, "soak", self._soak(phase))
        await self._approval(phase)
        await self._checkpoint(phase)

    async def _claim(self) -> None:
        """The lease on the target, and its tables: at most one run writes to a table at a time."""
        await self.conduct.gate("claim")

        async def claim() -> ClaimResult:
            given = ClaimInput(run=self.conduct.run, plan=self._start.plan)
            summary = f"lease on {self.conduct.run.target}"
            return await workflow.execute_activity(claim_target, given, summary=summary, **CLAIM)

        undo = Compensation(activity="release_target", summary=f"lease on {self.conduct.run.target}")
        claimed = await self.conduct.saga.step("claim", ClaimResult, claim, undo=undo)
        if self.conduct.run.lease is None:
            self.conduct.run = self.conduct.run.model_copy(update={"lease": claimed.lease})

    async def _survey(self) -> SurveyResult:
        """Both databases held against the plan, before anything is written to a table of the plan."""
        await self.conduct.gate("survey")
        self.conduct.view.show(step="survey")

        async def survey() -> int:
            surveyed: SurveyResult = await workflow.execute_activity(
                survey_databases, RunInput(run=self.conduct.run), summary="both databases against the plan", **LONG
            )
            self.conduct.surveyed(surveyed)
            return len(surveyed.mappings)

        undo = Compensation(activity="discard_survey", summary="the survey")
        await self.conduct.saga.count("survey", survey, undo=undo)
        if self.conduct.survey is None:
            raise RuntimeError("the survey is done and is not known")
        return self.conduct.survey

    async def _create_tables(self) -> None:
        await self.conduct.gate("create")
        await self.conduct.step("create", create_tables, "schemas, types and bare tables", undo="drop_tables")

    async def _add_foreign_keys(self, survey: SurveyResult, phase: PhaseSettings) -> None:
        """In the last phase: only then all rows that a key may point to are there."""
        if phase != self.conduct.settings.phases[-1]:
            return
        for mapping in survey.mappings:
            key = f"foreign keys/{mapping.number}"
            if mapping.foreign_keys and not self.conduct.saga.is_done(key):
                await self.conduct.gate("foreign keys")
                self.conduct.leave_room()
                summary = counted(mapping.foreign_keys, "foreign key")
                await self.conduct.step(key, add_foreign_keys, summary, mapping, phase.name, undo="drop_foreign_keys")

    async def _soak(self, phase: PhaseSettings) -> None:
        """Time for the phase's rows to be used before others follow; guards watch meanwhile."""
        if phase.soak_seconds:
            self.conduct.view.show("soaking", step="soak")
            await workflow.sleep(timedelta(seconds=phase.soak_seconds), summary=f"soak of {phase.name}")

    async def _approval(self, phase: PhaseSettings) -> None:
        if phase.manual:
            self.conduct.controls.approved = False
            answer = f"`knarr approve {self.conduct.run.run_id} --reason ...`"
            self.conduct.view.show("waiting for approval", step="approval", waiting_for=f"{answer}: {phase.name}")
            await workflow.wait_condition(lambda: self.conduct.controls.approved)
            self.conduct.view.show("running")

    async def _checkpoint(self, phase: PhaseSettings) -> None:
        """A place whose data has been verified; a rollback can stop there."""
        await self.conduct.gate("checkpoint")
        name = phase.name

        async def record() -> int:
            given = CheckpointInput(run=self.conduct.run, name=name)
            summary = f"{name} · verified: a rollback can stop here"
            return (await workflow.execute_activity(record_checkpoint, given, summary=summary, **BRIEF)).count

        undo = Compensation(activity="remove_checkpoint", summary=f"{name} · the checkpoint", phase=name, name=name)
        await self.conduct.saga.count(f"checkpoint/{name}", record, undo=undo)

    async def _seal(self) -> None:
        """Refuses unless the last phase's verdict stands and has passed, by what the target's ledger says."""
        await self.conduct.gate("seal")
        await self.conduct.step("seal", seal_run, "the seal: the verdict stands, the record closes", undo="unseal_run")

    async def _keep_open(self) -> None:
        """A run that succeeded can still be taken back until `complete`, or until the plan's time is over."""
        seconds, run_id = self.conduct.settings.keep_seconds, self.conduct.run.run_id
        if not seconds:
            return
        until = workflow.now() + timedelta(seconds=seconds)
        self.conduct.view.show(
            "kept open",
            step="sealed",
            waiting_for=f"`knarr complete {run_id}` or {until:%Y-%m-%d %H:%M} UTC; `knarr rollback {run_id}` undoes it",
        )
        try:
            await workflow.wait_condition(
                lambda: self.conduct.controls.completed, timeout=seconds, timeout_summary="kept open"
            )
        except TimeoutError:
            self.conduct.controls.note("decision", "complete", "plan", "keep_for is over", "completed")

    async def _go_forward(self) -> Turn | None:
        """Runs the saga until it has ended (None) or until the run must turn back."""
        controls = self.conduct.controls
        forward = asyncio.create_task(self._forward())
        while not (forward.done() or controls.turn):
            await self._wait_for_news(forward)
        if turn := controls.turn:
            if workflow.patched(WAITS_FOR_NO_CHILD):
                self.conduct.view.show("unwinding", step="stopping what is under way")
            forward.cancel()
            await shielded(until_over(forward))
            self.conduct.settled = True
            return turn
        try:
            await forward
        except HistoryIsLongError:
            return await self._continue_as_new()
        except (FailureError, VerificationDiffersError, GuardBreachedError) as error:
            kind, reason = what_failed(error)
            controls.note("decision", "roll back", "plan", reason, "taking everything back")
            return Turn(kind="failure", to="start", actor="plan", reason=reason, error_type=kind)
        return None

    async def _wait_for_news(self, forward: "asyncio.Task[None]") -> None:
        """Until the saga has ended, somebody has ordered it back, the deadline has passed, or Temporal cancels.

        Also until the clock of the deadline runs again after it rested: the next wait is a shorter one.
        """
        controls, rested = self.conduct.controls, self.conduct.clock_rests
        try:
            await workflow.wait_condition(
                lambda: forward.done() or controls.turn is not None or self.conduct.clock_rests != rested,
                timeout=self._seconds_to_deadline(),
                timeout_summary="deadline of the plan",
            )
        except asyncio.CancelledError:
            if self.conduct.controls.completing:
                await shielded(until_over(forward))
            else:
                controls.turn_back("abort", "temporal", "cancellation was requested")
        except TimeoutError:
            # A run that was sealed in the meantime has met its deadline; the next wait has none.
            if not self.conduct.saga.is_done("seal"):
                since = f"{self.conduct.clock_from:%Y-%m-%d %H:%M:%S} UTC"
                deadline = self.conduct.settings.deadline_seconds
                reason = f"the plan's deadline of {deadline:,.0f} s since {since} has passed before the seal"
                controls.turn_back("rollback", "plan", reason)

    async def _continue_as_new(self) -> Turn:
        """Goes on in a new run of this workflow, unless it must turn back first: an order taken is never lost."""
        controls = self.conduct.controls
        try:
            await workflow.wait_condition(lambda: controls.turn is not None or self._nothing_is_open())
        except asyncio.CancelledError:
            controls.turn_back("abort", "temporal", "cancellation was requested")
        if controls.turn is None:
            self._go_on_as_new()
        return controls.turn

    def _nothing_is_open(self) -> bool:
        unrecorded, unrecordable = self.conduct.controls.unrecorded, self.conduct.unrecordable
        return workflow.all_handlers_finished() and (not unrecorded or bool(unrecordable))

    async def _until_nothing_is_open(self) -> None:
        """A decision that takes its time to be recorded is carried along: to record it twice is to record it once."""
        if self._nothing_is_open():
            return
        patience = RECORD_PATIENCE if workflow.patched(LASTS) else None
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(self._nothing_is_open, timeout=patience, timeout_summary="still not recorded")

    def _go_on_as_new(self) -> NoReturn:
        """The plan itself stays behind: it stands in the target's knarr schema since the claim."""
        plan = PlanDocument(digest=self._start.plan.digest, canonical="")
        workflow.continue_as_new(
            self._start.model_copy(update={"plan": plan, "resumed": self.conduct.resumed()}),
        )

    def _seconds_to_deadline(self) -> float | None:
        deadline = self.conduct.settings.deadline_seconds
        if deadline is None or self.conduct.clock_rests or self.conduct.saga.is_done("seal"):
            return None
        return max(0.0, deadline - (workflow.now() - self.conduct.clock_from).total_seconds())


async def until_over(forward: "asyncio.Task[None]") -> None:
    """Waits for a cancelled task to end, however it ends; its failure no longer matters, the run turns back."""
    await asyncio.gather(forward, return_exceptions=True)
