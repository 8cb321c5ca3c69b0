"""The plan's expressions over a source row, each asked of the source: its type, one value a row, its cast."""

import re
from typing import Final

from knarr.postgres.identifiers import enclosed
from knarr.postgres.survey.ask import Failure, describe, refusal
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.sketches import Sketch

_NOT_ONE_VALUE: Final = {2249: "a row of several values", 2287: "an array of rows", 2278: "nothing (void)"}

_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_FLOATS: Final = frozenset({"real", "double precision"})
_MOMENTS: Final = frozenset({"timestamp without time zone", "timestamp with time zone"})
_SIZES: Final = re.compile(r"\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\)")


async def expression_types(inquiry: Inquiry, sketch: Sketch, asked: dict[str, str]) -> dict[str, int]:
    """The source's type oid of each expression; one that is refused becomes a problem."""
    if (failure := await refusal(inquiry.source, f"SELECT FROM {sketch.from_clause}")) is not None:
        inquiry.problems.refused(sketch.where("joins"), failure, expected="joins that run")
        sketch.broken = sketch.unreadable = True
        return {}
    if not asked:
        return {}
    parts = ", ".join(enclosed(sql) for sql in asked.values())
    together = await describe(inquiry.source, f"SELECT {parts} FROM {sketch.from_clause}")
    if not isinstance(together, Failure) and len(together) == len(asked):
        oids = dict(zip(asked, together, strict=True))
    else:
        oids = {}
        for name, sql in asked.items():
            alone = await describe(inquiry.source, f"SELECT {enclosed(sql)} FROM {sketch.from_clause}")
            if isinstance(alone, Failure):
                _refused(inquiry, sketch, name, alone)
            else:
                oids[name] = alone[0]
    await _one_value_per_row(inquiry, sketch, {name: asked[name] for name in oids})
    for name, oid in list(oids.items()):
        if oid in _NOT_ONE_VALUE:
            inquiry.problems.error(
                sketch.where("columns", name), f"the expression gives {_NOT_ONE_VALUE[oid]}", expected="one value"
            )
            del oids[name]
    return oids


async def _one_value_per_row(inquiry: Inquiry, sketch: Sketch, asked: dict[str, str]) -> None:
    """WHERE takes neither aggregates nor window functions nor functions that return sets."""
    tests = {name: f"{enclosed(sql)} IS NULL" for name, sql in asked.items()}
    together = " OR ".join(tests.values())
    if not tests or await refusal(inquiry.source, f"SELECT FROM {sketch.from_clause} WHERE {together}") is None:
        return
    for name, test in tests.items():
        failure = await refusal(inquiry.source, f"SELECT FROM {sketch.from_clause} WHERE {test}")
        if failure is not None:
            _refused(inquiry, sketch, name, failure._replace(message=failure.message.replace(" in WHERE", " here")))


async def check_casts(inquiry: Inquiry, sketch: Sketch) -> None:
    """The source itself brings each value to the target's type, so it must know the cast."""
    casts = {
        column.name: f"{enclosed(column.expression)}::{column.base_type if column.category == 'builtin' else 'text'}"
        for column in sketch.copied
        if column.expression is not None and column.source_type != column.base_type
    }
    if not casts:
        return
    if await refusal(inquiry.source, f"SELECT {', '.join(casts.values())} FROM {sketch.from_clause}") is None:
        return
    for name, cast in casts.items():
        failure = await refusal(inquiry.source, f"SELECT {cast} FROM {sketch.from_clause}")
        if failure is not None:
            column = sketch.column(name)
            assert column is not None
            inquiry.problems.error(
                sketch.where("columns", name),
                failure.message,
                expected=f"an expression that can be cast from {column.source_type} to {column.base_type}",
                hint=failure.hint,
                examples=failure.words,
            )


def _refused(inquiry: Inquiry, sketch: Sketch, name: str, failure: Failure) -> None:
    path = ("key", name) if name in sketch.mapping.key else ("columns", name)
    inquiry.problems.refused(sketch.where(*path), failure, expected="one value for each source row")
    sketch.broken = True


def warn_of_rounding(inquiry: Inquiry, sketch: Sketch) -> None:
    """Casts that quietly give up a part of a value; verification compares what is left of it."""
    for column in sketch.copied:
        if column.category == "builtin" and _rounds(column.source_type, column.base_type):
            inquiry.problems.warn(
                sketch.where("columns", column.name),
                f"{column.source_type} becomes {column.base_type}: what does not fit is rounded or cut off",
                hint="write the rounding into the expression to say that it is meant",
            )


def _rounds(source: str, target: str) -> bool:
    source_sizes, target_sizes = _SIZES.search(source), _SIZES.search(target)
    here, there = " ".join(_SIZES.sub("", source).split()), " ".join(_SIZES.sub("", target).split())
    if here == there == "numeric":
        # Without a scale on the source nothing is known; an expression that rounds looks like that too.
        scales = [int(sizes[2] or 0) for sizes in (source_sizes, target_sizes) if sizes is not None]
        return len(scales) == 2 and scales[1] < scales[0]
    if here in _MOMENTS and there in _MOMENTS:
        digits = [int(sizes[1]) if sizes is not None else 6 for sizes in (source_sizes, target_sizes)]
        return digits[1] < digits[0]
    if there in _INTEGERS:
        return here == "numeric" or here in _FLOATS
    if there in _FLOATS:
        return here == "numeric" or (here == "double precision" and there == "real")
    return here in _MOMENTS and (there == "date" or there.startswith("time "))
