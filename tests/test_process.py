"""The way out of a process: codes, flushed output, no finalising interpreter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PREAMBLE = "import asyncio, logging, os, sys\nfrom knarr.process import run_and_exit\n"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + program], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_code_that_main_returns_is_the_exit_code() -> None:
    assert run("run_and_exit(lambda: 21)").returncode == 21


def test_a_coroutine_is_run_to_its_end() -> None:
    done = run("async def main():\n    await asyncio.sleep(0)\n    print('moved')\n    return 10\nrun_and_exit(main())")
    assert (done.returncode, done.stdout) == (10, "moved\n")


def test_output_without_a_newline_is_not_lost_in_a_pipe() -> None:
    done = run(
        "def main():\n    sys.stdout.write('x' * 100_000)\n    sys.stderr.write('y')\n    return 0\nrun_and_exit(main)"
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 100_000, "y")


def test_a_log_record_held_in_memory_is_flushed() -> None:
    program = """
import logging.handlers
shown = logging.StreamHandler(sys.stderr)
logging.getLogger().addHandler(logging.handlers.MemoryHandler(100, target=shown, flushLevel=logging.CRITICAL))
def main():
    logging.warning("kept until now")
    return 0
run_and_exit(main)
"""
    assert run(program).stderr == "kept until now\n"


def test_an_unexpected_error_shows_its_traceback_and_ends_with_one() -> None:
    done = run("def main():\n    raise ValueError('no such mast')\nrun_and_exit(main)")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ValueError: no such mast")


def test_system_exit_keeps_its_meaning() -> None:
    assert run("run_and_exit(lambda: sys.exit(5))").returncode == 5
    assert run("run_and_exit(lambda: sys.exit())").returncode == 0
    said = run("run_and_exit(lambda: sys.exit('no plan'))")
    assert (said.returncode, said.stderr) == (1, "no plan\n")


def test_atexit_and_waiting_threads_cannot_hold_the_process_or_change_its_code() -> None:
    program = """
import atexit, threading
atexit.register(lambda: os._exit(99))
threading.Thread(target=threading.Event().wait).start()
run_and_exit(lambda: 0)
"""
    assert run(program).returncode == 0


def test_ctrl_c_ends_with_130_in_a_function_and_in_a_coroutine(tmp_path: Path) -> None:
    for number, main in enumerate(
        ("def main():\n    ready()\n    time.sleep(30)", "async def main():\n    ready()\n    await asyncio.sleep(30)")
    ):
        mark = tmp_path / f"ready-{number}"
        call = "main()" if main.startswith("async") else "main"
        program = (
            f"import pathlib, time\ndef ready(): pathlib.Path({str(mark)!r}).touch()\n{main}\nrun_and_exit({call})"
        )
        # A shell's background job ignores SIGINT; a fresh session does not.
        process = subprocess.Popen([sys.executable, "-c", PREAMBLE + program], start_new_session=True)
        deadline = time.monotonic() + 30
        while not mark.exists():
            assert time.monotonic() < deadline, "the program did not start"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_result_that_nobody_could_read_is_no_success() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = "def main():\n    sys.stdout.write('x')\n    return 0\nrun_and_exit(main)"
    process = subprocess.Popen([sys.executable, "-c", PREAMBLE + program], stdout=writing, stderr=subprocess.DEVNULL)
    os.close(writing)
    assert process.wait(30) == 1


def test_a_main_that_returns_nothing_has_succeeded() -> None:
    assert run("run_and_exit(lambda: None)").returncode == 0
