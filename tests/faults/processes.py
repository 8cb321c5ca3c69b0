"""Worker processes that tests may kill: the real `worker.py`, with the scene's connections, its log in a file."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.saga.scene import Scene

ROOT: Final = Path(__file__).parents[2]


class WorkerProcess:
    """One `python worker.py`, started now; `kill` is SIGKILL, `freeze` and `wake` are SIGSTOP and SIGCONT."""

    def __init__(self, scene: Scene, log: Path) -> None:
        self._log = log.open("ab")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("KNARR_", "TEMPORAL_"))
        }
        environment |= {
            "KNARR_CONNECTION_LEGACY": scene.source_dsn,
            "KNARR_CONNECTION_SHOP": scene.target_dsn,
            "KNARR_TASK_QUEUE": scene.task_queue,
            "KNARR_METRICS_PORT": "0",
            "TEMPORAL_ADDRESS": scene.client.service_client.config.target_host,
        }
        self._process = subprocess.Popen(
            [sys.executable, "worker.py"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL: nothing of it goes on, nothing is flushed."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def freeze(self) -> None:
        """SIGSTOP: it neither works nor dies, and its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT: it goes on as if nothing had happened."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def alive(self) -> bool:
        """Whether it runs (or is frozen)."""
        return self._process.poll() is None
