"""What comes before every undoing: the epoch is raised, so that no stale writer can add what is being taken away."""

from temporalio import activity

from activities.context import led_elsewhere, target_of, working
from activities.models import RaiseResult, RunContext, RunInput
from knarr.errors import PlanError
from knarr.postgres import lease, runs
from knarr.postgres.session import Connection


@activity.defn
async def raise_epoch(given: RunInput) -> RaiseResult:
    """Ends the backends of older writers and raises the epoch; a retry raises it again, which does no harm.

    Raises PlanError when the run has a lease and this database does not know it, as ApplicationError.
    """
    run = given.run
    async with working("raise epoch", run), target_of(run) as target:
        if not await runs.holds_lease(target, run.run_id):
            if run.lease is not None:
                raise await _no_lease(target, run)
            return RaiseResult(lease=None)
        return RaiseResult(lease=await lease.raise_epoch(target, run.run_id))


async def _no_lease(target: Connection, run: RunContext) -> PlanError:
    """Why there is nothing to raise where the run has a lease: somebody ended the run, or this is another target."""
    if await runs.is_known(target, run.run_id):
        return PlanError(
            f"run {run.run_id} has been ended on {run.target}, not by its workflow: its lease there is released",
            hint=f"see knarr report {run.run_id}; its workflow has nothing left to do: "
            f"temporal workflow terminate -w {run.run_id}",
        )
    return led_elsewhere(run)
