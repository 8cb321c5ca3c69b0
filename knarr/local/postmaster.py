"""What postmaster.pid tells: whether a server is ready, and which one an earlier process left."""

import signal
import time
from pathlib import Path

from knarr.local.lifeline import Lifeline, command_line, stop_leftover


def stop_leftover_server(data: Path, grace: float) -> None:
    """Stop a server that outlived its owner and its lifeline.

    Not by `pg_ctl stop`: it signals the pid of postmaster.pid, whoever that is by now.
    """
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    if stop_leftover(pid, str(data), grace=grace, stop=signal.SIGINT, last_resort=signal.SIGQUIT):
        return
    if command_line(pid):
        # After a reboot the pid is another program's. If that runs as the same account, PostgreSQL takes it for a
        # server and refuses to start; the lock that we hold says that there is none.
        file.unlink(missing_ok=True)


def wait_until_ready(data: Path, lifeline: Lifeline, deadline: float) -> bool:
    """Whether the server came to accept connections before `deadline` (of `time.monotonic`), or ended."""
    while time.monotonic() < deadline and lifeline.alive:
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
        except OSError:
            lines = []
        # Line 1 is the pid, line 8 the state; a stale file says "ready" too, so the pid must be ours.
        if len(lines) > 7 and lines[0].strip() == str(lifeline.server_pid) and lines[7].strip() == "ready":
            return True
        time.sleep(0.02)
    return False
