"""The plan's expressions over a source row, each asked of the source: its type, one value a row, its cast."""

from typing import Final

from knarr.postgres.survey.ask import Failure, describe, refusal
from knarr.postgres.survey.inquiry import Inquiry, enclosed
from knarr.postgres.survey.sketches import Sketch

_NOT_ONE_VALUE: Final = {2249: "a row of several values", 2287: "an array of rows", 2278: "nothing (void)"}


async def expression_types(inquiry: Inquiry, sketch: Sketch, asked: dict[str, str]) -> dict[str, int]:
    """The source's type oid of each expression; one that is refused becomes a problem."""
    if (failure := await refusal(inquiry.source, f"SELECT FROM {sketch.from_clause}")) is not None:
        inquiry.problems.error(sketch.where("joins"), str(failure), expected="joins that run", hint=failure.hint)
        sketch.broken = True
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
            )


def _refused(inquiry: Inquiry, sketch: Sketch, name: str, failure: Failure) -> None:
    path = ("key", name) if name in sketch.mapping.key else ("columns", name)
    inquiry.problems.error(
        sketch.where(*path), str(failure), expected="one value for each source row", hint=failure.hint
    )
    sketch.broken = True
