"""One case's stage: a database of its own on the target's server, a run, worker processes, and the judge."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from knarr.local.cluster import Cluster
from tests.faults import oracle
from tests.faults.shop import EXPECTED, PLAN, SOURCE, TARGET, Expected
from tests.saga.scene import Scene, run_script

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 120.0
DISCARDED: Final = "--exclude-schema=knarr"

Side = Literal["source", "target"]
By = tuple[Side, int]

_numbers: Final = itertools.count(1)


class Nursery:
    """The process that forks workers: one for all tests, since importing costs a second and a half."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.failing_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def fork(self, environment: dict[str, str], log: Path) -> int:
        """Starts a worker and returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"environment": environment, "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def close(self) -> None:
        """Ends it, and with it every worker that is left."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the process that forks workers has ended"
        return line


@dataclass
class Worker:
    """One worker process. `kill` is SIGKILL, `freeze` and `wake` are SIGSTOP and SIGCONT."""

    pid: int
    marks: Path

    @property
    def alive(self) -> bool:
        """Whether it runs, or is frozen."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """Nothing of it goes on, nothing is flushed."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """It neither works nor dies, and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """It goes on as if nothing had happened."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def reached(self) -> bool:
        """Whether the place of its fault has been reached."""
        return (self.marks / "reached").exists()

    async def until_reached(self, seconds: float = PATIENCE) -> None:
        """Waits until the worker is held at its place, or was killed there."""
        async with asyncio.timeout(seconds):
            while not self.reached:
                await asyncio.sleep(0.02)

    def go(self) -> None:
        """Lets a worker that is held go on."""
        (self.marks / "go").touch()

    @property
    def most_memory(self) -> int:
        """The most resident memory it has had so far, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


@dataclass
class Stage:
    """Where one case plays."""

    scene: Scene
    before: oracle.Before
    nursery: Nursery
    folder: Path
    source: Cluster
    target: Cluster
    database: str
    workers: list[Worker] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.scene.run_id

    def worker(
        self, place: str = "", action: str = "kill", which: int = 1, *, by: By | None = None, few_polls: bool = False
    ) -> Worker:
        """Starts a worker; with a place, one that is killed or held there.

        Args:
            by: the side and port of a proxy on the worker's way.
            few_polls: it asks for one task of a kind at a time. Each task that a frozen worker's open polls are given
                is lost until it times out, so that five polls cost half a minute.
        """
        marks = self.folder / f"worker-{len(self.workers)}"
        marks.mkdir()
        addresses = {"source": self.scene.source_dsn, "target": self.scene.target_dsn}
        if by is not None:
            addresses[by[0]] = through(addresses[by[0]], by[1])
        environment = {
            "KNARR_CONNECTION_LEGACY": addresses["source"],
            "KNARR_CONNECTION_SHOP": addresses["target"],
            "KNARR_TASK_QUEUE": self.scene.task_queue,
            "KNARR_METRICS_PORT": "0",
            "TEMPORAL_ADDRESS": self.scene.client.service_client.config.target_host,
        }
        if few_polls:
            environment["KNARR_FEW_POLLS"] = "yes"
        if place:
            environment |= {"KNARR_FAULT": f"{place}|{action}|{which}", "KNARR_FAULT_FOLDER": str(marks)}
        worker = Worker(self.nursery.fork(environment, self.folder / f"worker-{len(self.workers)}.log"), marks)
        self.workers.append(worker)
        return worker

    def dsn(self, side: Side) -> str:
        """The address of one side."""
        return self.scene.source_dsn if side == "source" else self.scene.target_dsn

    async def ended(self, handle: WorkflowHandle[Any, Any], seconds: float = PATIENCE) -> tuple[str, str]:
        """Waits for the run's end: `completed`, `rolled back`, `aborted` or a failure's type, and its message."""
        try:
            async with asyncio.timeout(seconds):
                status = await handle.result()
        except WorkflowFailureError as failed:
            if isinstance(failed.cause, CancelledError):
                return "aborted", str(failed.cause)
            if isinstance(failed.cause, ApplicationError):
                kind = failed.cause.type or ""
                return ("rolled back" if kind == "MigrationRolledBack" else kind), failed.cause.message
            return type(failed.cause).__name__, str(failed.cause)
        except TimeoutError:
            status = await handle.query("status")
            raise AssertionError(f"the run has not ended after {seconds:.0f} s: {status}") from None
        return str(status.state), ""

    async def running(self, handle: WorkflowHandle[Any, Any]) -> bool:
        """Whether the run goes on."""
        return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING

    async def judge(self, outcome: str, wanted: oracle.Outcome, *, run_id: str = "", **options: Any) -> list[str]:
        """Ends all workers and tells everything that is not as it must be."""
        for worker in self.workers:
            worker.kill()
        if outcome != wanted:
            return [f"the run ended as {outcome!r}, it must end as {wanted!r}"]
        return await oracle.violations(self.before, run_id or self.run_id, wanted, **options)

    def close(self) -> None:
        """Ends what still runs and drops the case's database."""
        for worker in self.workers:
            worker.kill()
        self.target.drop_database(self.database)


