"""Putting what operators and rollback criteria decided into the audit trail."""

from temporalio import activity

from activities.context import lease_of, target_of, working
from activities.models import DecisionInput, StepResult
from knarr.audit import chain


@activity.defn
async def record_decision(given: DecisionInput) -> StepResult:
    """Appends one order or decision, once; it does not need the lease, only the run."""
    async with working("decision", given.run), target_of(given.run) as target, target.transaction():
        body: dict[str, object] = {
            "action": given.action,
            "actor": given.actor,
            "reason": given.reason,
            "accepted": given.accepted,
            "answer": given.answer,
            "summary": f"{given.action}: {given.answer}",
            "epoch": lease_of(given.run).epoch,
        }
        head = await chain.append(target, given.run.run_id, given.key, given.kind, body)
        return StepResult(count=1, head=head)
