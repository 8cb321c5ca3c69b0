"""The end of a run's undo log: a step of its own, after which the run can no longer be taken back."""

from temporalio import activity

from activities.context import lease_of, target_of, working
from activities.models import RunInput, StepResult
from activities.trail import stepped
from knarr.postgres import mappings, undo_log
from knarr.postgres.lease import fenced


@activity.defn
async def drop_undo_log(given: RunInput) -> StepResult:
    """Drops what appends and merges could have been taken back by; a retry drops the rest."""
    run = given.run
    async with working("drop undo log", run), target_of(run) as target:
        plan = await mappings.load_plan(target, run.run_id)
        dropped = await undo_log.drop_undo_log(target, lease_of(run), run.run_id, limits=plan.limits)
        async with fenced(target, lease_of(run)):
            head = await stepped(target, run, "undo log", f"{dropped:,} entries dropped: the run is not taken back")
        return StepResult(count=dropped, head=head)
