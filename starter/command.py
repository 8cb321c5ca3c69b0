"""What every command has in common: --json, --debug, its own event loop, errors as text and exit codes."""

import functools
import signal
from collections.abc import Callable, Coroutine
from typing import Concatenate, ParamSpec, TypeVar

import click

from starter.exits import Exit
from starter.output import Output

P = ParamSpec("P")
T = TypeVar("T")


def common(body: Callable[Concatenate[Output, P], Coroutine[None, None, Exit]]) -> Callable[..., Exit]:
    """Turn an async body into a click callback with --json and --debug; every exception becomes an exit code."""

    @functools.wraps(body)
    def callback(*args: P.args, **kwargs: P.kwargs) -> Exit:
        import asyncio  # 40 ms; not for --help

        output = Output(as_json=bool(kwargs.pop("as_json")), debug=bool(kwargs.pop("debug")))
        try:
            return asyncio.run(_until_told(body(output, *args, **kwargs)))
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, asyncio.CancelledError):
            output.error(Exit.DETACHED, "interrupted", "", [])
            return Exit.DETACHED
        except Exception as error:
            from starter.failures import explain  # imports what --help must not

            if output.debug:
                import traceback

                traceback.print_exception(error)
            complaint = explain(error)
            output.error(complaint.exit_code, complaint.message, complaint.hint, complaint.problems)
            return complaint.exit_code

    with_debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")(callback)
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(with_debug)


async def _until_told(body: Coroutine[None, None, Exit]) -> Exit:
    """Let SIGTERM do what Ctrl-C does: cancel the body, which tidies up and says how it ended."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await body
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


run_argument = click.argument("run", metavar="RUN")
plan_argument = click.argument("plan", metavar="PLAN", type=click.Path(dir_okay=False))


def confirmed(output: Output, question: str, *, yes: bool) -> None:
    """Ask before something that can't be taken back lightly.

    Raises:
        StarterError: exit 6; the answer was no, or there is no terminal to ask on and --yes was not given.
    """
    from starter.failures import StarterError

    if yes:
        return
    if not output.interactive:
        raise StarterError(
            Exit.UNCONFIRMED, f"{question} There is no terminal to ask on.", hint="say --yes if that is what you want"
        )
    if not click.confirm(question, err=True):
        raise StarterError(Exit.UNCONFIRMED, "not confirmed; nothing was done")
