"""Following a run: what it says of itself, what its open partitions have moved, how it ended."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
)
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from activities.models import CopyProgress, VerifyProgress
from knarr.wording import counted
from starter.exits import Exit
from starter.runs import OUTSIDE, RunHandle, state_of, ways_out
from workflows.controls import ENDED
from workflows.messages import Progress, State, Status

POLL_SECONDS: Final = 0.5
NOBODY_AFTER_SECONDS: Final = 20.0
ANSWER_WITHIN: Final = timedelta(seconds=5)
# What ends a watch although the run goes on: it waits for somebody, for hours or days.
WAITS: Final[frozenset[State]] = frozenset({"waiting for approval", "waiting for a person"})

ENDED_BY: Final[dict[str, Exit]] = {
    "MigrationRolledBack": Exit.ROLLED_BACK,
    "SurveyRefused": Exit.REFUSED,
    "ClaimRefused": Exit.REFUSED,
}


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment. `live` holds rows of partitions that are still open, by mapping: they may yet be undone.

    Without a worker that answers there may be no progress; the state is then what the run last told the server.
    """

    run_id: str
    status: WorkflowExecutionStatus
    progress: Progress | None
    answered: bool
    live: dict[int, int] = field(default_factory=dict)
    verifying: int = 0
    retrying: list[str] = field(default_factory=list)
    at: float = field(default_factory=time.monotonic)
    first_look: float = field(default_factory=time.monotonic)
    told: str = "starting"

    @property
    def running(self) -> bool:
        """Whether the workflow is open."""
        return self.status is WorkflowExecutionStatus.RUNNING

    @property
    def lost(self) -> bool:
        """Whether the workflow was ended from outside: what the run says of itself no longer holds."""
        return self.status in OUTSIDE and self.told not in ENDED

    @property
    def state(self) -> str:
        """The run's own word for where it is; how its workflow was ended, where it could not say that."""
        return self.progress.status.state if self.progress and not self.lost else self.told

    @property
    def waiting_for(self) -> str:
        """What the run waits for."""
        return self.progress.status.waiting_for if self.progress and not self.lost else ""

    def rows_of(self, mapping: int) -> int:
        """Rows committed and rows under way."""
        if self.progress is None:
            return 0
        done = next((each.rows for each in self.progress.mappings if each.number == mapping), 0)
        return done + self.live.get(mapping, 0)


@dataclass(frozen=True)
class Ending:
    """How a run ended, or why watching it ended."""

    exit_code: Exit
    message: str
    status: Status | None
    lost: bool = False
    """Its workflow was ended from outside, and did not end the run."""


async def snapshots(client: Client, handle: RunHandle, *, every: float = POLL_SECONDS) -> AsyncIterator[Snapshot]:
    """What there is to see, twice a second, until the run has ended; the last one is of the ended run."""
    last: Progress | None = None
    first_look = time.monotonic()
    while True:
        seen = replace(await look(client, handle, last), first_look=first_look)
        last = seen.progress
        yield seen
        if not seen.running:
            return
        await asyncio.sleep(every)


async def look(client: Client, handle: RunHandle, last: Progress | None = None) -> Snapshot:
    """One look. Without a worker that answers, the server's own knowledge and the last answer are shown."""
    description = await handle.describe()
    status = description.status or WorkflowExecutionStatus.RUNNING
    progress = await _progress(handle)
    answered = progress is not None
    progress = progress or last
    if status is not WorkflowExecutionStatus.RUNNING or progress is None:
        return Snapshot(handle.id, status, progress, answered, told=state_of(description))
    pending = list(description.raw_description.pending_activities)
    for child in _children(handle.id, progress):
        pending += await _pending(client, child)
    live, verifying = await _heartbeats(client, pending)
    return Snapshot(handle.id, status, progress, answered, live, verifying, _retrying(pending))


async def _progress(handle: RunHandle) -> Progress | None:
    try:
        progress: Progress = await handle.query("progress", result_type=Progress, rpc_timeout=ANSWER_WITHIN)
        return progress
    except WorkflowQueryFailedError:
        return None  # a worker with other code, or one that is starting
    except RPCError as error:
        # DEADLINE_EXCEEDED, FAILED_PRECONDITION, UNAVAILABLE: nobody polls, or nobody has polled yet.
        if error.status is RPCStatusCode.NOT_FOUND:
            raise
        return None


def _children(run_id: str, progress: Progress) -> list[str]:
    """Ids of the children that may be at work."""
    copying = [f"{run_id}/{mapping.name}" for mapping in progress.mappings if mapping.state == "copying"]
    verifying = [f"{run_id}/verify {progress.status.phase}"] if progress.status.step == "verify" else []
    return copying + verifying


