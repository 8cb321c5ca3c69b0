"""A Temporal server of our own, with its Web UI: the development server of the `temporal` program.

with TemporalServer.start(Path(".knarr/temporal")) as temporal:
    client = await Client.connect(temporal.address, namespace=temporal.namespace)
"""

import http.client
import json
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from knarr.local.account import clean_environment
from knarr.local.binaries import temporal_binary
from knarr.local.errors import LocalServerError
from knarr.local.lifeline import Lifeline, stop_leftover, tail
from knarr.local.owner import FolderLock
from knarr.local.ports import LOOPBACK, free_port, preferred_or_free

AttributeType = Literal["Keyword", "Text", "Int", "Double", "Bool", "Datetime", "KeywordList"]
# What the workflows write. All keywords: a visibility store on SQL has ten slots of these and three of most others.
SEARCH_ATTRIBUTES: Final[Mapping[str, AttributeType]] = MappingProxyType(
    {
        "KnarrPlan": "Keyword",
        "KnarrPhase": "Keyword",
        "KnarrState": "Keyword",
        "KnarrSource": "Keyword",
        "KnarrTarget": "Keyword",
    }
)
# Under this key the namespace says in whose folder the server keeps its runs: an address alone does not tell.
FOLDER_KEY: Final = "knarr_folder"
DATABASE: Final = "temporal.db"
DEFAULT_PORT: Final = 7233
DEFAULT_UI_PORT: Final = 8233
START_SECONDS: Final = 60.0
# It closes in 1.4 s (measured); a run with thousands of open tasks takes longer.
STOP_SECONDS: Final = 20.0


