"""A server as the child of a lifeline: it cannot outlive the process that started it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from knarr.local.account import Account
from knarr.local.errors import LocalServerError

PROGRAM: Final = Path(__file__).with_name("lifeline_process.py")


class Lifeline:
    """One running server. Stopping it, or our death, ends the server."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], server_pid: int, grace: float) -> None:
        self.name = name
        self.server_pid = server_pid
        self._process = process
        self._grace = grace

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: dict[str, str],
        account: Account | None = None,
        grace: float = 10.0,
        stop: signal.Signals = signal.SIGINT,
        last_resort: signal.Signals = signal.SIGQUIT,
    ) -> "Lifeline":
        """Start `command` under a lifeline; its output is appended to `log`.

        Args:
            name: what the server is called in messages.
            command: the server's program and arguments, in the foreground.
            log: opened by us, so the account need not reach it.
            environment: the server's whole environment.
            account: whom the server runs as, or None for ourselves.
            grace: seconds between `stop` and `last_resort`.
            stop: the signal that asks the server to end well.
            last_resort: the signal that ends it anyway.

        Raises:
            LocalServerError: the program could not be executed.
        """
        orders = {
            "grace": grace,
            "stop": int(stop),
            "last": int(last_resort),
            "account": None if account is None else [account.uid, account.gid],
        }
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), json.dumps(orders), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd="/",
                env=environment,
                start_new_session=True,  # a group of its own: Ctrl-C in the terminal is ours alone to answer
            )
        assert process.stdout is not None
        with process.stdout as pipe:
            line = pipe.readline()
        if not line.strip():
            _let_go(process)
            process.wait()
            raise LocalServerError(f"{name} could not be executed:\n{tail(log)}", hint=f"its log is {log}")
        return cls(name, process, int(line), grace)

    @property
    def alive(self) -> bool:
        """Whether the server still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Stop the server by the same path as our death would; returns when it has ended. Twice is once.

        Raises:
            LocalServerError: it did not end, even by the signal of last resort.
        """
        _let_go(self._process)
        self.wait(self._grace + 20)

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal, if it still runs."""
        # While the lifeline lives it has not collected its child, so the pid cannot have gone to another process.
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server_pid, number)

    def wait(self, timeout: float) -> int:
        """The server's exit code, modulo 256, once it has ended.

        Raises:
            LocalServerError: it has not ended after `timeout` seconds.
        """
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LocalServerError(
                f"{self.name} (pid {self.server_pid}) has not ended after {timeout:.0f} s.",
                hint=f"look what it does (ps, its log), then end it: kill {self.server_pid}",
            ) from None
        _let_go(self._process)
        return code


def _let_go(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()


def stop_leftover(
    pid: int, marker: str, *, grace: float, stop: signal.Signals, last_resort: signal.Signals = signal.SIGKILL
) -> bool:
    """End a server that outlived both its owner and its lifeline, if `pid` is still that server.

    Args:
        pid: the pid it had; it may be another program's by now, which is left alone.
        marker: a part of its command line that no other program has, such as the path of its data.
        grace: seconds between `stop` and `last_resort`.
        stop: the signal that asks the server to end well.
        last_resort: the signal that ends it anyway.

    Returns:
        Whether there was one.

    Raises:
        LocalServerError: it did not end.
    """
    if marker not in command_line(pid):
        return False
    for number in (stop, last_resort):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            if marker not in command_line(pid):
                return True
            time.sleep(0.02)
    raise LocalServerError(
        f"A server that an earlier process left (pid {pid}, {marker}) does not end.",
        hint=f"look what it does (ps), then end it: kill -9 {pid}",
    )


def command_line(pid: int) -> str:
    """The command line of a running process, or nothing when there is none (a zombie has none either)."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    found = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def tail(log: Path, *, lines: int = 20, start: int = 0) -> str:
    """The last lines of a log, from byte `start` on."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:])
