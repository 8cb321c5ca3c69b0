"""One mapping's rows of one phase: a child that copies its partitions through a sliding window."""

from collections.abc import Iterable
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, RetryState

from workflows.window import Piece, sliding_window

with workflow.unsafe.imports_passed_through():
    from activities.copy import copy_partitions
    from activities.models import CopyInput
    from workflows.messages import Moved, MoveInput, PartitionsDone, Pausing
    from workflows.policies import copy_options

# A mapping tells its parent how far it is at most this often in its life, so that the parent's history stays short.
REPORTS: Final = 50


@workflow.defn(name="MoveMapping")
class MoveMappingWorkflow:
    """Copies partitions `next_partition`..end; continues as new when its history has grown long."""

    @workflow.init
    def __init__(self, move: MoveInput) -> None:
        self._move = move
        self._paused = move.paused
        self._done = move.next_partition
        self._reported = move.next_partition
        self._rows = move.rows
        self._bytes = move.bytes
        self._errors = move.errors

    @workflow.run
    async def run(self, move: MoveInput) -> Moved:
        """Returns what was moved in all. Raises ActivityError for what no retry can help."""
        started = await sliding_window(move.window, self._pieces(), may_start=self._may_start)
        next_partition = move.next_partition + started
        if next_partition < move.mapping.partitions:
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(
                move.model_copy(
                    update={
                        "next_partition": next_partition,
                        "rows": self._rows,
                        "bytes": self._bytes,
                        "errors": self._errors,
                        "paused": self._paused,
                    }
                )
            )
        return Moved(partitions=move.mapping.partitions, rows=self._rows, bytes=self._bytes, errors=self._errors)

    @workflow.signal
    def hold(self, pausing: Pausing) -> None:
        """The parent pauses or resumes: no partition starts while paused; those under way end."""
        self._paused = pausing.paused

    async def _may_start(self) -> bool:
        await workflow.wait_condition(lambda: not self._paused)
        return not workflow.info().is_continue_as_new_suggested()

    def _pieces(self) -> Iterable[Piece]:
        for number in range(self._move.next_partition, self._move.mapping.partitions):

            async def copy(partition: int = number) -> None:
                await self._copy(partition)

            yield copy

    async def _copy(self, partition: int) -> None:
        mapping, allowed = self._move.mapping, self._move.errors_allowed
        name = f"{mapping.name} · partition {partition + 1} of {mapping.partitions}"
        try:
            result = await workflow.execute_activity(
                copy_partitions,
                CopyInput(
                    run=self._move.run, mapping=mapping.number, phase=self._move.phase, first=partition, last=partition
                ),
                summary=name,
                **copy_options(allowed),
            )
        except ActivityError as error:
            if error.retry_state != RetryState.MAXIMUM_ATTEMPTS_REACHED:
                raise
            last = error.cause.message if isinstance(error.cause, ApplicationError) else str(error.cause)
            raise ApplicationError(
                f"{name} failed {(allowed or 0) + 1} times, the plan allows {allowed} errors; the last: {last}",
                type="TooManyErrors",
                non_retryable=True,
            ) from error
        self._done += 1
        self._rows += result.rows
        self._bytes += result.bytes
        self._errors += result.attempt - 1
        await self._report(at_once=allowed is not None and result.attempt > 1)

    async def _report(self, *, at_once: bool) -> None:
        total = self._move.mapping.partitions
        if not at_once and self._done < total and (self._done - self._reported) * REPORTS < total:
            return
        self._reported = self._done
        parent = workflow.info().parent
        if parent is None:
            return
        await workflow.get_external_workflow_handle(parent.workflow_id).signal(
            "partitions_done",
            PartitionsDone(
                mapping=self._move.mapping.number,
                phase=self._move.phase,
                partitions=self._done,
                rows=self._rows,
                bytes=self._bytes,
                errors=self._errors,
                epoch=self._move.run.lease.epoch if self._move.run.lease else 0,
            ),
        )
