"""Taking the target: the knarr schema, the run's record, the lease and its tables; and letting go of it again."""

from typing import get_args

from temporalio import activity

from activities.context import led_elsewhere, target_of, working
from activities.models import ClaimInput, ClaimResult, CompensationInput, EndInput, StepResult
from knarr.audit import chain
from knarr.errors import PlanError
from knarr.plan.models import Plan
from knarr.plan.resolved import TableName
from knarr.postgres import lease, runs, schema
from knarr.postgres.identifiers import parse_table

NOTHING = chain.AuditHead(position=0, digest=chain.GENESIS)


@activity.defn
async def claim_target(given: ClaimInput) -> ClaimResult:
    """Installs the knarr schema where it is missing, records the run and takes its lease; a retry finds both.

    Tables that a wildcard stands for are claimed by the survey, which knows their names.
    Raises ClaimRefused (another run holds one of the tables) as ApplicationError.
    """
    run = given.run
    async with working("claim", run), target_of(run) as target:
        plan = Plan.model_validate_json(given.plan.canonical)
        await schema.install(target)
        taken = await lease.claim(target, run.run_id, plan, given.plan.digest, named_tables(plan))
        head = await chain.read_head(target, run.run_id)
        return ClaimResult(lease=taken, head=head or NOTHING)


@activity.defn
async def release_target(given: CompensationInput) -> StepResult:
    """Compensation of `claim_target`: gives the tables back and closes the record. Holds when nothing was claimed."""
    return await _release(EndInput(run=given.run, state=given.name or "rolled back"))


@activity.defn
async def end_run(given: EndInput) -> StepResult:
    """Gives up the lease of a run that completed; from now on it can't be taken back."""
    return await _release(given)


async def _release(given: EndInput) -> StepResult:
    run = given.run
    async with working("release", run, undoing=given.state != "completed"), target_of(run) as target:
        if not await runs.holds_lease(target, run.run_id):
            if run.lease is not None and not await runs.is_known(target, run.run_id):
                raise led_elsewhere(run)
            # The claim may still be under way in an activity that was given up; it must not arrive after this.
            await schema.install(target)
            if await lease.give_up_claim(target, run.run_id) or not await runs.holds_lease(target, run.run_id):
                return StepResult(head=NOTHING)
        if given.state not in get_args(lease.RunEnd):
            raise PlanError(f"a run can't end as {given.state!r}; it ends as one of {get_args(lease.RunEnd)}")
        await lease.release(target, run.run_id, given.state)  # type: ignore[arg-type]
        return StepResult(count=1, head=await chain.read_head(target, run.run_id) or NOTHING)


def named_tables(plan: Plan) -> list[TableName]:
    """The target tables that the plan names one by one."""
    targets = [mapping.target for mapping in plan.mappings if not mapping.target.endswith(".*")]
    return [parse_table(target) for target in targets]
