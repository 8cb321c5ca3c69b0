"""The account that runs PostgreSQL, which refuses to run as root."""

import os
import pwd
import subprocess
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from knarr.local.errors import LocalServerError

# An account of the passwd database is needed, a bare number will not do: initdb looks its own uid up there.
CANDIDATES: Final = ("postgres", "nobody")


class Account(NamedTuple):
    """Whom a server runs as."""

    name: str
    uid: int
    gid: int


class RunOptions(TypedDict, total=False):
    """The arguments of `subprocess` that make a child run as an account, with an environment of ours."""

    cwd: str
    env: dict[str, str]
    user: int
    group: int
    extra_groups: list[int]


def service_account() -> Account | None:
    """The account to drop to, or None to run as ourselves (we are not root).

    Raises:
        LocalServerError: we are root and there is no account to drop to, or root may not drop here.
    """
    if os.geteuid() != 0:
        return None
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        account = Account(name, entry.pw_uid, entry.pw_gid)
        _prove_that_we_can_become(account)
        return account
    raise LocalServerError(
        f"PostgreSQL refuses to run as root, and none of the accounts {', '.join(CANDIDATES)} is there to run it.",
        hint="create one (useradd --system postgres), or run as another user than root",
    )


def run_options(account: Account | None, home: Path) -> RunOptions:
    """How to run a child as `account`; it starts in `/`, for the folder we are in may be closed to it."""
    options = RunOptions(cwd="/", env=clean_environment(home))
    if account is not None:
        options.update(RunOptions(user=account.uid, group=account.gid, extra_groups=[]))
    return options


def clean_environment(home: Path) -> dict[str, str]:
    """Our environment without what would steer a server or libpq: a developer's PGHOST must not leak in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "TEMPORAL_"))}
    return {**kept, "HOME": str(home), "LC_ALL": "C", "PGPASSFILE": os.devnull}


def _prove_that_we_can_become(account: Account) -> None:
    # A container may take CAP_SETUID from root; every later step would fail with a bare "Operation not permitted".
    try:
        subprocess.run(["/bin/sh", "-c", ":"], check=True, **run_options(account, Path("/")))
    except OSError as error:
        raise LocalServerError(
            f"PostgreSQL refuses to run as root, and this root may not become '{account.name}' ({error.strerror}): "
            "a container without CAP_SETUID and CAP_SETGID does that.",
            hint="run as another user (docker run --user), or name running servers by KNARR_CONNECTION_<ALIAS>",
        ) from error
