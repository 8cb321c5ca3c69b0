"""The migration: the whole saga on one page, in the order in which it happens."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ChildWorkflowError

from workflows.window import Piece, sliding_window

with workflow.unsafe.imports_passed_through():
    from activities.build import add_foreign_keys, build_keys, create_tables, set_sequences
    from activities.claim import claim_target
    from activities.models import (
        CheckpointInput,
        ClaimInput,
        ClaimResult,
        Compensation,
        MappingSummary,
        RunContext,
        RunInput,
        StepResult,
        SurveyResult,
        VerdictSummary,
    )
    from activities.seal import record_checkpoint, seal_run
    from activities.survey import survey_databases
    from knarr.plan.models import Plan
    from workflows.back import (
        VerificationDiffersError,
        complete,
        difference,
        raise_how_it_ended,
        turn_back,
        what_failed,
    )
    from workflows.conduct import Conduct, shielded
    from workflows.controls import Turn
    from workflows.messages import MigrationInput, Moved, MoveInput, Status, VerificationInput
    from workflows.move import MoveMappingWorkflow
    from workflows.orders import TakesOrders
    from workflows.policies import BRIEF, LONG
    from workflows.settings import PhaseSettings, RunSettings
    from workflows.verification import VerificationWorkflow


class HistoryIsLongError(Exception):
    """Nothing runs any more; the workflow is to continue as new before its history grows longer."""


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
        self._start = start
        self.conduct = Conduct(run, settings, start.pause_before, start.resumed)

    @workflow.run
    async def run(self, start: MigrationInput) -> Status:
        """Goes forward; turns back when something fails or somebody asks; says at the end how it went."""
        self.conduct.view.show("running")
        self.conduct.start_watchers()
        while turn := await self._go_forward():
            await shielded(turn_back(self.conduct, turn))
            if turn.to == "start":
                await raise_how_it_ended(self.conduct, turn)
            self._hold_at_checkpoint(turn.to)
        self.conduct.view.show("completed", step="ended")
        return self.conduct.status()

    async def _forward(self) -> None:
        """The saga. Each step registers how to take it back before it is scheduled; a step done is not repeated."""
        await self._claim()
        survey = await self._survey()
        await self._create_tables()
        for phase in self.conduct.settings.phases:
            if self.conduct.saga.is_done(f"checkpoint/{phase.name}"):
                continue
            self.conduct.view.show("running", phase=phase.name)
            await self._move(survey, phase)
            await self._add_foreign_keys(survey, phase)
            await self._verify(survey, phase)
            await self._soak(phase)
            await self._approval(phase)
            await self._checkpoint(phase)
        await self._seal()
        await self._keep_open()
        await complete(self.conduct)

    async def _claim(self) -> None:
        """The lease on the target, and its tables: at most one run writes to a table at a time."""
        await self.conduct.gate("claim")

        async def claim() -> ClaimResult:
            given = ClaimInput(run=self.conduct.run, plan=self._start.plan)
            summary = f"lease on {self.conduct.run.target}"
            return await workflow.execute_activity(claim_target, given, summary=summary, **BRIEF)

        undo = Compensation(activity="release_target", summary="release the target's tables")
        claimed = await self.conduct.saga.step("claim", ClaimResult, claim, undo=undo)
        if self.conduct.run.lease is None:
            self.conduct.run = self.conduct.run.model_copy(update={"lease": claimed.lease})

    async def _survey(self) -> SurveyResult:
        """Both databases held against the plan, before anything is written to a table of the plan."""
        await self.conduct.gate("survey")
        self.conduct.view.show(step="survey")

        async def survey() -> SurveyResult:
            return await workflow.execute_activity(
                survey_databases, RunInput(run=self.conduct.run), summary="both databases against the plan", **LONG
            )

        undo = Compensation(activity="discard_survey", summary="discard the survey")
        surveyed = await self.conduct.saga.step("survey", SurveyResult, survey, undo=undo)
        self.conduct.view.expect(surveyed.mappings)
        return surveyed

    async def _create_tables(self) -> None:
        await self.conduct.gate("create")
        await self.conduct.step("create", create_tables, "schemas, types and bare tables", undo="drop_tables")

    async def _move(self, survey: SurveyResult, phase: PhaseSettings) -> None:
        """Copies and builds every mapping that has rows in this phase, the largest first, several at once."""
        await self.conduct.gate("copy")
        view = self.conduct.view
        view.show("running", step="copy")
        view.copy_started_at = view.copy_started_at or workflow.now()
        moved = in_order([mapping for mapping in survey.mappings if phase.name in mapping.phases])
        started = await sliding_window(
            self.conduct.settings.mappings_at_once, self._moves(moved, phase.name), may_start=self._may_start_mapping
        )
        if started < len(moved):
            raise HistoryIsLongError
        view.copy_ended_at = view.copy_ended_at or workflow.now()

    def _moves(self, moved: list[MappingSummary], phase: str) -> Iterable[Piece]:
        here = {mapping.number for mapping in moved}
        for mapping in moved:
            waits_for = [f"move/{phase}/{other}" for other in mapping.depends_on if other in here]

            async def move(mapping: MappingSummary = mapping, waits_for: list[str] = waits_for) -> None:
                saga = self.conduct.saga
                await workflow.wait_condition(lambda: all(saga.is_done(step) for step in waits_for))
                await saga.step(
                    f"move/{phase}/{mapping.number}",
                    Moved,
                    lambda: self._copy(mapping, phase),
                    undo=Compensation(
                        activity="remove_rows",
                        summary=f"remove the copied rows · {mapping.name}",
                        mapping=mapping.number,
                        phase=phase,
                    ),
                )
                await self._build(mapping, phase)

            yield move

    async def _copy(self, mapping: MappingSummary, phase: str) -> Moved:
        conduct = self.conduct
        conduct.view.change(mapping.number, state="copying", partitions_done=0)
        moved: Moved = await conduct.child(
            MoveMappingWorkflow.run,
            MoveInput(
                run=conduct.run,
                mapping=mapping,
                phase=phase,
                window=conduct.settings.partitions_at_once,
                paused=conduct.controls.paused,
            ),
            name=mapping.name,
            summary=f"{mapping.name} · about {mapping.estimated_rows:,} rows · {mapping.partitions} partitions",
        )
        conduct.view.moved(mapping.number, moved.rows, moved.partitions)
        return moved

    async def _build(self, mapping: MappingSummary, phase: str) -> None:
        """Keys, indexes and checks after the rows: built before them they cost 1.75 to 1.95 times the copy."""
        await self.conduct.gate("build")
        step, name, number = self.conduct.step, mapping.name, mapping.number
        self.conduct.view.change(number, state="building")
        await step(f"build/{number}", build_keys, f"{name} · keys, indexes, checks", mapping, phase, undo="drop_keys")
        sequences = f"sequences/{phase}/{number}"
        await step(sequences, set_sequences, f"{name} · sequences go on", mapping, phase, undo="reset_sequences")
        self.conduct.view.change(number, state="copied")

    async def _add_foreign_keys(self, survey: SurveyResult, phase: PhaseSettings) -> None:
        """In the last phase: only then all rows that a key may point to are there."""
        if phase != self.conduct.settings.phases[-1]:
            return
        await self.conduct.gate("foreign keys")
        for mapping in survey.mappings:
            if mapping.foreign_keys:
                summary = f"{mapping.name} · {mapping.foreign_keys} foreign keys"
                key = f"foreign keys/{mapping.number}"
                await self.conduct.step(key, add_foreign_keys, summary, mapping, phase.name, undo="drop_foreign_keys")

    async def _verify(self, survey: SurveyResult, phase: PhaseSettings) -> None:
        """All that has been moved, on both sides. A difference rolls back, or a person decides if the plan says so."""
        conduct = self.conduct
        while True:
            await conduct.gate("verify")
            conduct.view.show("running", step="verify")
            conduct.round += 1
            verdict = await conduct.saga.step(
                f"verify/{phase.name}/{conduct.round}",
                VerdictSummary,
                lambda: self._verdict(survey, phase),
                undo=Compensation(
                    activity="withdraw_verdict", summary=f"withdraw the verdict · {phase.name}", phase=phase.name
                ),
            )
            conduct.view.judged(verdict)
            if verdict.passed:
                return
            if conduct.settings.roll_back_on_difference:
                raise VerificationDiffersError(verdict)
            if await conduct.ask_a_person(difference(verdict)) == "skip":
                await conduct.recorded()
                return

    async def _verdict(self, survey: SurveyResult, phase: PhaseSettings) -> VerdictSummary:
        conduct = self.conduct
        names = [settings.name for settings in conduct.settings.phases]
        so_far = set(names[: names.index(phase.name) + 1])
        is_last = phase == conduct.settings.phases[-1]
        verdict: VerdictSummary = await conduct.child(
            VerificationWorkflow.run,
            VerificationInput(
                run=conduct.run,
                phase=phase.name,
                round=conduct.round,
                mappings=[mapping for mapping in survey.mappings if so_far & set(mapping.phases)],
                cross_checks=survey.cross_checks if is_last else [],
                window=conduct.settings.verified_at_once,
                paused=conduct.controls.paused,
            ),
            name=f"verify {phase.name}",
            summary=f"{phase.name} · every row and every rule · round {conduct.round}",
        )
        return verdict

    async def _soak(self, phase: PhaseSettings) -> None:
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

        async def record() -> StepResult:
            given = CheckpointInput(run=self.conduct.run, name=phase.name)
            return await workflow.execute_activity(record_checkpoint, given, summary=phase.name, **BRIEF)

        undo = Compensation(
            activity="remove_checkpoint", summary=f"remove the checkpoint · {phase.name}", name=phase.name
        )
        await self.conduct.saga.step(f"checkpoint/{phase.name}", StepResult, record, undo=undo)
        self.conduct.saga.checkpoint(phase.name)

    async def _seal(self) -> None:
        """Refuses unless the last phase's verdict stands and has passed, by what the target's ledger says."""
        await self.conduct.gate("seal")
        await self.conduct.step("seal", seal_run, "the verdict stands; the record is closed", undo="unseal_run")

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
        try:
            await workflow.wait_condition(
                lambda: forward.done() or controls.turn is not None,
                timeout=self._seconds_to_deadline(),
                timeout_summary="deadline of the plan",
            )
        except asyncio.CancelledError:
            controls.turn_back("abort", "temporal", "cancellation was requested")
        except TimeoutError:
            deadline = self.conduct.settings.deadline_seconds
            if not self.conduct.saga.is_done("seal"):
                controls.turn_back("rollback", "plan", f"the plan's deadline of {deadline:,.0f} s has passed")
            else:
                await workflow.wait_condition(lambda: forward.done() or controls.turn is not None)
        if turn := controls.turn:
            forward.cancel()
            await shielded(until_over(forward))
            return turn
        try:
            await forward
        except HistoryIsLongError:
            await workflow.wait_condition(lambda: workflow.all_handlers_finished() and not controls.unrecorded)
            resumed = self.conduct.resumed()
            workflow.continue_as_new(self._start.model_copy(update={"resumed": resumed}))
        except (ActivityError, ChildWorkflowError, VerificationDiffersError) as error:
            kind, reason = what_failed(error)
            controls.note("decision", "roll back", "plan", reason, "taking everything back")
            return Turn("failure", "start", "plan", reason, kind)
        return None

    def _hold_at_checkpoint(self, name: str) -> None:
        """After a rollback to a checkpoint the run holds; `resume` goes forward from there."""
        self.conduct.controls.turn = None
        self.conduct.controls.paused = True
        self.conduct.pause_before = []
        self.conduct.view.message = f"taken back to checkpoint {name}"

    async def _may_start_mapping(self) -> bool:
        await self.conduct.gate("next mapping")
        return not workflow.info().is_continue_as_new_suggested()

    def _seconds_to_deadline(self) -> float | None:
        deadline = self.conduct.settings.deadline_seconds
        if deadline is None or self.conduct.saga.is_done("seal"):
            return None
        return max(0.0, deadline - (workflow.now() - self.conduct.view.started_at).total_seconds())


async def until_over(forward: "asyncio.Task[None]") -> None:
    """Waits for a cancelled task to end, however it ends; its failure no longer matters, the run turns back."""
    await asyncio.gather(forward, return_exceptions=True)


def in_order(mappings: list[MappingSummary]) -> list[MappingSummary]:
    """The largest first, but none before those whose rows it depends on."""
    ordered: list[MappingSummary] = []
    waiting = sorted(mappings, key=lambda mapping: (-mapping.estimated_bytes, mapping.number))
    placed: set[int] = set()
    here = {mapping.number for mapping in mappings}
    while waiting:
        ready = next(
            (mapping for mapping in waiting if placed.issuperset(set(mapping.depends_on) & here - {mapping.number})),
            waiting[0],
        )
        waiting.remove(ready)
        ordered.append(ready)
        placed.add(ready.number)
    return ordered
