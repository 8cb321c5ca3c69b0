"""Moving one partition, exactly once: ledger row first, then the rows, in one fenced transaction of the target."""

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import KnarrError, TransientError
from knarr.plan.models import Limits
from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres import ledger
from knarr.postgres.failures import classified, classify
from knarr.postgres.lease import Lease, fence, step_lock, transaction
from knarr.postgres.selection import copy_query, phase_predicate
from knarr.postgres.session import Connection, end, rename
from knarr.postgres.stream import Reconnect, Stream
from knarr.postgres.transform import Transformation, load_function

OnProgress = Callable[[int, int], None]


class CopyOutcome(BaseModel):
    """What one partition held; `already_done` when an earlier attempt had written it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    seconds: float = Field(ge=0)
    already_done: bool = False
    audit_position: int = Field(default=0, description="where the audit entry of this copy stands; 0: written earlier")
    audit_digest: str = ""


class CopyJob(BaseModel):
    """Everything that says what is to be copied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    lease: Lease
    mapping: ResolvedMapping
    phase: str
    phase_order: list[str] = Field(description="names of the plan's phases in rollout order")
    partition: Partition
    attempt: int = Field(default=1, ge=1)
    limits: Limits = Field(default_factory=Limits)
    plan_folder: Path | None = Field(default=None, description="where a transform's module lies; None: here")

    @property
    def step(self) -> str:
        """The step's name: one lock, one ledger row, one audit entry."""
        return f"{self.run_id}/{self.mapping.number}/{self.phase}/{self.partition.number}"

    @property
    def application_name(self) -> str:
        """What pg_stat_activity shows on both sides."""
        return f"knarr/{self.run_id}/{self.mapping.number}/{self.partition.number}"


async def copy_partition(
    source: Connection, target: Connection, job: CopyJob, on_progress: OnProgress, *, reconnect: Reconnect
) -> CopyOutcome:
    """Copies one partition of one phase, or returns what the ledger says of it.

    All or nothing: whatever fails or dies, either the rows and their ledger row are there, or neither is. Both
    connections are ended, not handed back, when this is cancelled or fails half-way.

    Args:
        source, target: idle pinned connections.
        on_progress: called with (rows, bytes) so far; rows stay 0 until the servers have counted them at the end.
        reconnect: gives another connection to the target, as in `lambda: pools.acquire(plan.target)`.

    Raises:
        DataError: a row that the target does not take, a transform that fails.
        PlanError: an expression that the source does not take.
        LostLease: the epoch has moved on; nothing was written.
        TransientError: a server or a connection was in the way; nothing was written.
    """
    doing = f"copying {job.mapping.name}, phase {job.phase}, partition {job.partition.number}"
    with classified(doing):
        try:
            return await _copy(source, target, job, doing, on_progress, reconnect)
        except BaseException:
            for connection in (source, target):
                if connection.is_closed() or connection.is_in_transaction():
                    await end(connection)
            raise


async def _copy(
    source: Connection, target: Connection, job: CopyJob, doing: str, on_progress: OnProgress, reconnect: Reconnect
) -> CopyOutcome:
    transformation = _transformation(job)
    started = time.monotonic()
    await rename(source, job.application_name)
    await rename(target, job.application_name)
    try:
        async with transaction(target, job.limits):
            await step_lock(target, job.step)
            await fence(target, job.lease)
            entered = await ledger.enter(
                target, job.lease, job.run_id, job.mapping.number, job.phase, job.partition.number, job.attempt
            )
            if not entered:
                return await _done_before(target, job)
            rows, size = await _stream(source, target, job, doing, transformation, on_progress, reconnect)
            took = time.monotonic() - started
            await ledger.close(
                target, job.run_id, job.mapping.number, job.phase, job.partition.number, rows, size, took
            )
            head = await chain.append(
                target, job.run_id, f"copy {job.step}/epoch {job.lease.epoch}", "copy", _entry(job, rows, size, took)
            )
            outcome = CopyOutcome(
                rows=rows, bytes=size, seconds=took, audit_position=head.position, audit_digest=head.digest
            )
            on_progress(rows, size)
    except KnarrError:
        raise
    except Exception as error:
        return await _after_unknown(classify(error, doing), job, reconnect)
    return outcome


def _transformation(job: CopyJob) -> Transformation | None:
    if job.mapping.transform is None:
        return None
    function = load_function(job.mapping.transform, job.plan_folder)
    columns = [column.name for column in job.mapping.columns]
    key = {column.name for column in job.mapping.key}
    touched = job.mapping.transform_columns or [name for name in columns if name not in key]
    return Transformation(job.mapping.transform, function, columns, touched)


async def _stream(
    source: Connection,
    target: Connection,
    job: CopyJob,
    doing: str,
    transformation: Transformation | None,
    on_progress: OnProgress,
    reconnect: Reconnect,
) -> tuple[int, int]:
    phase = phase_predicate(job.mapping, job.phase_order, job.phase)
    if phase is None:
        return 0, 0
    stream = Stream(source, target, doing, lambda size: on_progress(0, size))
    async with transaction(source, job.limits, snapshot=True):
        streamed = await stream.run(
            copy_query(job.mapping, job.partition, phase),
            job.mapping.target,
            [column.name for column in job.mapping.columns],
            "binary" if job.mapping.binary and transformation is None else "text",
            transformation,
            reconnect,
        )
    return streamed.rows, streamed.bytes


async def _done_before(connection: Connection, job: CopyJob) -> CopyOutcome:
    row = await ledger.read_row(connection, job.run_id, job.mapping.number, job.phase, job.partition.number)
    if row is None:
        raise TransientError(f"the ledger row of {job.step} went away while it was read: its rows were just removed")
    return CopyOutcome(rows=row.rows, bytes=row.bytes, seconds=row.seconds, already_done=True)


async def _after_unknown(error: KnarrError, job: CopyJob, reconnect: Reconnect) -> CopyOutcome:
    """What became of a transaction whose end is not known: an error from COMMIT may hide a success (measured, M8)."""
    if not isinstance(error, TransientError):
        raise error
    try:
        async with reconnect() as other, transaction(other, job.limits):
            # Ends the old backend if it lives, so that its transaction is over when the ledger is read.
            await step_lock(other, job.step)
            row = await ledger.read_row(other, job.run_id, job.mapping.number, job.phase, job.partition.number)
    except Exception as second:
        raise error from second
    if row is None:
        raise error
    return CopyOutcome(rows=row.rows, bytes=row.bytes, seconds=row.seconds, already_done=True)


def _entry(job: CopyJob, rows: int, size: int, took: float) -> dict[str, object]:
    return {
        "mapping": job.mapping.name,
        "phase": job.phase,
        "partition": job.partition.number,
        "rows": rows,
        "bytes": size,
        "seconds": round(took, 3),
        "attempt": job.attempt,
    }
