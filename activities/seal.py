"""Checkpoints, the seal, and the end of a run's record."""

from temporalio import activity

from activities.context import lease_of, target_of, working
from activities.models import CheckpointInput, CompensationInput, RunInput, StepResult
from activities.trail import compensated, stepped
from knarr.audit import chain
from knarr.errors import DataError
from knarr.postgres import mappings, runs
from knarr.postgres.lease import fenced
from knarr.verify import results


@activity.defn
async def record_checkpoint(given: CheckpointInput) -> StepResult:
    """Names a point whose data has been verified."""
    run = given.run
    async with working("checkpoint", run), target_of(run) as target, fenced(target, lease_of(run)):
        await runs.add_checkpoint(target, run.run_id, given.name)
        key = f"checkpoint/{given.name}/{lease_of(run).epoch}"
        head = await chain.append(target, run.run_id, key, "checkpoint", {"name": given.name})
        return StepResult(count=1, head=head)


@activity.defn
async def remove_checkpoint(given: CompensationInput) -> StepResult:
    """Compensation of `record_checkpoint`."""
    run = given.run
    async with working("remove checkpoint", run, undoing=True), target_of(run) as target, fenced(target, lease_of(run)):
        await runs.remove_checkpoint(target, run.run_id, given.name)
        head = await compensated(target, run, f"checkpoint {given.name}", "no longer a place to stop at")
        return StepResult(count=1, head=head)


@activity.defn
async def seal_run(given: RunInput) -> StepResult:
    """Closes the record. Raises DataError unless the newest verdict of the last phase stands and has passed,

    or a person has accepted the differences of that very verdict; what the workflow believes does not count, what the
    target says does.
    """
    run = given.run
    async with working("seal", run), target_of(run) as target, fenced(target, lease_of(run)):
        verdict = await results.newest_verdict(target, run.run_id)
        if verdict is None or verdict.withdrawn:
            raise DataError(
                f"run {run.run_id} has no verdict that stands", hint="verification must run before the seal"
            )
        last = (await mappings.load_plan(target, run.run_id)).rollout[-1].phase
        if verdict.phase != last:
            raise DataError(
                f"the newest verdict of run {run.run_id} is about phase {verdict.phase}, the last phase is {last}",
                hint="verification of the last phase must run before the seal",
            )
        if not verdict.passed and not await runs.was_accepted(target, run.run_id, verdict.phase, verdict.round):
            raise DataError(
                f"the verdict of run {run.run_id} on phase {verdict.phase}, round {verdict.round}, did not pass, and "
                "nobody has accepted it since",
                hint="see knarr report",
            )
        await runs.set_state(target, run.run_id, "sealed")
        head = await stepped(target, run, "seal", f"the verdict of phase {verdict.phase} stands")
        return StepResult(count=1, head=head)


@activity.defn
async def unseal_run(given: CompensationInput) -> StepResult:
    """Compensation of `seal_run`: the record is open again, since the run is being taken back."""
    run = given.run
    async with working("unseal", run, undoing=True), target_of(run) as target, fenced(target, lease_of(run)):
        await runs.set_state(target, run.run_id, "running")
        return StepResult(count=1, head=await compensated(target, run, "seal", "the record is open again"))


@activity.defn
async def request_cancel(given: RunInput) -> None:
    """Asks Temporal to cancel the run, so that an aborted one ends as canceled: its unwinding is over by now."""
    async with working("request cancel", given.run):
        await activity.client().get_workflow_handle(given.run.run_id).cancel()
