"""One owner per folder: a lock that the kernel frees however its owner ends."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from knarr.local.errors import LocalServerError

LOCK_FILE: Final = "owner.lock"
# Who looks whether a folder is owned holds its lock for an instant; an owner is patient with that.
PATIENCE_SECONDS: Final = 0.5


class FolderLock:
    """Held while this process owns a folder. The descriptor is not inherited by programs we start."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, folder: Path, what: str) -> "FolderLock":
        """Own `folder`, which exists.

        Args:
            folder: the folder to own.
            what: what it holds, for the message, such as "the PostgreSQL server of".

        Raises:
            LocalServerError: another process owns it; the message names that process.
        """
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    owner = os.read(descriptor, 32).decode(errors="replace").strip()
                    os.close(descriptor)
                    raise LocalServerError(
                        f"{what} {folder} belongs to another process" + (f", pid {owner}." if owner else "."),
                        hint="use what it runs, stop it, or choose another folder (KNARR_STATE_DIR)",
                    ) from None
                time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return cls(folder, descriptor)

    def release(self) -> None:
        """Give the folder up; twice is once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_owned(folder: Path) -> bool:
    """Whether a living process owns `folder`."""
    with _opened(folder / LOCK_FILE) as descriptor:
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
