"""Makes the data folder of a PostgreSQL server, whole or not at all."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from knarr.local.account import Account, run_options
from knarr.local.binaries import Binaries
from knarr.local.errors import LocalServerError

SUPERUSER: Final = "postgres"


def make_data(binaries: Binaries, account: Account | None, data: Path, password_file: Path, *, durable: bool) -> None:
    """Run initdb into `data`; the superuser's new password goes to `password_file`, which only we can read.

    Raises:
        LocalServerError: initdb failed; its message is quoted.
    """
    password = secrets.token_urlsafe(18)
    # Renamed when it is whole: initdb writes PG_VERSION early, so what a killed initdb leaves would pass for a cluster.
    new = data.with_name(data.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    passing = data.with_name("password.new")
    _write_secret(passing, password, account)
    try:
        done = subprocess.run(
            [
                *(binaries.program("initdb"), "-D", str(new), "-U", SUPERUSER, "-E", "UTF8"),
                # scram, not trust: other users of the machine can reach a loopback port.
                *("--auth=scram-sha-256", f"--pwfile={passing}"),
                *_locale(binaries.major),
                *([] if durable else ["--no-sync"]),
            ],
            capture_output=True,
            text=True,
            check=False,
            **run_options(account, data.parent),
        )
    finally:
        passing.unlink()
    if done.returncode != 0:
        raise LocalServerError(
            f"initdb of PostgreSQL {binaries.version} ({binaries.label}) failed:\n{done.stderr.strip()[-4000:]}",
            hint="is there space on the disk? PG_BIN_DIR names another PostgreSQL",
        )
    _write_secret(password_file, password, None)
    new.rename(data)


def _write_secret(path: Path, text: str, account: Account | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        if account is not None:
            os.fchown(descriptor, account.uid, account.gid)


def _locale(major: int) -> list[str]:
    # The same order of strings everywhere: macOS's libc may lack C.UTF-8, the server's own (since 17) never does.
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]
