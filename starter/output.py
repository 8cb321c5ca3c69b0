"""What a command prints: results on stdout, everything else on stderr, one JSON document when asked."""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from starter.exits import Exit

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import Console
    from rich.text import Text

SCHEMA_VERSION: Final = 1


class Output:
    """Where a command's words go.

    With `as_json`, stdout gets exactly one document and `result` prints nothing; `say` always goes to stderr.
    """

    def __init__(self, *, as_json: bool, debug: bool) -> None:
        self.as_json: Final = as_json
        self.debug: Final = debug
        self._out: Console | None = None
        self._err: Console | None = None
        self._said: bool = False

    @property
    def out(self) -> "Console":
        """rich console on stdout; colours only on a terminal, never with NO_COLOR."""
        if self._out is None:
            self._out = _console(stderr=False)
        return self._out

    @property
    def err(self) -> "Console":
        """rich console on stderr."""
        if self._err is None:
            self._err = _console(stderr=True)
        return self._err

    @property
    def interactive(self) -> bool:
        """A person is there: progress can be redrawn and questions can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A line for people about what is going on."""
        self.err.print(_harmless(text), markup=False, highlight=False, soft_wrap=True)

    def _say_after(self, word: str, style: str, text: str) -> None:
        from rich.text import Text

        line = Text.assemble((word, style), f" {_harmless(text)}")
        self.err.print(line, highlight=False, soft_wrap=True)

    def result(self, renderable: object) -> None:
        """A result for people: text or anything rich can draw. Silent with --json."""
        if self.as_json:
            return
        if isinstance(renderable, str):
            self.out.print(_harmless(renderable), markup=False, highlight=False, soft_wrap=True)
        else:
            self.out.print(renderable)

    def document(self, kind: str, body: "Mapping[str, JsonValue]") -> None:
        """The one JSON document of a command; silent without --json.

        Raises:
            RuntimeError: a second document would follow the first.
        """
        if not self.as_json:
            return
        if self._said:
            raise RuntimeError(f"a second JSON document ({kind}) would follow the first on stdout")
        self._said = True
        sys.stdout.write(json.dumps({"schema_version": SCHEMA_VERSION, "kind": kind, **body}, indent=2) + "\n")
        sys.stdout.flush()

    def error(self, exit_code: Exit, message: str, hint: str, problems: list[str]) -> None:
        """What went wrong: `error:` and `next:` on stderr, and as the document if none has been printed."""
        for problem in problems:
            self.say(problem)
        self._say_after("error:", "bold red", message)
        if hint:
            self._say_after("next:", "bold cyan", hint)
        if not self._said:
            self.document(
                "error",
                {
                    "exit_code": int(exit_code),
                    "exit_meaning": exit_code.meaning,
                    "error": message,
                    "next": hint,
                    "problems": list(problems),
                },
            )


def plain(text: str, style: str = "") -> "Text":
    """Foreign text for a table or a screen: not read as markup, and without characters that act on a terminal."""
    from rich.text import Text

    return Text(_harmless(text), style=style)


def _harmless(text: str) -> str:
    """The text without characters that act on a terminal: messages may quote what stands in somebody's rows."""
    from knarr.telemetry.acting import spelled_out

    return spelled_out(text)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console  # 47 ms; not for --help

    console = Console(stderr=stderr)
    if not console.is_terminal:
        # Without a terminal rich falls back to 80 columns and cuts tables that go to a file or a pipe.
        console = Console(stderr=stderr, width=140)
    return console