@dataclass
class Theatre:
    """What all cases share: two servers that nobody else writes to, the shop's source, a template of the target."""

    source: Cluster
    target: Cluster
    nursery: Nursery
    client: Client
    source_name: str = "shop_source"
    template: str = "shop_target"

    def build(self) -> None:
        """Makes the source and the target's template."""
        self.source.create_database(self.source_name)
        self.source.psql(SOURCE, self.source_name)
        self.target.create_database(self.template)
        self.target.psql(TARGET, self.template)

    @asynccontextmanager
    async def stage(
        self,
        folder: Path,
        *,
        source: str = "",
        target: str = "",
        client: Client | None = None,
        own_source: bool = False,
        template: bool = True,
        rows_may_move: bool = False,
    ) -> AsyncIterator[Stage]:
        """A stage for one case.

        Args:
            source, target: scripts that change the databases before anything is looked at; a source that is changed is
                the case's own, made from nothing, and so must not play beside others.
            own_source: the case changes the source later on.
            template: False for an empty target.
            rows_may_move: the run changes rows that are there, so that they lie in another order once it is undone.
        """
        number = next(_numbers)
        source_name, database = self.source_name, f"case_{number}"
        if source or own_source:
            source_name = f"source_{number}"
            await asyncio.to_thread(self.source.create_database, source_name, self.source_name)
        source_dsn = self.source.dsn(source_name)
        if source:
            await run_script(source_dsn, source)
        await asyncio.to_thread(self.target.create_database, database, self.template if template else None)
        target_dsn = self.target.dsn(database)
        if target:
            await run_script(target_dsn, target)

        def dump_target() -> str:
            dump = self.target.pg_dump(database, DISCARDED)
            return oracle.in_order(dump) if rows_may_move else dump

        before = await oracle.Before.now(source_dsn, target_dsn, lambda: self.source.pg_dump(source_name), dump_target)
        scene = Scene(source_dsn, target_dsn, client or self.client)
        mine = folder / f"case-{number}"
        mine.mkdir(parents=True)
        stage = Stage(scene, before, self.nursery, mine, self.source, self.target, database)
        try:
            yield stage
        finally:
            await asyncio.to_thread(stage.close)
            if source_name != self.source_name:
                await asyncio.to_thread(self.source.drop_database, source_name)


def through(dsn: str, port: int) -> str:
    """The same address by way of a proxy on this machine."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()


async def play(
    stage: Stage,
    *,
    plan: dict[str, Any] = PLAN,
    wanted: oracle.Outcome = "completed",
    expected: Sequence[Expected] = EXPECTED,
    act: Callable[[WorkflowHandle[Any, Any]], Any] | None = None,
    pause_before: list[str] | None = None,
    **options: Any,
) -> list[str]:
    """A run from its start to its end with `act(handle)` in its course; returns what was not as it must be."""
    handle = await stage.scene.start(plan, pause_before=pause_before)
    if act is not None:
        await act(handle)
    outcome, message = await stage.ended(handle)
    found = await stage.judge(outcome, wanted, expected=expected, **options)
    return [f"{text} ({message[:200]})" for text in found] if found and message else found
