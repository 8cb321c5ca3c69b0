"""Small file systems that can be filled: for a target's tables, and for a whole server's write-ahead log."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from knarr.local.account import service_account
from knarr.local.cluster import Cluster
from tests.servers import new_folder

FULL: Final = b"No space left on device"


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = folder
        self.place = place

    def grow(self, size: str) -> None:
        """Changes how much fits."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leaves no byte free."""
        number = os.open(self.folder / "filler", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(number, bytes(4096))
        except OSError:
            return
        finally:
            os.close(number)

    def empty(self) -> None:
        """Takes the filler away."""
        (self.folder / "filler").unlink(missing_ok=True)


class Tablespace(Disk):
    """A small disk with a tablespace that a database makes its tables in."""

    def __init__(self, disk: Disk, server: Cluster, name: str) -> None:
        super().__init__(disk.folder, disk.place)
        self._server = server
        self._name = name

    def use(self, database: str) -> None:
        """From now on the database's new tables go here."""
        self._server.psql(f"ALTER DATABASE {database} SET default_tablespace = '{self._name}';")


@contextmanager
def mounted(size: str) -> Iterator[Disk | str]:
    """A disk of this size with a place that the servers' account owns, or the reason why this machine gives none."""
    folder = new_folder() / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        folder.rmdir()
        folder.parent.rmdir()
        yield f"mounting a tmpfs is refused ({done.stderr.strip()})"
        return
    try:
        place = folder / "space"
        place.mkdir(mode=0o700)
        if account := service_account():
            os.chown(place, account.uid, account.gid)
        yield Disk(folder, place)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()
        folder.parent.rmdir()


@contextmanager
def small_disk(server: Cluster, name: str, size: str) -> Iterator[Tablespace | str]:
    """A disk of this size with a tablespace on it, or the reason why this machine gives none."""
    with mounted(size) as disk:
        if isinstance(disk, str):
            yield disk
            return
        server.psql(f"CREATE TABLESPACE {name} LOCATION '{disk.place}';")
        try:
            yield Tablespace(disk, server, name)
        finally:
            server.psql(f"DROP TABLESPACE {name};")


def move_wal(data: Path, disk: Disk) -> None:
    """Moves the write-ahead log of a server that is stopped to the disk, as an administrator would."""
    wal = data / "pg_wal"
    shutil.copytree(wal, disk.place, dirs_exist_ok=True)
    shutil.rmtree(wal)
    wal.symlink_to(disk.place)
    if account := service_account():
        os.chown(wal, account.uid, account.gid, follow_symlinks=False)
        for path in disk.place.rglob("*"):
            os.chown(path, account.uid, account.gid)


async def until_full(server: Cluster, said: bytes = FULL) -> None:
    """Waits until the server has said, after this moment, that its disk is full (or something else)."""
    start = len(server.log.read_bytes())
    async with asyncio.timeout(60):
        while said not in server.log.read_bytes()[start:]:
            await asyncio.sleep(0.1)
