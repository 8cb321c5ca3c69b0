"""Help must be quick: nothing heavy is imported for it, and every command can be asked."""

import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from starter.cli import COMMANDS, cli

HEAVY = {
    "asyncio",
    "logging",
    "temporalio",
    "asyncpg",
    "pydantic",
    "pydantic_core",
    "rich",
    "yaml",
    "jinja2",
    "structlog",
}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "starter", *arguments], capture_output=True, text=True, check=True
    )
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert not imported & HEAVY


def test_help_takes_less_than_150_milliseconds() -> None:
    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, and the best of three: what else the machine does is not ours. On a busy one the same work takes
    # more of it too (two threads share a core and its caches), as is seen by Python alone: usually a tenth of --help.
    bare = min(seconds("-c", "pass") for _ in range(3))
    assert min(seconds("-m", "starter", "--help") for _ in range(3)) < max(0.150, 15 * bare)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_json_and_debug(command: str) -> None:
    done = CliRunner().invoke(cli, [command, "--help"])
    assert done.exit_code == 0
    assert "--json" in done.output
    assert "--debug" in done.output


def test_the_commands_are_those_of_the_design() -> None:
    wanted = "check run start status watch pause resume abort rollback complete approve retry skip verify report audit"
    assert set(COMMANDS) >= {*wanted.split(), "list", "up", "worker", "schema", "runbook"}
