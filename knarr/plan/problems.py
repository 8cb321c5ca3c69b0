"""What is wrong with a plan, said so that a person can mend it: refusals, problems, and the nearest known name."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from knarr.errors import PlanError

SHOWN: Final = 50
_CLIP: Final = 60
_SECRET: Final = re.compile(r"(?<=://)\S*(?=@)|(?<=password=)\S+", re.IGNORECASE)
# difflib is quadratic in the length of what it compares; no name of PostgreSQL is longer than 63 bytes.
_LONGEST_COMPARED: Final = 80

YamlPath = tuple[str | int, ...]


class Refusal(PlanError):
    """One text that Knarr does not accept: what was found, what was expected, and what to do, apart from where."""

    def __init__(self, found: str, expected: str, hint: str = "") -> None:
        super().__init__(f"found {found}, expected {expected}", hint=hint)
        self.found = found
        self.expected = expected


class Problem(BaseModel):
    """One thing wrong with a plan. `str()` is one line: file:line: path: found …, expected …. What to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(description="as the caller named it")
    line: int | None = Field(description="1 is the first; None when the file as a whole is meant")
    column: int | None = Field(default=None, description="1 is the first character")
    path: str = Field(description="mappings[2].columns.balance; empty for the file as a whole")
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        path = f"{self.path}: " if self.path else ""
        text = f"{where}: {path}found {self.found}, expected {self.expected}"
        return f"{text}. {self.hint}" if self.hint else text


class PlanProblems(PlanError):
    """The problems of one plan, sorted by line: the first 50, and how many there are. `str()` has one a line.

    Args:
        problems: those to show.
        total: how many there are, if more than are shown.
    """

    def __init__(self, problems: Sequence[Problem], *, total: int | None = None) -> None:
        self.problems: Final[tuple[Problem, ...]] = tuple(problems)
        self.total: Final = len(problems) if total is None else total
        lines = [str(problem) for problem in problems]
        if self.total > len(problems):
            lines.append(f"… and {self.total - len(problems)} more problems; mend these first")
        super().__init__("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem before its place in the file is known; `name` is looked up among `candidates` for a hint."""

    path: YamlPath
    found: str
    expected: str
    hint: str = ""
    name: str | None = None
    candidates: tuple[str, ...] = ()
    line: int | None = None
    column: int | None = None
    absent: bool = False
    """The path names what is missing; otherwise only as much of it is shown as is in the file."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant by `name`, regardless of case; None when none is near."""
    if len(name) > _LONGEST_COMPARED:
        return None
    folded = {candidate.lower(): candidate for candidate in candidates if len(candidate) <= _LONGEST_COMPARED}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A hint such as: Did you mean 'balance'? Empty when no candidate is near."""
    near = nearest(name, candidates)
    return f"Did you mean {quoted(near)}?" if near is not None else ""


def quoted(text: str) -> str:
    """Text as a message shows it: in quotes, on one line, control characters escaped, cut after 60 characters.

    Somebody may have written an address where an alias belongs; its password is not shown.
    """
    safe = _SECRET.sub("…", text)
    shown = safe if len(safe) <= _CLIP else safe[: _CLIP - 1] + "…"
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return f"'{escaped}'"


def describe(value: object) -> str:
    """What YAML made of a value, for a message: 'x', the number 5, true, nothing, a list, a mapping."""
    match value:
        case None:
            return "nothing"
        case "":
            return "an empty text"
        case str():
            return quoted(value)
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a mapping" if value else "an empty mapping"
    return f"a {type(value).__name__}"


def written(path: YamlPath) -> str:
    """A path as people write it: mappings[2].columns.balance, and rules["name is present"] for other keys."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "a").replace("-", "a").isalnum() and len(part) <= _CLIP:
            text += f".{part}" if text else part
        else:
            key = quoted(part)[1:-1].replace('"', '\\"')
            text += f'["{key}"]'
    return text
