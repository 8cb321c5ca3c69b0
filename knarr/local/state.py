"""The state folder (`.knarr/`): who runs the embedded servers of this folder, and where they are to be found."""

import os
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knarr.local.errors import LocalServerError
from knarr.local.owner import FolderLock, is_owned

STATE_FILE: Final = "local.json"
QUEUE_FILE: Final = "task-queue"
TEMPORAL_FOLDER: Final = "temporal"  # of the Temporal server, in the state folder


class LocalServers(BaseModel):
    """What runs here. Holds passwords of servers that listen on the loopback interface: the file has mode 0600."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner_pid: int = Field(default_factory=os.getpid)
    started_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    temporal_address: str | None = None  # host:port of the gRPC service
    temporal_namespace: str = "default"
    temporal_ui_url: str | None = None
    task_queue: str = "knarr"
    connections: dict[str, str] = Field(default_factory=dict, repr=False)  # alias -> DSN


class StateFolder:
    """The state folder, owned by this process until `close`."""

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def own(cls, path: Path) -> "StateFolder":
        """Own the folder `path`; it is made if it is not there.

        Raises:
            LocalServerError: another process owns it, or it cannot be made.
        """
        path = path.resolve()
        try:
            # 0711: the service account must pass through to its servers' folders; it can list nothing.
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            lock = FolderLock.take(path, "The state folder")
        except OSError as error:
            raise LocalServerError(
                f"The state folder {path} cannot be used: {error.strerror}.",
                hint="choose another with KNARR_STATE_DIR",
            ) from error
        (path / STATE_FILE).unlink(missing_ok=True)  # a dead owner's
        return cls(path, lock)

    def task_queue(self) -> str:
        """The task queue of this folder's runs, the same for ever.

        No two folders share one: a worker that outlives its server by a moment may find another folder's server on
        the same port, and must not be given that one's work.
        """
        file = self.path / QUEUE_FILE
        try:
            return file.read_text().strip()
        except FileNotFoundError:
            name = f"knarr-{secrets.token_hex(4)}"
            file.write_text(name + "\n")
            return name

    def publish(self, servers: LocalServers) -> None:
        """Tell other commands what runs. A reader sees the old record or the new one, never half of one."""
        with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=".local-", delete=False) as file:
            file.write(servers.model_dump_json(indent=2) + "\n")
        Path(file.name).replace(self.path / STATE_FILE)  # NamedTemporaryFile made it 0600

    def close(self) -> None:
        """Take the record away and give the folder up."""
        (self.path / STATE_FILE).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> "StateFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def running(path: Path) -> LocalServers | None:
    """What a living owner runs in the state folder `path`, or None.

    A record that its owner left when it was killed is not believed: the lock tells whether the owner lives.

    Raises:
        LocalServerError: the record cannot be read.
    """
    file = path / STATE_FILE
    if not is_owned(path):
        return None
    try:
        return LocalServers.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None  # its owner is still starting, or stopping
    except OSError as error:
        raise LocalServerError(
            f"{file} cannot be read: {error.strerror}.", hint="run as the user who owns it"
        ) from error
    except ValidationError as error:
        # Not `str(error)`: it quotes the input, which holds passwords.
        raise LocalServerError(
            f"{file} is not a record of this version of Knarr ({error.error_count()} fields differ).",
            hint="stop the process that owns the folder, then start it again",
        ) from None
