"""The real `knarr` command in a folder of its own, with a clean environment."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


class Knarr:
    """Runs `python -m starter ...` with the given connections; everything it keeps lies below `folder`."""

    def __init__(
        self, folder: Path, connections: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KNARR_", "TEMPORAL_", "PG")) or name == "PG_BIN_DIR"
        }
        self._environment |= {f"KNARR_CONNECTION_{alias.upper()}": dsn for alias, dsn in connections.items()}
        self._environment |= environment or {}
        self._environment |= {"KNARR_METRICS_PORT": "0", "NO_COLOR": "1", "COLUMNS": "200"}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts a command and leaves it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "starter", *arguments],
            cwd=self.folder,
            env=self._environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"knarr {' '.join(arguments)} did not end in {timeout} s:\n{out}\n{err}") from None
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def document(self, *arguments: str) -> dict[str, Any]:
        """The one JSON document that a command prints under --json."""
        done = self(*arguments, "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        assert "schema_version" in found
        return found
