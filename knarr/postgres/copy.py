"""Moving one partition, exactly once: ledger row first, then the rows, in one fenced transaction of the target."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import DataError, KnarrError, TransientError
from knarr.plan.models import Limits
from knarr.plan.resolved import Partition, ResolvedMapping, TableName
from knarr.postgres import ledger
from knarr.postgres.failures import classified, classify
from knarr.postgres.lease import Lease, fence, step_lock
from knarr.postgres.poisoned import findable
from knarr.postgres.selection import copy_query, phase_predicate
from knarr.postgres.session import Connection, end, rename
from knarr.postgres.stream import Reconnect, Stream, Streamed
from knarr.postgres.transactions import transaction
from knarr.postgres.transform import Transformation, load_function, source_digest

OnProgress = Callable[[int, int], None]


class CopyOutcome(BaseModel):
    """What one partition held; `already_done` when an earlier attempt had written it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    seconds: float = Field(ge=0)
    already_done: bool = False
    inserted: int = Field(default=0, description="append and merge: rows that were new")
    updated: int = Field(default=0, description="merge: rows that differed")
    deleted: int = Field(default=0, description="merge: rows that the source no longer has")
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


class Written(BaseModel):
    """What the rows were, and, in an occupied table, what became of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = 0
    bytes: int = 0
    changes: ledger.Changes | None = None


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
    doing = f"copying {job.mapping.name}, phase {job.phase}, partition {job.partition.number + 1}"
    write = partial(_copy, source, target, job, doing, on_progress, reconnect)
    return await write_once(source, target, job, doing, write, on_progress, reconnect=reconnect)


async def write_once(
    source: Connection,
    target: Connection,
    job: CopyJob,
    doing: str,
    write: Callable[[], Awaitable[Written]],
    on_progress: OnProgress,
    *,
    reconnect: Reconnect,
) -> CopyOutcome:
    """Calls `write` in the target's transaction, behind the fence and the ledger row; or returns what the ledger says.

    Raises as `copy_partition`, and whatever `write` raises, classified.
    """
    with classified(doing):
        try:
            return await _write_once(source, target, job, doing, write, on_progress, reconnect)
        except BaseException:
            for connection in (source, target):
                if connection.is_closed() or connection.is_in_transaction():
                    await end(connection)
            raise


async def _write_once(
    source: Connection,
    target: Connection,
    job: CopyJob,
    doing: str,
    write: Callable[[], Awaitable[Written]],
    on_progress: OnProgress,
    reconnect: Reconnect,
) -> CopyOutcome:
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
            done = await write()
            took = time.monotonic() - started
            place = job.run_id, job.mapping.number, job.phase, job.partition.number
            await ledger.close(target, *place, done.rows, done.bytes, took, done.changes)
            key = f"copy {job.step}/epoch {job.lease.epoch}"
            head = await chain.append(target, job.run_id, key, "copy", _entry(job, done, took))
            outcome = CopyOutcome(
                rows=done.rows,
                bytes=done.bytes,
                seconds=took,
                audit_position=head.position,
                audit_digest=head.digest,
            )
            if done.changes is not None:
                outcome = outcome.model_copy(update=_counts(done.changes))
            on_progress(done.rows, done.bytes)
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


async def _copy(
    source: Connection, target: Connection, job: CopyJob, doing: str, on_progress: OnProgress, reconnect: Reconnect
) -> Written:
    phase = phase_predicate(job.mapping, job.phase_order, job.phase)
    if phase is None:
        return Written()
    streamed = await stream_rows(source, target, job, doing, phase, job.mapping.target, on_progress, reconnect)
    return Written(rows=streamed.rows, bytes=streamed.bytes)


async def stream_rows(
    source: Connection,
    target: Connection,
    job: CopyJob,
    doing: str,
    phase_sql: str,
    into: TableName,
    on_progress: OnProgress,
    reconnect: Reconnect,
) -> Streamed:
    """The job's rows, through its transform if it has one, into a table with the mapping's columns."""
    transformation = _transformation(job)
    stream = Stream(source, target, doing, lambda size: on_progress(0, size))
    try:
        async with transaction(source, job.limits, snapshot=True):
            return await stream.run(
                copy_query(job.mapping, job.partition, phase_sql),
                into,
                [column.name for column in job.mapping.columns],
                "binary" if job.mapping.binary and transformation is None else "text",
                transformation,
                reconnect,
            )
    except DataError as error:
        raise findable(error, job.mapping) from error.__cause__


async def _done_before(connection: Connection, job: CopyJob) -> CopyOutcome:
    row = await ledger.read_row(connection, job.run_id, job.mapping.number, job.phase, job.partition.number)
    if row is None:
        raise TransientError(f"the ledger row of {job.step} went away while it was read: its rows were just removed")
    return _before(row)


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
    return _before(row)


def _before(row: ledger.LedgerRow) -> CopyOutcome:
    return CopyOutcome(
        rows=row.rows,
        bytes=row.bytes,
        seconds=row.seconds,
        already_done=True,
        inserted=row.inserted or 0,
        updated=row.updated or 0,
        deleted=row.deleted or 0,
    )


def _counts(changes: ledger.Changes | None) -> dict[str, int]:
    if changes is None:
        return {}
    return {"inserted": changes.inserted, "updated": changes.updated, "deleted": changes.deleted}


def _entry(job: CopyJob, done: Written, took: float) -> dict[str, object]:
    return {
        "mapping": job.mapping.name,
        "phase": job.phase,
        "partition": job.partition.number,
        "rows": done.rows,
        "bytes": done.bytes,
        "seconds": round(took, 3),
        "attempt": job.attempt,
        **_counts(done.changes),
        **code_of(job, done.rows),
    }


def code_of(job: CopyJob, rows: int) -> dict[str, str]:
    """For the audit trail: the plan's own function that made the rows, and the SHA-256 of its file; empty without one.

    Said of each partition, since the file may change between two, and differ among workers.
    """
    name = job.mapping.transform
    if name is None or not rows:
        return {}
    return {"transform": name, "transform_sha256": source_digest(name, job.plan_folder)}
