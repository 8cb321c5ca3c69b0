"""Copying partitions, each in one transaction with its ledger row; and removing what was copied."""

from temporalio import activity

from activities.context import lease_of, pools, source_of, target_of, working
from activities.models import CompensationInput, CopyInput, CopyProgress, CopyResult, StepResult
from activities.trail import compensated
from knarr.audit.chain import AuditHead
from knarr.postgres import copy, mappings, merge, partitions, remove, undo
from knarr.postgres.lease import fenced
from knarr.telemetry import metrics
from knarr.wording import counted


class _Moving:
    """What the heartbeat tells: rows and bytes of the partitions that are done, plus the open one's."""

    def __init__(self, given: CopyInput) -> None:
        self._mapping = given.mapping
        self._partition = given.first
        self._done_rows = self._done_bytes = 0
        self._rows = self._bytes = 0

    def begin(self, partition: int) -> None:
        self._partition = partition
        self._done_rows += self._rows
        self._done_bytes += self._bytes
        self._rows = self._bytes = 0

    def on_progress(self, rows: int, size: int) -> None:
        self._rows, self._bytes = rows, size

    def details(self) -> CopyProgress:
        return CopyProgress(
            mapping=self._mapping,
            partition=self._partition,
            rows=self._done_rows + self._rows,
            bytes=self._done_bytes + self._bytes,
        )


@activity.defn
async def copy_partitions(given: CopyInput) -> CopyResult:
    """Copies partitions first..last of one mapping; a partition whose ledger row stands is not copied again."""
    run, number = given.run, given.mapping
    moving = _Moving(given)
    rows = size = 0
    head: AuditHead | None = None
    async with working("copy", run, mapping=number, partition=given.first, beat=moving.details):
        async with target_of(run) as target:
            mapping = await mappings.load_mapping(target, run.run_id, number)
            plan = await mappings.load_plan(target, run.run_id)
        for partition_number in range(given.first, given.last + 1):
            moving.begin(partition_number)
            async with source_of(run) as source, target_of(run) as target:
                job = copy.CopyJob(
                    run_id=run.run_id,
                    lease=lease_of(run),
                    mapping=mapping,
                    phase=given.phase,
                    phase_order=[phase.phase for phase in plan.rollout],
                    partition=await partitions.load_partition(target, run.run_id, number, partition_number),
                    attempt=activity.info().attempt,
                    limits=plan.limits,
                )
                move = merge.merge_partition if mapping.occupied else copy.copy_partition
                outcome = await move(
                    source, target, job, moving.on_progress, reconnect=lambda: pools().acquire(run.target)
                )
            rows += outcome.rows
            size += outcome.bytes
            if outcome.audit_position:
                head = AuditHead(position=outcome.audit_position, digest=outcome.audit_digest)
            if not outcome.already_done:
                metrics.partition_copied(run.plan, outcome.rows, outcome.bytes, outcome.seconds)
        return CopyResult(
            partitions=given.last - given.first + 1,
            rows=rows,
            bytes=size,
            head=head,
            attempt=activity.info().attempt,
        )


@activity.defn
async def remove_rows(given: CompensationInput) -> StepResult:
    """Compensation of a mapping's copy in a phase. Holds when nothing, half or all of it was copied."""
    run, number = given.run, given.mapping
    async with working("remove rows", run, mapping=number, undoing=True), target_of(run) as target:
        mapping = await mappings.load_mapping(target, run.run_id, number)
        plan = await mappings.load_plan(target, run.run_id)
        if mapping.occupied:
            undone = await undo.undo_phase(
                target,
                lease_of(run),
                run.run_id,
                mapping,
                given.phase,
                changed_since=plan.rollback.changed_since,
                limits=plan.limits,
            )
            count, left = undone.entries, undone.left
            summary = f"{mapping.name}: {count:,} changes taken back"
        else:
            removed = await remove.remove_rows(
                target,
                lambda: source_of(run),  # only rows in doubt need it, so a dead source does not stop a rollback
                lease_of(run),
                run.run_id,
                mapping,
                given.phase,
                [phase.phase for phase in plan.rollout],
                changed_since=plan.rollback.changed_since,
                limits=plan.limits,
            )
            count, left = removed.rows, removed.left
            back = f", {counted(removed.sequences, 'sequence')} set back" if removed.sequences else ""
            summary = f"{mapping.name}: {counted(count, 'row')} removed{back}"
        async with fenced(target, lease_of(run)):
            head = await compensated(target, run, "copy", summary, mapping=number, phase=given.phase)
        return StepResult(count=count, head=head, left=left)
