"""The real worker in a process that a test can kill or hold at a named place.

This process imports everything once and then forks a worker for each line on its standard input, so that a new life
of a worker costs a tenth of a second. The places are made by wrapping functions of the product here; the product knows
nothing of them. Two things differ from production: timers are short (heartbeats, retries, sticky queue), and at the
place that `KNARR_FAULT` names (`<place>|<kill or hold>|<which time>`) the process kills itself or waits for a file.
"""

import asyncio
import ctypes
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Worker,
)
from temporalio.worker import Interceptor as WorkerInterceptor

import worker
from activities import context
from knarr.audit import chain
from knarr.postgres import copy, ledger, merge, sequences, stream, undo, undo_batch
from knarr.process import run_and_exit
from workflows import policies

HEARTBEAT: Final = timedelta(seconds=4)
LONGEST_PAUSE: Final = timedelta(seconds=2)
FIRST_PAUSE: Final = timedelta(milliseconds=300)
STICKY: Final = timedelta(milliseconds=500)
# A few thousand changes are then taken back in several transactions, as millions are in production.
UNDO_BATCH: Final = 1_000
PR_SET_PDEATHSIG: Final = 1


class Fault(NamedTuple):
    """Where, what, at which time of passing there, and the folder for the marks that a test sees."""

    place: str
    action: str
    which: int
    folder: Path

    @property
    def mark(self) -> Path:
        """Made when the place is reached; a fault with a mark does not happen again, in no life."""
        return self.folder / "reached"

    @property
    def go(self) -> Path:
        """Made by the test; a worker that is held goes on then."""
        return self.folder / "go"


_fault: Fault | None = None
_passed = 0


def here(place: str) -> bool:
    """Whether the process is to be held here; does not return where it is to be killed."""
    global _passed
    if _fault is None or _fault.place != place or _fault.mark.exists():
        return False
    _passed += 1
    if _passed != _fault.which:
        return False
    _fault.mark.touch()
    if _fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return True


async def reach(place: str) -> None:
    """A place between two awaits: the worker's other activities go on while it is held."""
    while here(place) or (_fault and _fault.place == place and _waits()):
        await asyncio.sleep(0.02)


def _waits() -> bool:
    return bool(_fault and _fault.action == "hold" and _fault.mark.exists() and not _fault.go.exists())


def after(function: Callable[..., Awaitable[Any]], place: Callable[..., str]) -> Callable[..., Awaitable[Any]]:
    """The function with a place behind it, named by its arguments."""

    @functools.wraps(function)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await function(*args, **kwargs)
        await reach(place(*args, **kwargs))
        return result

    return wrapped


def of_key(key: str) -> str:
    """The place of an audit entry: it is written in the transaction of its effect, nearly always just before COMMIT."""
    words = re.split(r"[/ ]", key)
    return "audited " + " ".join(words[: 2 if words[0] in ("step", "compensation") else 1])


def make_places() -> None:
    """Wraps what the product calls, in this process alone."""
    copy.fence = after(copy.fence, lambda *_: "fence passed")  # type: ignore[assignment, attr-defined]
    ledger.enter = after(ledger.enter, lambda *_: "ledger row entered")  # type: ignore[assignment]
    copy.copy_partition = after(copy.copy_partition, lambda *_, **__: "after COMMIT")  # type: ignore[assignment]
    sequences._where_to = before(sequences._where_to, "sequence remembered")  # type: ignore[assignment]
    sequences.put = before(sequences.put, "sequence about to move")  # type: ignore[assignment]
    make_places_in_merges()
    chain.append = after(  # type: ignore[assignment]
        chain.append, lambda connection, run_id, key, *_: of_key(key)
    )
    chunks = stream.Stream._chunks

    async def in_the_copy(self: stream.Stream, reading: "asyncio.Task[str]") -> AsyncIterator[bytes]:
        async for chunk in chunks(self, reading):
            yield chunk
            # Here the first rows are on their way to the target and the others are not.
            await reach("in the middle of COPY")

    stream.Stream._chunks = in_the_copy  # type: ignore[method-assign]


def make_places_in_merges() -> None:
    """What writes to tables that have rows already, and what takes that back."""
    merge.merge_partition = after(merge.merge_partition, lambda *_, **__: "after COMMIT")  # type: ignore[assignment]
    changing = before(merge.change_rows, "rows staged")
    merge.change_rows = after(changing, lambda *_, **__: "rows merged")  # type: ignore[assignment]
    batch = before(undo_batch.take_back, "undo batch begun")
    undo.take_back = after(batch, lambda *_, **__: "undo batch done")  # type: ignore[assignment, attr-defined]
    undo_batch._decide = after(undo_batch._decide, lambda *_: "undo batch planned")  # type: ignore[assignment]
    undo._finish = before(undo._finish, "undo log empty")  # type: ignore[assignment]


def before(function: Callable[..., Awaitable[Any]], place: str) -> Callable[..., Awaitable[Any]]:
    """The function with a place before it."""

    @functools.wraps(function)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        await reach(place)
        return await function(*args, **kwargs)

    return wrapped


class Boundaries(Interceptor, WorkerInterceptor):
    """A place before and one after every activity."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Called by the SDK for each activity."""
        return _Boundary(next)


class _Boundary(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        name = input.fn.__name__
        await reach(f"before {name}")
        result = await self.next.execute_activity(input)
        await reach(f"after {name}")
        return result


def shorten_timers() -> None:
    """A test can't wait fifteen seconds for each missed heartbeat."""
    for options in (policies.BRIEF, policies.LONG, policies.COPY, policies.VERIFY, policies.COMPENSATION):
        options["heartbeat_timeout"] = HEARTBEAT
        options["retry_policy"].initial_interval = FIRST_PAUSE
        options["retry_policy"].maximum_interval = LONGEST_PAUSE
    context.SECONDS_BETWEEN_BEATS = 0.5  # type: ignore[misc]
    undo.BATCH = UNDO_BATCH  # type: ignore[misc]
    worker.Worker = quick  # type: ignore[attr-defined, assignment]


def quick(*args: Any, **given: Any) -> Worker:
    """The SDK's worker, with what is shorter or less here."""
    given["sticky_queue_schedule_to_start_timeout"] = STICKY
    if os.environ.get("KNARR_FEW_POLLS"):
        # Two are the least of workflow tasks: one on the worker's own queue, one on that of all.
        given |= {"max_concurrent_workflow_task_polls": 2, "max_concurrent_activity_task_polls": 1}
    return Worker(*args, **given)


async def work() -> int:
    """What `worker.py` does, over a client that knows the boundaries."""
    client = await Client.connect(
        os.environ["TEMPORAL_ADDRESS"], data_converter=pydantic_data_converter, interceptors=[Boundaries()]
    )
    await worker.work(worker.WorkerSettings(), client)
    return 0


def live(environment: dict[str, str], log: str) -> None:
    """The forked child's whole life."""
    global _fault
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream_number in (1, 2):
        os.dup2(output, stream_number)
    os.close(0)
    for name in [name for name in os.environ if name.startswith(("KNARR_", "TEMPORAL_"))]:
        del os.environ[name]
    os.environ.update(environment)
    if told := environment.get("KNARR_FAULT"):
        place, action, which = told.split("|")
        _fault = Fault(place, action, int(which), Path(environment["KNARR_FAULT_FOLDER"]))
    run_and_exit(work())


def main() -> None:
    """Forks a worker for every line of JSON and answers with its process id."""
    make_places()
    shorten_timers()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if pid == 0:
            live(told["environment"], told["log"])
        print(pid, flush=True)
        time.sleep(0)


if __name__ == "__main__":
    main()
