"""What the Web UI shows of a question to a person: what was found, and every statement and command to be copied."""

import re
import textwrap
from typing import Final

WIDTH: Final = 88
LONGEST: Final = 1_000
LEFT_OUT: Final = "(this query: knarr status)"

# Statements within a message. A decision answers; the other queries look, and end where the hint goes on.
# A quote that is doubled within quotes reads as the end of one text and the beginning of the next, which is the same.
_DECIDES: Final = r"SELECT knarr\.decide\((?:'[^']*'|[^'()])*\)"
_LOOKS: Final = r"SELECT (?:'[^']*'|\"[^\"]*\"|[^'\";\n])+?(?=; |\. |, and retry|\n|$)"
_STATEMENT: Final = re.compile(f"({_DECIDES}|{_LOOKS})")
_COMMAND: Final = re.compile(r"`([^`]+)`")


def asked(message: str, waiting_for: str) -> str:
    """A code block: there the Web UI turns no quote into a curly one, and nothing that a row holds is markup.

    Statements and commands stand on lines of their own, whole: of what is too long the queries that look go first, and
    then the end of what was found.
    """
    parts = [part for part in _STATEMENT.split(message.replace("```", "'''")) if part.strip()]
    commands = [f"  {command}" for command in _COMMAND.findall(waiting_for)]
    if _length(parts, commands) > LONGEST:
        parts = [LEFT_OUT if _looks(part) else part for part in parts]
    for place, part in enumerate(parts):
        if (over := _length(parts, commands) - LONGEST) > 0 and not part.startswith("SELECT "):
            parts[place] = part[: max(0, len(part) - over - 2)] + "…"
    return "\n".join(["```", *_lines(parts), *commands, "```"])


def _looks(part: str) -> bool:
    return part.startswith("SELECT ") and not re.match(_DECIDES, part)


def _length(parts: list[str], commands: list[str]) -> int:
    return len("\n".join([*_lines(parts), *commands]))


def _lines(parts: list[str]) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if part.startswith("SELECT "):
            lines.append(f"  {part}")
            continue
        # What follows a statement begins with the mark that ended it.
        for line in part.lstrip(" ;.,").splitlines():
            lines += textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
    return lines
