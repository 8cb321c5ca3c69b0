"""Real servers for the tests, in folders that the service account can reach and that go when the tests end."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from knarr.local.cluster import Cluster
from knarr.local.lifeline import command_line
from knarr.local.owner import LOCK_FILE, is_owned
from knarr.local.temporal import TemporalServer

PREFIX: Final = "knarr-tests-"

# A server whose defaults differ in all that changes how a value looks as text. What is true of two servers must not
# depend on them, so every test that has a source and a target has one of each.
UNLIKE: Final[Mapping[str, str]] = {
    "TimeZone": "Asia/Kathmandu",  # +05:45
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "-4",
    "bytea_output": "escape",
}


def new_folder() -> Path:
    """A fresh folder in the temporary place; pytest's own are closed to the service account when we are root."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    folder.chmod(0o711)
    return folder


def _sweep() -> None:
    # A killed test run leaves its servers' data, some 100 MB each.
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.stat()
            old = found.st_uid == os.getuid() and found.st_mtime < time.time() - 3600
            if old and not any(is_owned(lock.parent) for lock in folder.glob(f"*/{LOCK_FILE}")):
                shutil.rmtree(folder)


def start_cluster(settings: Mapping[str, str] | None = None) -> Cluster:
    """A PostgreSQL server for tests; `stop_cluster` takes all of it away."""
    return Cluster.start(new_folder() / "postgres", durable=False, settings=settings)


def stop_cluster(cluster: Cluster) -> None:
    """Stop the server and remove its folder."""
    cluster.destroy()
    cluster.state_dir.parent.rmdir()


def start_temporal(
    *, persistent: bool = False, ui: bool = False, history_suggested: int | None = None
) -> TemporalServer:
    """A Temporal server for tests, on ports of its own; `stop_temporal` takes all of it away.

    Args:
        persistent: keeps its state in a file.
        ui: serves the Web UI.
        history_suggested: events after which it suggests to continue as new; its default is 4,096.
    """
    suggested = {"limit.historyCount.suggestContinueAsNew": str(history_suggested)} if history_suggested else None
    folder = new_folder() / "temporal"
    return TemporalServer.start(folder, persistent=persistent, ui=ui, dynamic_config=suggested, port=None, ui_port=None)


def stop_temporal(server: TemporalServer) -> None:
    """Stop the server and remove its folder."""
    server.destroy()
    server.state_dir.parent.rmdir()


def wait_until_gone(pid: int, seconds: float = 15) -> None:
    """Return once no process has `pid`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while command_line(pid):
        assert time.monotonic() < deadline, f"pid {pid} is still there: {command_line(pid)}"
        time.sleep(0.01)


@contextlib.contextmanager
def python(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `script`; killed when the block ends, however it ends."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process of `python` prints."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")
