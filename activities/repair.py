"""Repair: the partitions that a round of verification found unlike are rewritten, each in one transaction."""

from collections import deque

import structlog
from temporalio import activity

from activities.context import lease_of, pools, source_of, target_of, working
from activities.models import CopyProgress, RepairInput, RepairResult, RunContext
from knarr.audit.chain import AuditHead
from knarr.errors import DataError
from knarr.plan.models import Plan
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import copy, mappings, partitions, repair
from knarr.telemetry.scrub import scrub
from knarr.verify import results

log = structlog.get_logger(__name__)

# What a row points at may be missing too, and be repaired after it: SQLSTATEs after which a partition is tried again.
AFTER_OTHERS = ("23503",)


class _Repairing:
    def __init__(self) -> None:
        self._at = CopyProgress(mapping=-1, partition=-1, rows=0, bytes=0)

    def begin(self, mapping: int, partition: int) -> None:
        self._at = CopyProgress(mapping=mapping, partition=partition, rows=0, bytes=0)

    def on_progress(self, rows: int, size: int) -> None:
        self._at = self._at.model_copy(update={"rows": rows, "bytes": size})

    def details(self) -> CopyProgress:
        return self._at


@activity.defn
async def repair_rows(given: RepairInput) -> RepairResult:
    """Rewrites what one round of verification found unlike; a partition once a round, whatever dies meanwhile.

    A partition that can't be repaired is told of, and the others are: the next round's verdict says what is left.
    """
    run, repairing = given.run, _Repairing()
    rows = count = 0
    failed: dict[tuple[int, int], str] = {}
    head: AuditHead | None = None
    async with working("repair", run, beat=repairing.details):
        async with target_of(run) as target:
            plan = await mappings.load_plan(target, run.run_id)
            resolved = {number: await mappings.load_mapping(target, run.run_id, number) for number in given.mappings}
            computed = await results.load(target, run.run_id, given.phase, given.round)
        waiting = deque(
            (result.mapping, result.partition)
            for result in computed
            if result.kind == "parity" and result.outcome == "failed" and result.mapping in resolved
        )
        since_progress = 0
        while waiting and since_progress <= len(waiting):
            place = waiting.popleft()
            repairing.begin(*place)
            try:
                done = await _repair(given, run, plan, resolved[place[0]], place[1], repairing)
            except DataError as error:
                log.warning("not repaired", partition=place[1], message=error.detail or error.message)
                failed[place] = f"{resolved[place[0]].name}, partition {place[1]}: {scrub(error.message)}"
                if error.sqlstate in AFTER_OTHERS:
                    waiting.append(place)
                    since_progress += 1
                continue
            failed.pop(place, None)
            since_progress = 0
            rows, count, head = rows + done.rows, count + 1, done.head or head
        return RepairResult(partitions=count, rows=rows, failed=list(failed.values())[:5], head=head)


async def _repair(
    given: RepairInput, run: RunContext, plan: Plan, mapping: ResolvedMapping, number: int, repairing: _Repairing
) -> repair.Repaired:
    async with source_of(run) as source, target_of(run) as target:
        job = copy.CopyJob(
            run_id=run.run_id,
            lease=lease_of(run),
            mapping=mapping,
            phase=given.phase,
            phase_order=[phase.phase for phase in plan.rollout],
            partition=await partitions.load_partition(target, run.run_id, mapping.number, number),
            attempt=activity.info().attempt,
            limits=plan.limits,
        )
        return await repair.repair_partition(
            source,
            target,
            job,
            given.round,
            repairing.on_progress,
            reconnect=lambda: pools().acquire(run.target),
            changed_since=plan.rollback.changed_since,
        )
