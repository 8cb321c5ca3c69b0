"""Checkpoints of single mappings: a mapping whose rows of a phase are proved is a place where a rollback can stop."""

from temporalio import activity

from activities.context import lease_of, target_of, working
from activities.models import ProofInput, ProofResult
from knarr.audit import chain
from knarr.audit.chain import AuditHead
from knarr.postgres import mappings, partitions, runs
from knarr.postgres.lease import fenced
from knarr.verify import results, verdict


@activity.defn
async def record_proofs(given: ProofInput) -> ProofResult:
    """Names a checkpoint for each mapping whose stored results say that every row, key and rule of it is as it must be.

    What counts is what is stored, held against the checks that must be there, as for the verdict on the phase; a
    mapping with a check that failed or did not run is left out, without an error. In the given order, so that the
    trail has them in the order in which a rollback keeps them.
    """
    run, proved = given.run, list[int]()
    head: AuditHead | None = None
    async with working("prove", run), target_of(run) as target:
        record = await runs.load_run(target, run.run_id)
        own_checks = record.plan.model_copy(update={"checks": [], "downstream": []})
        numbers = [each.mapping for each in given.mappings]
        stored = await results.load_of_mappings(target, run.run_id, given.phase, given.round, numbers)
        for each in given.mappings:
            mapping = await mappings.load_mapping(target, run.run_id, each.mapping)
            count = await partitions.count_partitions(target, run.run_id, each.mapping)
            concluded = verdict.conclude(
                expected=verdict.expected_checks(own_checks, [mapping], {each.mapping: count}),
                results=[result for result in stored if result.mapping == each.mapping],
                run_id=run.run_id,
                phase=given.phase,
                round=given.round,
                plan_name=record.plan.name,
                plan_hash=record.plan_hash,
                started_at=record.started_at,
                ended_at=record.read_at,
            )
            if not concluded.passed:
                continue
            async with fenced(target, lease_of(run)):
                await runs.add_checkpoint(target, run.run_id, each.name)
                key = f"checkpoint/{each.name}/{lease_of(run).epoch}/{given.round}"
                body: dict[str, object] = {
                    "name": each.name,
                    "phase": given.phase,
                    "mapping": each.mapping,
                    "round": given.round,
                    "summary": concluded.message,
                }
                head = await chain.append(target, run.run_id, key, "checkpoint", body)
            proved.append(each.mapping)
    return ProofResult(proved=proved, head=head)