class TemporalServer:
    """A running server, owned by this process: it stops when we stop it, or when we end, however that happens."""

    def __init__(
        self,
        state_dir: Path,
        persistent: bool,
        ui: bool,
        search_attributes: Mapping[str, AttributeType],
        namespace: str,
        dynamic_config: Mapping[str, str],
        lock: FolderLock,
    ) -> None:
        self.state_dir = state_dir
        self.namespace = namespace
        self.log = state_dir / "temporal.log"
        self.port = 0
        self._http_port = 0
        self._ui_port = 0
        self._persistent = persistent
        self._ui = ui
        self._search_attributes = search_attributes
        self._dynamic_config = dynamic_config
        self._lock = lock
        self._lifeline: Lifeline | None = None

    @classmethod
    def start(
        cls,
        state_dir: Path,
        *,
        persistent: bool = True,
        ui: bool = True,
        search_attributes: Mapping[str, AttributeType] = SEARCH_ATTRIBUTES,
        namespace: str = "default",
        dynamic_config: Mapping[str, str] | None = None,
        port: int | None = DEFAULT_PORT,
        ui_port: int | None = DEFAULT_UI_PORT,
    ) -> "TemporalServer":
        """Start the server; returns when it serves the namespace and knows the search attributes.

        Args:
            state_dir: this server's own folder, made if it is not there.
            persistent: keep workflows in a file there, else in memory.
            ui: serve the Web UI too.
            search_attributes: registered at the start, name to type.
            namespace: made at the start.
            dynamic_config: the server's own settings by key, values as JSON.
            port: taken if it is free, else another; None for any.
            ui_port: likewise.

        Raises:
            LocalServerError: the program was not found, another process owns the folder, or the server does not start.
        """
        state_dir = state_dir.resolve()
        state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = FolderLock.take(state_dir, "The Temporal server of")
        server = cls(state_dir, persistent, ui, search_attributes, namespace, dynamic_config or {}, lock)
        try:
            server._stop_leftover()
            server._start_on(port, ui_port)
        except BaseException:
            lock.release()
            raise
        return server

    @property
    def address(self) -> str:
        """host:port of the gRPC service."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str:
        """The Web UI's address without a slash at the end, or nothing when it was not asked for."""
        return f"http://{LOOPBACK}:{self._ui_port}" if self._ui else ""

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._lifeline is not None and self._lifeline.alive

    def kill(self) -> None:
        """End the server by SIGKILL, for tests; `restart` brings it back."""
        if self._lifeline is not None:
            self._lifeline.signal(signal.SIGKILL)
            self._lifeline.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Stop the server if it runs, and start it again on the same ports. What is not persistent is lost.

        Raises:
            LocalServerError: it does not end, or does not start again.
        """
        if self._lifeline is not None:
            self._lifeline.stop()
        self._launch(self.port, self._ui_port)

    def stop(self) -> None:
        """Stop the server and give its folder up. Twice is once.

        Raises:
            LocalServerError: it does not end.
        """
        if self._lifeline is not None:
            self._lifeline.stop()
            self._lifeline = None
            self._pid_file.unlink(missing_ok=True)
        self._lock.release()

    def destroy(self) -> None:
        """Stop the server and remove all it has on disk."""
        self.stop()
        shutil.rmtree(self.state_dir)

    def __enter__(self) -> "TemporalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _pid_file(self) -> Path:
        return self.state_dir / "temporal.pid"

    @property
    def _database(self) -> Path:
        return self.state_dir / DATABASE

    def _stop_leftover(self) -> None:
        """Stop a server that outlived its owner and its lifeline: two on one file would ruin each other's work."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        stop_leftover(pid, str(self.state_dir), grace=STOP_SECONDS, stop=signal.SIGTERM)

    def _start_on(self, port: int | None, ui_port: int | None) -> None:
        # A port that was free may be taken meanwhile, by another start beside us for one.
        for attempt in range(5):
            chosen, chosen_ui = preferred_or_free(port), preferred_or_free(ui_port)
            start = self.log.stat().st_size if self.log.exists() else 0
            try:
                self._launch(chosen, chosen_ui)
                return
            except LocalServerError:
                # Not its last words: it tells of the port first, then ends in a panic with a long trace (seen).
                if b"address already in use" not in self.log.read_bytes()[start:] or attempt == 4:
                    raise

    def _launch(self, port: int, ui_port: int) -> None:
        self.port, self._ui_port, self._http_port = port, ui_port, free_port()
        command = [str(temporal_binary()), "server", "start-dev", "--ip", LOOPBACK, "--port", str(port)]
        command += ["--http-port", str(self._http_port), "--namespace", self.namespace, "--log-level", "error"]
        command += ["--ui-port", str(ui_port), "--ui-disable-news-fetch"] if self._ui else ["--headless"]
        for name, kind in self._search_attributes.items():
            command += ["--search-attribute", f"{name}={kind}"]
        for key, value in self._dynamic_config.items():
            command += ["--dynamic-config-value", f"{key}={value}"]
        if self._persistent:
            command += ["--db-filename", str(self._database)]
        start = self.log.stat().st_size if self.log.exists() else 0
        lifeline = Lifeline.start(
            "The Temporal server",
            command,
            log=self.log,
            # It would ask Temporal's own site for newer versions.
            environment={**clean_environment(self.state_dir), "TEMPORAL_VERSION_CHECK_DISABLED": "1"},
            grace=STOP_SECONDS,
            stop=signal.SIGTERM,
            last_resort=signal.SIGKILL,
        )
        self._pid_file.write_text(str(lifeline.server_pid))
        deadline = time.monotonic() + START_SECONDS
        while lifeline.alive and time.monotonic() < deadline:
            if self._is_ready():
                self._lifeline = lifeline
                self._say_whose()
                return
            time.sleep(0.03)
        lifeline.stop()
        raise LocalServerError(
            f"The Temporal server does not start on port {port}:\n{tail(self.log, start=start)}",
            hint=f"its log is {self.log}",
        )

    def _say_whose(self) -> None:
        """Let the namespace say whose server this is; where that fails, commands elsewhere just can't tell."""
        body = {"updateInfo": {"data": {FOLDER_KEY: str(self.state_dir)}}}
        _ask(self._http_port, "POST", f"/api/v1/namespaces/{self.namespace}/update", json.dumps(body))

    def _is_ready(self) -> bool:
        """Whether it serves the namespace, its search attributes and the Web UI."""
        found = _get(self._http_port, f"/api/v1/namespaces/{self.namespace}/search-attributes")
        if found is None:
            return False
        known = json.loads(found)["customAttributes"]
        if not known.keys() >= self._search_attributes.keys():
            return False
        # The Web UI serves its pages before it reaches the service behind them: it answered 503 (seen).
        return not self._ui or _get(self._ui_port, f"/api/v1/namespaces/{self.namespace}") is not None


def has_kept(state_dir: Path) -> bool:
    """Whether a server has kept runs in `state_dir`, be it up or not."""
    return (state_dir / DATABASE).exists()


def _get(port: int, path: str) -> bytes | None:
    return _ask(port, "GET", path)


def _ask(port: int, method: str, path: str, body: str | None = None) -> bytes | None:
    """The body of an answer 200, or None. Not by urllib, which would ask a proxy."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return said if answer.status == 200 else None
