"""Turning back: the epoch is raised, the compensations run in reverse, and the run says how it ended."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claim import end_run
    from activities.models import Compensation, CompensationInput, EndInput, RunInput, StepResult
    from activities.seal import request_cancel
    from activities.undo import raise_epoch
    from activities.undo_log import drop_undo_log
    from workflows.conduct import Conduct
    from workflows.messages import Turn
    from workflows.policies import BRIEF, COMPENSATION, LONG, pause
    from workflows.saga import REMOVES_CHECKPOINT, Checkpoint
    from workflows.stops import LASTS

RAISE: Final = Compensation(activity="raise_epoch", summary="fence off all that was writing")
RAISE_AGAIN: Final = Compensation(activity="raise_epoch", summary="fence off all that was taking back")

# Why a person may retry these and not skip them.
NO_SKIP_OF_RAISE: Final = "without the raise what is still at work somewhere could write after it"
NO_SKIP_OF_NAMES: Final = "without the names of its mappings the run does not know what the checkpoint keeps"
NO_SKIP_OF_CLOSING: Final = "until the record is closed the run holds its tables, and no other may have them"

# Runs of before gave their lease up for none, when the alias led elsewhere as they raised.
LEASE_IS_KEPT: Final = "a raise that finds no lease leaves the run its own"

# Runs of before went forward from a checkpoint under the epoch of what had taken them back to it.
RAISED_AT_CHECKPOINT: Final = "the epoch is raised at a checkpoint once more"

REFUSED: Final = ("ClaimRefused", "SurveyRefused")


def what_failed(error: BaseException) -> tuple[str, str]:
    """The class of our error behind Temporal's wrappers, and its message for people."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    if isinstance(error, ApplicationError):
        return error.type or "Unexpected", error.message
    if isinstance(error, FailureError):
        return type(error).__name__, error.message
    return type(error).__name__, str(error)


async def turn_back(conduct: Conduct, turn: Turn) -> None:
    """Takes the run back to the start or to a checkpoint. Returns when all is taken back or skipped by a person.

    The epoch is raised first, so that no stale writer can add what is being taken away; and at a checkpoint once more,
    so that no stale compensation can take away what goes forward from there.

    Raises HistoryIsLongError when the rest is to be taken back by the next run of the workflow.
    """
    # Orders that would interrupt are refused while this is set, also while the unwinding waits for a person.
    conduct.controls.turn = turn
    conduct.settled = True
    conduct.controls.paused = False
    conduct.view.message = turn.reason
    if not conduct.raised:
        await compensate(conduct, "epoch", RAISE)
        conduct.raised = True
    await _recall(conduct, turn)
    some = False

    async def take_back(step: str, compensation: Compensation) -> None:
        nonlocal some
        if some:
            # Only after one more step has been taken back, so that each run of the workflow comes nearer to the end.
            conduct.leave_room()
        some = True
        if step == "claim":
            # The record closes with this one: every decision must be in it before, and how the run ends.
            await conduct.recorded(may_leave=True)
            compensation = compensation.model_copy(update={"name": turn.ends_as})
        await compensate(conduct, step, compensation)

    to = next((each for each in conduct.saga.checkpoints if conduct.checkpoint_name(each) == turn.to), None)
    if to is None and turn.to != "start":
        raise RuntimeError(f"there is no checkpoint {turn.to!r}; there are {conduct.checkpoints}")
    await conduct.saga.unwind(to, take_back)
    if to is not None and workflow.patched(RAISED_AT_CHECKPOINT):
        await compensate(conduct, "epoch", RAISE_AGAIN)


async def _recall(conduct: Conduct, turn: Turn) -> None:
    """The names of what is taken back. If they are gone from the target, numbers must do on the way to the start."""
    failures = 0
    while True:
        if failures and workflow.patched(LASTS):
            conduct.view.show("unwinding")
            conduct.leave_a_stop()
        try:
            await conduct.recall()
            return
        except ActivityError as error:
            _, reason = what_failed(error)
        if turn.to == "start":
            workflow.logger.error("the survey could not be recalled: %s", reason)
            return
        failures += 1
        await conduct.ask_a_person(
            f"can't go back to checkpoint {turn.to}: {reason}", again_after=pause(failures), no_skip=NO_SKIP_OF_NAMES
        )


async def compensate(conduct: Conduct, step: str, compensation: Compensation) -> None:
    """Takes one step back; asks a person after a bounded number of attempts. A skip is remembered and reported."""
    if compensation.mapping >= 0:
        named = f"{conduct.name_of(compensation.mapping)} · {compensation.summary}"
        changed = {"summary": named}
        if compensation.activity == REMOVES_CHECKPOINT:
            changed["name"] = conduct.checkpoint_name(Checkpoint(compensation.phase, compensation.mapping))
        compensation = compensation.model_copy(update=changed)
    raising = raised_again = compensation.activity == "raise_epoch"
    failures = 0
    while True:
        # No longer at the stop, so that no answer is taken that the next run of the workflow would not know of.
        conduct.view.show("unwinding", step=_undoing(compensation))
        if failures:
            conduct.leave_a_stop()
        try:
            await _attempt(conduct, compensation)
            _forget_rows(conduct, step, compensation)
            conduct.controls.passed()
            return
        except (ActivityError, ApplicationError) as error:
            kind, reason = what_failed(error)
        if kind == "LostLease" and not raised_again:
            # A raise whose answer was lost came late and took the epoch along: take the lease up where it is now.
            raised_again = True
            await compensate(conduct, "epoch", RAISE)
            continue
        # What passes by itself is tried again without a person, who is told meanwhile.
        failures += 1
        again_after = pause(failures) if kind == "TransientError" else None
        answer = await conduct.ask_a_person(
            f"can't take back: {compensation.summary}: {reason}",
            again_after=again_after,
            no_skip=NO_SKIP_OF_RAISE if raising else "",
        )
        if answer == "skip" and not raising:
            conduct.skipped.append(compensation.summary)
            return
        if conduct.controls.answered:
            failures = 0


