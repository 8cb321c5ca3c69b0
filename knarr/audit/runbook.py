"""The runbook of a plan: what a run will do on the target, statement by statement, and what people on duty can do."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from knarr.audit import shown
from knarr.plan.downstream import DownstreamCheck
from knarr.plan.models import Phase, Plan
from knarr.plan.resolved import DatabaseObject, ResolvedMapping, Stage, Survey
from knarr.plan.units import size_bytes
from knarr.telemetry.acting import spelled_out
from knarr.telemetry.scrub import scrub

TEMPLATES: Final = Path(__file__).parent / "templates"

# Bytes of heap a second: 148 to 207 MB/s were measured on two cores and one disk (research/performance.md, part 2);
# the other end is a reshape with joins over a shared 1 Gbit/s line.
FAST: Final = 150_000_000
SLOW: Final = 20_000_000
# Into a table that has rows: 130 MB in 26.6 s, half inserted and half updated, two indexes (docs/benchmarks.md).
MERGED: Final = 5_000_000

_STAGES: Final[tuple[tuple[str, tuple[Stage, ...]], ...]] = (
    ("Before the rows", ("before", "table")),
    ("After the rows: keys", ("keys",)),
    ("After the rows: indexes and constraints", ("indexes", "constraints")),
    ("After all tables: foreign keys", ("foreign keys",)),
)
BUILT: Final[tuple[Stage, ...]] = ("keys", "indexes", "constraints", "foreign keys")


CHANGED_SINCE: Final = {
    "stop": "the run waits for a person, who decides table by table whether theirs are kept or it is all restored",
    "keep theirs": "they stay as they are, and a table that the run made is not dropped before they are elsewhere",
    "restore ours": "they are LOST: the table becomes what it was before the run; the audit trail says how many",
}


@dataclass(frozen=True)
class Statement:
    """A statement that writes rows on the target, or looks whether they may be written, and what it is for."""

    purpose: str
    sql: str


def render_runbook(plan: Plan, survey: Survey, rows: Mapping[int, Sequence[Statement]]) -> str:
    """The runbook in markdown. Names and SQL from plan and databases are shown, never let act on the page.

    Args:
        rows: by mapping, what one of its partitions asks of the target.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # markdown, not HTML: each value goes through one of the filters below
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        line=_line, cell=_cell, code=_code, sql=_sql, figure=_figure, asked=_asked,
        number=shown.number, size=shown.size, duration=shown.duration,
    )  # fmt: skip
    objects = [*survey.objects, *(item for mapping in survey.mappings for item in mapping.objects)]
    volume = sum(mapping.estimated_bytes for mapping in survey.mappings)
    merged = sum(mapping.estimated_bytes for mapping in survey.mappings if mapping.occupied)
    size = size_bytes(plan.limits.partition_size)
    kept = "" if plan.rollback.keep_for.strip("0") in ("ms", "s", "m", "h", "d") else plan.rollback.keep_for
    text = environment.get_template("runbook.md.j2").render(
        plan=plan,
        survey=survey,
        rows=sum(mapping.estimated_rows for mapping in survey.mappings),
        bytes=volume,
        partitions=[max(1, -(-mapping.estimated_bytes // size)) if mapping.key else 1 for mapping in survey.mappings],
        fast=(volume - merged) / FAST,
        slow=(volume - merged) / SLOW,
        merging=merged / MERGED,
        row_statements=rows,
        changed_since=CHANGED_SINCE[plan.rollback.changed_since],
        early=_of(objects, ("before", "table")),
        before=_titled(objects, _STAGES[:1]),
        after=_titled(objects, _STAGES[1:]),
        selects=[_select(mapping) for mapping in survey.mappings],
        phases=[_phase(phase, builds=bool(_of(objects, BUILT))) for phase in plan.rollout],
        keep=f", also for {kept} after it has succeeded" if kept else " until the run is complete",
        kept=kept,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _titled(
    objects: Iterable[DatabaseObject], stages: Sequence[tuple[str, tuple[Stage, ...]]]
) -> list[tuple[str, list[DatabaseObject]]]:
    return [(title, found) for title, of in stages if (found := _of(objects, of))]


def _of(objects: Iterable[DatabaseObject], stages: tuple[Stage, ...]) -> list[DatabaseObject]:
    return [item for item in objects if item.stage in stages]


def _phase(phase: Phase, *, builds: bool) -> str:
    parts = [
        "Rows where " + "; ".join(f"{_line(mapping)}: {_code(where)}" for mapping, where in phase.where.items())
        if phase.where
        else "All rows that remain",
        "then keys, indexes and constraints, then verification" if builds else "then verification",
    ]
    if phase.soak:
        parts.append(f"then {phase.soak} of waiting")
    if phase.approve == "manual":
        parts.append("then a person must approve")
    return ", ".join(parts) + ". A phase that was verified is a checkpoint, and so is each mapping (PHASE/MAPPING)."


def _select(mapping: ResolvedMapping) -> str:
    """A mapping's rows as the plan says them; the copy adds casts to the target's types and a partition's range."""
    columns = ",\n".join(f"       {column.expression} AS {column.name}" for column in mapping.columns)
    where = f"\n WHERE {mapping.where}" if mapping.where else ""
    through = f"\n-- then through {mapping.transform}" if mapping.transform else ""
    return f"SELECT {columns.lstrip()}\n  FROM {mapping.from_clause}{where}{through}"


def _asked(check: DownstreamCheck) -> str:
    """What a downstream check asks, and what it must see."""
    if check.http is not None:
        at = f" at {_code(check.http.pointer)}" if check.http.pointer else ""
        return f"{_code(check.http.url)} says {_code(json.dumps(check.http.equals, ensure_ascii=False))}{at}"
    if check.query is not None:
        return f"{_code(check.query.query)} on {check.query.alias} gives what {_code(check.query.target)} gives here"
    if check.redis is not None:
        held = check.redis.equals
        must = "is gone" if held is None else f"holds {_code(json.dumps(held, ensure_ascii=False))}"
        return f"the key {_code(check.redis.key)} of {check.redis.alias} {must}"
    return f"the function {_code(check.function or '')} has no problem to tell"


def _figure(value: float) -> str:
    """A bound as people write it: 5, not 5.0."""
    return f"{value:.0f}" if value.is_integer() else f"{value}"


def _line(text: str) -> str:
    """Foreign text on one line of markdown, none of its characters with a meaning to markdown or HTML."""
    plain = spelled_out(scrub(text), one_line=True)
    return re.sub(r"([\\`*{}\[\]<>#|~!&]|(?<!\w)_|_(?!\w))", r"\\\1", plain)


def _cell(text: str) -> str:
    """The same for a cell of a table, and visible when it is empty."""
    return _line(text) or "–"


def _code(text: str) -> str:
    """SQL within a line: fenced by more backticks than it holds."""
    plain = spelled_out(" ".join(scrub(text).split()), one_line=True)
    fence = "`" * (_longest_run(plain) + 1)
    return f"{fence} {plain} {fence}" if "`" in plain else f"`{plain}`"


def _sql(text: str) -> str:
    """SQL as a block of code: fenced by more backticks than it holds."""
    plain = spelled_out(scrub(text.strip()))
    fence = "`" * max(3, _longest_run(plain) + 1)
    return f"{fence}sql\n{plain}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
