"""The group `knarr`: which commands there are, loaded only when they are called."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from knarr import __version__
from starter.exits import Exit
from starter.output import Output

# Command: the module in starter.commands that holds it. --help reads them all, so they import nothing heavy at the top.
SECTIONS: Final[dict[str, dict[str, str]]] = {
    "Prepare": {"doctor": "doctor", "check": "check", "runbook": "runbook", "schema": "schema"},
    "Run": {"run": "run", "start": "start", "watch": "watch", "status": "status", "list": "list"},
    "Operate": {
        "pause": "orders",
        "resume": "orders",
        "approve": "orders",
        "abort": "orders",
        "rollback": "orders",
        "complete": "orders",
        "retry": "orders",
        "skip": "orders",
    },
    "Prove": {"verify": "verify", "report": "report", "audit": "audit"},
    "Serve": {"up": "up", "worker": "worker"},
}
COMMANDS: Final[dict[str, str]] = {name: module for section in SECTIONS.values() for name, module in section.items()}


class Knarr(click.Group):
    """A group that imports a command's module when it is needed, and ends with our exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"starter.commands.{COMMANDS[cmd_name]}")
        command = getattr(module, "list_" if cmd_name == "list" else cmd_name)
        assert isinstance(command, click.Command), f"{cmd_name} in {module.__name__} is not a command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # click looks for what was meant among the commands that it holds, and ours are not loaded yet.
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            rows = []
            for name in section:
                command = self.get_command(ctx, name)
                assert command is not None
                rows.append((name, command.get_short_help_str(limit=100)))
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), code.meaning) for code in Exit])

    def main(  # type: ignore[override]  # click's own overloads can't be met by one signature
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: object,
    ) -> int:
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, prog_name or "knarr", complete_var, standalone_mode=False, **extra)
        except click.UsageError as error:
            code = _misused(error, Output(as_json="--json" in arguments, debug=False))
        except click.ClickException as error:
            Output(as_json="--json" in arguments, debug=False).error(Exit.USAGE, error.format_message(), "", [])
            code = Exit.USAGE
        except click.Abort:
            Output(as_json="--json" in arguments, debug=False).error(Exit.UNCONFIRMED, "not confirmed", "", [])
            code = Exit.UNCONFIRMED
        code = int(code or 0)
        if standalone_mode:
            sys.exit(code)
        return code


def _misused(error: click.UsageError, output: Output) -> Exit:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        output.say(error.format_message())
        return Exit.USAGE
    if error.ctx is not None:
        output.say(error.ctx.get_usage())
    path = error.ctx.command_path if error.ctx is not None else "knarr"
    output.error(Exit.USAGE, error.format_message(), f"{path} --help", [])
    return Exit.USAGE


@click.group("knarr", cls=Knarr, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="knarr")
def cli() -> None:
    """Move data from one PostgreSQL database to another, prove it, and be able to take it back.

    Connections are named by alias in the plan: KNARR_CONNECTION_<ALIAS> holds the address (any libpq URL). Temporal is
    found as its own tools find it: TEMPORAL_ADDRESS, TEMPORAL_PROFILE and so on. Every command takes --json.
    """
