"""A server under a lifeline ends when its owner does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knarr.local.errors import LocalServerError
from knarr.local.lifeline import Lifeline, command_line, stop_leftover, tail
from tests.servers import next_line, python, wait_until_gone

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(300)"]
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"


def start(tmp_path: Path, command: list[str], grace: float = 5) -> Lifeline:
    log = tmp_path / "log"
    lifeline = Lifeline.start("The sleeper", command, log=log, environment=dict(os.environ), grace=grace)
    wait_for(lambda: "up" in log.read_text())
    return lifeline


def wait_for(fact: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[str]]:
    with python("import time; time.sleep(300)") as process:
        yield process


def test_stop_ends_the_server(tmp_path: Path) -> None:
    lifeline = start(tmp_path, SLEEPER)
    assert lifeline.alive
    lifeline.stop()
    assert command_line(lifeline.server_pid) == ""
    lifeline.stop()


def test_a_server_that_ignores_the_polite_signal_is_ended_by_the_other(tmp_path: Path) -> None:
    lifeline = start(tmp_path, [sys.executable, "-c", DEAF], grace=0.2)
    lifeline.stop()
    assert command_line(lifeline.server_pid) == ""


def test_a_killed_owner_takes_its_server_along(tmp_path: Path) -> None:
    owner_script = (
        "import os, sys, time; from pathlib import Path; from knarr.local.lifeline import Lifeline\n"
        f"line = Lifeline.start('it', {SLEEPER!r}, log=Path({str(tmp_path / 'log')!r}), environment=dict(os.environ))\n"
        "print(line.server_pid, flush=True); time.sleep(300)"
    )
    with python(owner_script) as owner:
        pid = int(next_line(owner))
        wait_for(lambda: "time.sleep" in command_line(pid))
        owner.send_signal(signal.SIGKILL)
        wait_until_gone(pid)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    lifeline = start(tmp_path, SLEEPER)
    assert os.getsid(lifeline.server_pid) != os.getsid(0)
    assert os.getpgid(lifeline.server_pid) != os.getpgid(0)
    lifeline.stop()


def test_a_program_that_is_not_there_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(LocalServerError, match=r"The sleeper could not be executed(.|\n)*/no/such/program"):
        Lifeline.start("The sleeper", ["/no/such/program"], log=tmp_path / "log", environment={})


def test_the_exit_code_of_a_server_that_ends_at_once_comes_through(tmp_path: Path) -> None:
    for _ in range(20):  # it once ended before its pid was told, and passed for a program that is not there
        lifeline = Lifeline.start("It", ["/bin/sh", "-c", "exit 7"], log=tmp_path / "log", environment={})
        assert lifeline.wait(10) == 7


def test_a_leftover_is_ended(stranger: subprocess.Popen[str]) -> None:
    wait_for(lambda: "time.sleep" in command_line(stranger.pid))
    assert stop_leftover(stranger.pid, "time.sleep(300)", grace=5, stop=signal.SIGTERM)
    assert stranger.wait(5) == -signal.SIGTERM


def test_a_stranger_that_got_a_leftovers_pid_is_left_alone(stranger: subprocess.Popen[str]) -> None:
    assert not stop_leftover(stranger.pid, "/some/state/folder", grace=1, stop=signal.SIGTERM)
    assert stranger.poll() is None


def test_the_tail_of_a_log_begins_where_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n" + "".join(f"{n}\n" for n in range(30)))
    assert tail(log, start=4, lines=2) == "28\n29"
    assert "old" not in tail(log, start=4, lines=100)
    assert "cannot be read" in tail(tmp_path / "absent")
