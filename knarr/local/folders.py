"""Folders that the service account can reach, when our own is closed to it (a home of mode 0700, and we are root).

A stand-in lives in a world-readable place under a name derived from the folder it stands in for, and holds a file
`origin` that names that folder; when the folder is gone, the next start sweeps its stand-in away. Folders that are not
ours are never opened up.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from knarr.local.account import Account, run_options
from knarr.local.errors import LocalServerError

# Where one may live, best first: /var/tmp survives a reboot, /dev/shm and /opt serve where the others are noexec.
BASES: Final = (Path("/var/tmp"), Path("/tmp"), Path("/dev/shm"), Path("/opt"))
PREFIX: Final = "knarr-"
ORIGIN: Final = "origin"


def server_folder(state_dir: Path, account: Account | None) -> Path:
    """The folder for a server's data: `state_dir/server` where the account can write there, else a stand-in's.

    Raises:
        LocalServerError: no place can be written by the account.
    """
    own = state_dir / "server"
    own.mkdir(mode=0o700, exist_ok=True)
    if account is None:
        return own
    os.chown(own, account.uid, account.gid)
    if _can_write(own, account):
        return own
    own.rmdir()
    sweep()
    for base in BASES:
        with contextlib.suppress(OSError):
            stand_in = make_stand_in(base, "data", state_dir, str(state_dir))
            if stand_in is None:
                continue
            folder = stand_in / "server"
            folder.mkdir(mode=0o700, exist_ok=True)
            os.chown(folder, account.uid, account.gid)
            if _can_write(folder, account):
                return folder
    raise LocalServerError(
        f"Running as root, PostgreSQL runs as '{account.name}', which can write neither below {state_dir} "
        f"nor in any of {', '.join(map(str, BASES))}.",
        hint=f"choose a state folder that '{account.name}' can reach (KNARR_STATE_DIR), or run as another user",
    )


def make_stand_in(base: Path, kind: str, origin: Path, identity: str) -> Path | None:
    """The stand-in for `origin` in `base`, made if it is not there; None when somebody else's is in its place."""
    path = base / f"{PREFIX}{kind}-{os.getuid()}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    path.mkdir(mode=0o711, exist_ok=True)
    if not _is_ours(path):
        return None
    path.chmod(0o711)
    (path / ORIGIN).write_text(str(origin))
    return path


def stand_ins_of(kind: str, origin: Path) -> list[Path]:
    """The stand-ins of ours that stand in for `origin`."""
    return [path for path, named in _stand_ins() if named == origin and path.name.startswith(f"{PREFIX}{kind}-")]


def sweep() -> None:
    """Remove the stand-ins whose origin is gone, unless a server still runs in one."""
    for path, origin in _stand_ins():
        # A missing parent may be a volume that is not mounted now: what stands in for it stays.
        if not origin.exists() and origin.parent.exists() and not _has_server(path):
            shutil.rmtree(path, ignore_errors=True)


def _stand_ins() -> Iterator[tuple[Path, Path]]:
    for base in BASES:
        for path in base.glob(f"{PREFIX}*-{os.getuid()}-*"):
            if _is_ours(path):
                with contextlib.suppress(OSError):
                    yield path, Path((path / ORIGIN).read_text())


def _has_server(path: Path) -> bool:
    for pid_file in path.glob("server/*/postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(int(pid_file.read_text().splitlines()[0]), 0)
            return True
    return False


def _is_ours(path: Path) -> bool:
    # lstat: in a world-writable place a link of another user's could lead anywhere.
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _can_write(folder: Path, account: Account) -> bool:
    # Asking the account itself beats reading modes: ACLs, mounts and SELinux have their say too.
    probe = ["/bin/sh", "-c", 'test -w "$1" && test -x "$1"', "sh", str(folder)]
    return subprocess.run(probe, check=False, **run_options(account, Path("/"))).returncode == 0