async def _pending(client: Client, child: str) -> list[PendingActivityInfo]:
    try:
        description: WorkflowExecutionDescription = await client.get_workflow_handle(child).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return []  # not started yet
        raise
    return list(description.raw_description.pending_activities)


async def _heartbeats(client: Client, pending: Iterable[PendingActivityInfo]) -> tuple[dict[int, int], int]:
    """Rows that open copies have moved, by mapping; rows that open verifications have compared."""
    live: dict[int, int] = {}
    verifying = 0
    for activity in pending:
        payloads = activity.heartbeat_details.payloads
        if not payloads:
            continue
        name = activity.activity_type.name
        if name == "copy_partitions":
            [copied] = await client.data_converter.decode(payloads, [CopyProgress])
            live[copied.mapping] = live.get(copied.mapping, 0) + copied.rows
        elif name == "verify_partitions":
            [compared] = await client.data_converter.decode(payloads, [VerifyProgress])
            verifying += compared.rows
    return live, verifying


def _retrying(pending: Iterable[PendingActivityInfo]) -> list[str]:
    """Activities that failed and are tried again: what an operator would otherwise have to look up."""
    return [
        f"{activity.activity_type.name}, attempt {activity.attempt}: {activity.last_failure.message.splitlines()[0]}"
        for activity in pending
        if activity.attempt > 1 and activity.last_failure.message
    ]


async def _last_word(handle: RunHandle) -> Status | None:
    """What an ended run says of itself, if a worker is there to replay it."""
    try:
        status: Status = await handle.query("status", result_type=Status, rpc_timeout=timedelta(seconds=20))
        return status
    except (RPCError, WorkflowQueryFailedError):
        return None


async def how_it_ended(handle: RunHandle, seen: Snapshot) -> Ending:
    """The exit code and the message of a run that has ended."""
    status = seen.progress.status if seen.progress else None
    try:
        result = await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        if isinstance(cause, CancelledError):
            status = await _last_word(handle) or status
            if status is None or status.state != "aborted":
                return Ending(Exit.UNEXPECTED, "the run was canceled; nobody can tell here what was taken back", status)
            back = "aborted and unwound: the target is what it was before"
            return Ending(Exit.ABORTED, status.message if "NOT TAKEN BACK" in status.message else back, status)
        if isinstance(cause, ApplicationError):
            return Ending(ENDED_BY.get(cause.type or "", Exit.UNEXPECTED), cause.message, status)
        told = f"the run ended as {seen.status.name.lower().replace('_', ' ')}: {cause}"
        if seen.lost:
            told += f"\nwhat it did stands, and it holds its tables\nnext: {ways_out(seen.run_id)}"
        return Ending(Exit.UNEXPECTED, told, status, lost=seen.lost)
    return Ending(Exit.DONE, f"completed: {result.rows:,} rows moved and verified", result)


def started(seen: Snapshot) -> Ending | None:
    """A run whose target is claimed and whose survey has passed, or that nobody works on: enough for `--detach`."""
    if seen.progress is None:
        unanswered = time.monotonic() - seen.first_look
        if unanswered < NOBODY_AFTER_SECONDS:
            return None
        return Ending(
            Exit.DONE, "started; no worker has taken it up yet, so nothing is claimed. Start one: knarr worker", None
        )
    status, mappings = seen.progress.status, seen.progress.mappings
    if status.state in {"refused", "unwinding"} or (not mappings and status.state in {"starting", "running"}):
        return None
    size = f"{counted(len(mappings), 'mapping')}, about {counted(status.estimated_rows, 'row')}"
    message = f"started: the target is claimed and surveyed; {size}" if mappings else f"the run is {status.state}"
    return Ending(Exit.DONE, f"{message}\n  watch it: knarr watch {seen.run_id}", status)


def kept_open(seen: Snapshot) -> Ending:
    """A run that succeeded and can still be taken back: for a person it is done."""
    status = seen.progress.status if seen.progress else None
    run_id = seen.run_id
    return Ending(
        Exit.DONE,
        f"kept open: everything is moved and verified, and can still be taken back.\n"
        f"  keep it:      knarr complete {run_id} --reason ...\n"
        f"  take it back: knarr rollback {run_id} --reason ...",
        status,
    )


def waiting(seen: Snapshot) -> Ending:
    """A run that waits for a person, seen by somebody who is no person."""
    status = seen.progress.status if seen.progress else None
    message = "\n".join(part for part in (status.message, status.waiting_for) if part) if status else ""
    return Ending(Exit.WAITING, f"{seen.state}: {message}", status)
