"""From a YAML file to a plan, its canonical form and its digest; or to everything that is wrong with it at once."""

import hashlib
import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knarr.plan import rules, wrong_types, yaml_lines
from knarr.plan.draft import Draft, salvage
from knarr.plan.models import FROM_YAML, Plan
from knarr.plan.problems import SHOWN, Fault, PlanProblems, Problem, did_you_mean, nearest, written
from knarr.plan.yaml_lines import Document, Place

LARGEST: Final = 1_000_000


class LoadedPlan(BaseModel):
    """A plan without problems, and what identifies it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    canonical: str = Field(description="the plan as JSON: defaults left out, keys sorted, columns in order")
    digest: str = Field(description="SHA-256 of `canonical`, hex")
    path: Path = Field(description="as the caller named it")


def load_plan(path: Path) -> LoadedPlan:
    """Read a plan from a file.

    Raises:
        PlanProblems: the file can't be read, or everything in it that is wrong, with lines.
    """
    return parse_plan(_read(path), path)


def parse_plan(text: str, path: Path) -> LoadedPlan:
    """Read a plan from text; `path` is what messages call it.

    Raises:
        PlanProblems: everything in it that is wrong, with lines.
    """
    document = yaml_lines.read(text)
    faults = list(document.faults)
    if not document.readable:
        raise _problems(faults, document, text, path)
    plan: Plan | None = None
    uncounted = 0
    try:
        # Only the names that a plan has in YAML: `from`, not `expression`.
        plan = Plan.model_validate(document.data, context=FROM_YAML, by_alias=True, by_name=False)
        draft = Draft.of(plan)
    except ValidationError as error:
        details = error.errors(include_url=False)
        wrong, uncounted = wrong_types.faults(details, document)
        faults += wrong
        draft = salvage(document.data, [part["loc"] for part in details])
    faults += rules.check(draft)
    if faults or plan is None:
        raise _problems(faults, document, text, path, uncounted)
    canonical = canonical_json(plan)
    return LoadedPlan(plan=plan, canonical=canonical, digest=digest_of(canonical), path=path)


def canonical_json(plan: Plan) -> str:
    """The plan as JSON that does not depend on comments, layout, the order of keys or on defaults written out.

    The order of columns and of key columns does count: it is the target's. They are lists of pairs, so that the order
    survives jsonb too.
    """
    # Dumped, read and dumped again: pydantic has no sorted keys.
    plain = json.loads(plan.model_dump_json(by_alias=True, exclude_defaults=True))
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest_of(canonical: str) -> str:
    """SHA-256 of a canonical plan, hex."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read(path: Path) -> str:
    def unreadable(found: str, expected: str, hint: str = "", line: int | None = None) -> PlanProblems:
        return PlanProblems([Problem(file=str(path), line=line, path="", found=found, expected=expected, hint=hint)])

    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise unreadable("a directory", "a plan in YAML")
        if not stat.S_ISREG(status.st_mode):
            raise unreadable("a device, pipe or socket", "a file")
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise unreadable("no such file", "a plan in YAML", did_you_mean(path.name, siblings)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise unreadable(f"a file that can't be read ({reason})", "a plan in YAML") from error
    if len(raw) > LARGEST:
        raise unreadable(f"more than {LARGEST:,} bytes", "a smaller plan", "A whole schema can be named as schema.*.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise unreadable(
            f"the byte 0x{raw[error.start]:02x}, which is not UTF-8", "text in UTF-8", line=line
        ) from error


def _problems(faults: Iterable[Fault], document: Document, text: str, path: Path, uncounted: int = 0) -> PlanProblems:
    placed = sorted(((_place(fault, document), fault) for fault in faults), key=lambda pair: _order(*pair))
    lines = text.split("\n")
    problems: list[Problem] = []
    for place, fault in placed[:SHOWN]:
        near = nearest(fault.name, fault.candidates) if fault.name is not None else None
        expected, hint = fault.expected, fault.hint
        if near is not None:
            # The name that was meant says more than the list of all that could have been.
            expected, hint = expected.partition(": ")[0], f"Did you mean '{near}'?"
        elif not hint and "without its" in fault.found and place is not None:
            hint = _cut_by_yaml(lines[place.line - 1])
        problems.append(
            Problem(
                file=str(path),
                line=place.line if place else None,
                column=place.column if place else None,
                path=written(fault.path if fault.absent else document.nearest(fault.path)),
                found=fault.found,
                expected=expected,
                hint=hint,
            )
        )
    return PlanProblems(problems, total=len(placed) + uncounted)


def _cut_by_yaml(line: str) -> str:
    """SQL that does not end may have been cut by what YAML takes for its own."""
    if " #" in line:
        return "In YAML ' #' begins a comment; put SQL that has one in double quotes."
    return yaml_lines.COMMA_HINT if "{" in line and "," in line else ""


def _place(fault: Fault, document: Document) -> Place | None:
    """Where a fault is; what is missing is where the thing is that lacks it."""
    if fault.line is not None:
        return Place(fault.line, fault.column or 1)
    return document.places.get(document.nearest(fault.path))


def _order(place: Place | None, fault: Fault) -> tuple[int, int, str]:
    return (place.line, place.column, fault.found) if place else (0, 0, fault.found)
