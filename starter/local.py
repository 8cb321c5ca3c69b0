"""Temporal and workers on this machine: started for a command, gone with it, found again by the next."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from knarr.local.errors import LocalServerError
from knarr.local.lifeline import Lifeline, tail
from knarr.local.state import TEMPORAL_FOLDER, LocalServers, StateFolder, running
from knarr.local.temporal import TemporalServer
from knarr.settings import DEFAULT_CONNECTIONS_FILE, Settings
from starter.connect import Service

# A worker finishes its partition's statement or gives it up within its graceful time (worker.py), then it is ended.
WORKER_GRACE_SECONDS: Final = 25.0
LOOK_SECONDS: Final = 0.5
# A worker that dies sooner than this after its start, as often as that, will not come up by being started again.
SHORT_LIFE_SECONDS: Final = 10.0
SHORT_LIVES: Final = 5


@contextlib.contextmanager
def temporal_server(state_dir: Path) -> Iterator[LocalServers]:
    """The Temporal server of a state folder: the one that runs there, or a new one that ends with the block.

    Raises:
        LocalServerError: it can't be started.
    """
    found = running(state_dir)
    if found is not None and found.temporal_address:
        yield found
        return
    with StateFolder.own(state_dir) as folder, TemporalServer.start(folder.path / TEMPORAL_FOLDER) as server:
        servers = LocalServers(
            temporal_address=server.address, temporal_ui_url=server.ui_url, task_queue=folder.task_queue()
        )
        folder.publish(servers)
        yield servers


async def service_of(servers: LocalServers) -> Service:
    """A client of the local server, whatever the environment says of other servers."""
    assert servers.temporal_address is not None
    client = await Client.connect(
        servers.temporal_address, namespace=servers.temporal_namespace, data_converter=pydantic_data_converter
    )
    return Service(client, servers.temporal_address, servers.temporal_ui_url, servers.task_queue)


def worker_environment(settings: Settings, servers: LocalServers, modules: Path | None) -> dict[str, str]:
    """What a worker beside us is told: the local server and none of a developer's own, our connections, transforms."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    environment |= {
        "TEMPORAL_ADDRESS": servers.temporal_address or "",
        "TEMPORAL_NAMESPACE": servers.temporal_namespace,
        # Else a profile in the developer's home could add TLS or an API key to our address.
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "KNARR_TASK_QUEUE": servers.task_queue,
        "KNARR_STATE_DIR": str(settings.state_dir.absolute()),
    }
    environment.setdefault("KNARR_METRICS_PORT", "0")  # several runs on one machine must not fight for a port
    file = (settings.connections_file or DEFAULT_CONNECTIONS_FILE).absolute()  # a worker's working directory is /
    if file.exists():
        environment["KNARR_CONNECTIONS_FILE"] = str(file)
    paths = [Path(entry).absolute() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if modules is not None:
        paths.insert(0, modules.absolute())
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    return environment


class WorkerProcess:
    """A worker as a child that can't outlive us; started again when it dies."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._short_lives = 0
        self._started_at = 0.0
        self._lifeline = self._start()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._lifeline.server_pid

    def look(self) -> bool:
        """Start the worker again if it has died; whether it had.

        Raises:
            LocalServerError: it dies again and again; its last words are quoted.
        """
        if self._lifeline.alive:
            return False
        short = time.monotonic() - self._started_at < SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if short else 0
        if self._short_lives >= SHORT_LIVES:
            raise LocalServerError(
                f"the worker died {self._short_lives} times within {SHORT_LIFE_SECONDS:.0f} s of its start:\n"
                f"{tail(self._log)}",
                hint=f"its log is {self._log}; the run is kept, so mend it and say the same again",
            )
        self._lifeline = self._start()
        return True

    def stop(self) -> None:
        """End the worker gracefully, and by force if it takes too long."""
        self._lifeline.stop()

    def _start(self) -> Lifeline:
        self._started_at = time.monotonic()
        return Lifeline.start(
            "The worker",
            [sys.executable, "-P", "-m", "worker"],
            log=self._log,
            environment=self._environment,
            grace=WORKER_GRACE_SECONDS,
            stop=signal.SIGTERM,
            last_resort=signal.SIGKILL,
        )


@contextlib.asynccontextmanager
async def local_worker(settings: Settings, servers: LocalServers, modules: Path | None) -> AsyncIterator[WorkerProcess]:
    """A worker for the time of the block, watched over: a death is mended, or told to its `failed` if it can't be."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    worker = WorkerProcess(worker_environment(settings, servers, modules), settings.state_dir.absolute() / "worker.log")

    async def watch_over() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                worker.look()
            except LocalServerError as error:
                worker.failed.set_exception(error)
                return

    watching = asyncio.create_task(watch_over())
    try:
        yield worker
    finally:
        watching.cancel()
        worker.failed.cancel()
        await asyncio.to_thread(worker.stop)
