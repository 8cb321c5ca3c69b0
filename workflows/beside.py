"""What runs beside the saga: decisions go to the audit trail, pauses to the children, progress to the Web UI."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.decide import record_decision
    from activities.models import DecisionInput, RunContext
    from workflows.controls import Controls
    from workflows.messages import Pausing
    from workflows.policies import BRIEF, pause
    from workflows.stops import LASTS, Stops
    from workflows.view import View

# A server that restarts is back before; who waits longer for a decision to be recorded asks a person.
RECORD_PATIENCE: Final = timedelta(minutes=5)

NO_SKIP_OF_RECORD: Final = "what was ordered must be on record before the record says how it went on"

# Runs of before waited for their children to end before they raised the epoch: for one that a deploy keeps from going
# on, for ever. The epoch is what ends a child's work, as it ends that of activities, which are not waited for either.
WAITS_FOR_NO_CHILD: Final = "a run that turns back waits for no child"


class Beside(Stops):
    """The run's switches, what it shows, its children, and the tasks that pass on what changes there."""

    def __init__(self, run: RunContext, controls: Controls, view: View) -> None:
        super().__init__(run, controls, view)
        self.settled = False
        self.unrecordable = ""  # why the oldest of the unrecorded decisions can't be recorded, once that is known
        self._record_now = False
        self._children: dict[str, workflow.ChildWorkflowHandle[Any, Any]] = {}
        self._left: set[str] = set()  # children that may be there still: nobody has waited for their end
        self._told_paused = controls.paused
        self._watchers: list[asyncio.Task[None]] = []

    def start_watchers(self) -> None:
        """Starts the tasks that run beside the saga."""
        beside = self._record_decisions(), self._relay_pauses(), self._tell_changes()
        self._watchers = [asyncio.create_task(watching) for watching in beside]

    async def recorded(self, *, may_leave: bool = False) -> None:
        """Waits until every decision is in the audit trail, if there is a run to record it in; or asks a person.

        Args:
            may_leave: raises HistoryIsLongError when history has grown long meanwhile.
        """
        if self._all_recorded():
            return
        patience = RECORD_PATIENCE if workflow.patched(LASTS) else None
        shown = self.view.state, self.view.waiting_for
        while not self._all_recorded():
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._all_recorded() or bool(self.unrecordable),
                    timeout=patience,
                    timeout_summary="a decision is not recorded",
                )
            if self._all_recorded():
                return
            reason = self.unrecordable or f"{self.run.target} has not taken it for {RECORD_PATIENCE.seconds // 60} min"
            action = self.controls.unrecorded[0].action
            await self.ask_a_person(
                f"can't record the decision `{action}`: {reason}",
                no_skip=NO_SKIP_OF_RECORD,
                until=lambda: self._all_recorded() or (may_leave and workflow.info().is_continue_as_new_suggested()),
            )
            self.view.show(shown[0], waiting_for=shown[1])
            if may_leave:
                self.leave_a_stop()
            self.controls.passed()
            self.unrecordable, self._record_now = "", True

    def _all_recorded(self) -> bool:
        return not self.controls.unrecorded or self.run.lease is None

    async def stop_watchers(self) -> None:
        """Waits until every order is answered and every decision recorded, and stops watching."""
        while not (workflow.all_handlers_finished() and self._all_recorded()):
            if not workflow.all_handlers_finished():
                await workflow.wait_condition(workflow.all_handlers_finished)
            await self.recorded()
        for watcher in self._watchers:
            watcher.cancel()

    async def child(self, workflow_run: Any, given: Any, *, name: str, summary: str) -> Any:
        """Runs a child workflow that can be told to hold; its id reads `<run id>/<name>`.

        A cancelled one is told so and left to itself. If it is still there when the run goes forward again from a
        checkpoint, the next of its name takes its place.
        """
        types, reuse = workflow.ChildWorkflowCancellationType, WorkflowIDReusePolicy
        patient = not workflow.patched(WAITS_FOR_NO_CHILD)
        try:
            child = await workflow.start_child_workflow(
                workflow_run,
                given,
                id=f"{self.run.run_id}/{name}",
                static_summary=summary,
                cancellation_type=types.WAIT_CANCELLATION_COMPLETED if patient else types.TRY_CANCEL,
                parent_close_policy=workflow.ParentClosePolicy.TERMINATE,
                # Only what this run has left may be ended so: another id of that name is somebody else's.
                id_reuse_policy=reuse.TERMINATE_IF_RUNNING if name in self._left else reuse.ALLOW_DUPLICATE,
            )
            self._children[name] = child
            if given.paused != self.controls.paused:
                await self._tell(child)
            return await child
        except (asyncio.CancelledError, ChildWorkflowError):
            self._left.add(name)
            raise
        finally:
            self._children.pop(name, None)

    def is_of_before(self, epoch: int) -> bool:
        """Whether a report comes from a child that was left when the run turned back: a later epoch is in force."""
        return self.run.lease is not None and 0 < epoch < self.run.lease.epoch

    async def _tell_changes(self) -> None:
        """Shows what has changed, once for all that happened at once: thousands of mappings take their time."""
        while True:
            await workflow.wait_condition(lambda: self.view.changed)
            self.view.tell()

    async def _record_decisions(self) -> None:
        """Brings every order and every decision into the audit trail, in order, as soon as there is one."""
        failures = 0
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
                failures += 1
                await self._pause_recording(error, failures)
                continue
            failures, self.unrecordable = 0, ""
            self.controls.decided += 1
            self.controls.unrecorded.pop(0)

    async def _pause_recording(self, error: ActivityError, failures: int) -> None:
        self._record_now = False
        if workflow.patched(LASTS):
            self.unrecordable = error.cause.message if isinstance(error.cause, ApplicationError) else str(error.cause)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._record_now, timeout=pause(failures), timeout_summary="record the decision again"
            )

    def _may_record(self) -> bool:
        # While the saga is being cancelled only its own commands go out: in runs that orders.ORDERS_BY_THEMSELVES does
        # not protect, two tasks that are woken by one order would race.
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
