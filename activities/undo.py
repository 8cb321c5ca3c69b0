"""What comes before every undoing: the epoch is raised, so that no stale writer can add what is being taken away."""

from temporalio import activity

from activities.context import target_of, working
from activities.models import RaiseResult, RunInput
from knarr.postgres import lease, runs


@activity.defn
async def raise_epoch(given: RunInput) -> RaiseResult:
    """Ends the backends of older writers and raises the epoch; a retry raises it again, which does no harm."""
    async with working("raise epoch", given.run), target_of(given.run) as target:
        if not await runs.holds_lease(target, given.run.run_id):
            return RaiseResult(lease=None)
        return RaiseResult(lease=await lease.raise_epoch(target, given.run.run_id))