def _undoing(compensation: Compensation) -> str:
    return f"take back: {compensation.summary}" if compensation.activity != "raise_epoch" else compensation.summary


def _forget_rows(conduct: Conduct, step: str, compensation: Compensation) -> None:
    if compensation.activity == "remove_rows" and compensation.mapping in conduct.view.mappings:
        conduct.view.removed(compensation.mapping, conduct.saga.counted(step))


async def _attempt(conduct: Conduct, compensation: Compensation) -> None:
    if compensation.activity == "raise_epoch":
        raised = await workflow.execute_activity(
            raise_epoch, RunInput(run=conduct.run), summary=compensation.summary, **COMPENSATION
        )
        if raised.lease is None and conduct.run.lease is not None and workflow.patched(LEASE_IS_KEPT):
            # A worker of before says so; the others fail. Without its lease the run could take nothing back any more.
            raise ApplicationError(f"the raise found no lease on {conduct.run.target}; is the alias the run's?")
        conduct.run = conduct.run.model_copy(update={"lease": raised.lease})
        return
    done: StepResult = await workflow.execute_activity(
        compensation.activity,
        CompensationInput(
            run=conduct.run, mapping=compensation.mapping, phase=compensation.phase, name=compensation.name
        ),
        result_type=StepResult,
        summary=_undoing(compensation),
        **COMPENSATION,
    )
    conduct.leave(done.left)


async def complete(conduct: Conduct) -> None:
    """Drops the undo log, writes the last entry of the audit trail and gives up the lease.

    From here on the run can no longer be taken back: orders are refused, and a cancellation comes too late.
    """
    await conduct.recorded()
    conduct.controls.completing = True
    conduct.view.show("completed", step="dropping the undo log")
    run = conduct.run

    async def drop() -> None:
        await workflow.execute_activity(drop_undo_log, RunInput(run=run), summary="drop the undo log", **LONG)

    async def close() -> None:
        ended = EndInput(run=run, state="completed")
        await workflow.execute_activity(end_run, ended, summary="completed", **BRIEF)

    await _insist(conduct, drop)
    await _insist(conduct, close)
    await conduct.stop_watchers()


async def _insist(conduct: Conduct, work: Callable[[], Awaitable[None]]) -> None:
    """Does what a completed run still has to do; it is never taken back for it, a person mends the cause instead."""
    failures = 0
    while True:
        try:
            await work()
            return
        except ActivityError as error:
            _, reason = what_failed(error)
        problem = f"all is moved and verified, but the record can't be closed: {reason}"
        failures += 1
        await conduct.ask_a_person(problem, again_after=pause(failures), no_skip=NO_SKIP_OF_CLOSING)
        conduct.view.show("completed", step="closing the record")


async def raise_how_it_ended(conduct: Conduct, turn: Turn) -> None:
    """Raises what Temporal shows as the outcome: canceled after an abort, else a failure whose first line says it.

    Raises CancelledError (abort) or ApplicationError of type MigrationRolledBack, ClaimRefused or SurveyRefused.
    """
    await conduct.stop_watchers()
    view, run_id = conduct.view, conduct.run.run_id
    exceptions = [what for what in (conduct.not_taken_back, conduct.but_for) if what]
    back = "The target is what it was before; the source was only read."
    if exceptions:
        back = ". ".join([*exceptions, "The source was only read."])
    if turn.kind == "abort":
        view.message = f"ABORTED: {turn.reason}\n{back}"
        view.show("aborted", step="ended")
        # Only a workflow whose cancellation was requested ends as canceled, and a workflow can't request its own:
        # an activity does it with the worker's client.
        if workflow.cancellation_reason() is None:
            await workflow.execute_activity(
                request_cancel, RunInput(run=conduct.run), summary="end as canceled", **BRIEF
            )
            await workflow.wait_condition(lambda: workflow.cancellation_reason() is not None)
        raise asyncio.CancelledError
    if turn.error_type in REFUSED:
        view.show("refused", step="ended")
        raise ApplicationError(f"REFUSED: {turn.reason}", type=turn.error_type, non_retryable=True)
    view.message = f"{turn.reason}\n{back}\nNext: knarr report {run_id}"
    view.show("rolled back", step="ended")
    raise ApplicationError(
        f"ROLLED BACK: {turn.reason}\n{back}\nNext: knarr report {run_id}",
        type="MigrationRolledBack",
        non_retryable=True,
    )
