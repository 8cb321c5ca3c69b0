"""Everything else that a plan writes in SQL: filters, phases, rules, constraints, defaults, indexes, checks, guards."""

import re
from typing import Final

from knarr.plan.criteria import Guard
from knarr.plan.models import CrossCheck, ForeignKey
from knarr.plan.names import parse_table, write_table
from knarr.plan.problems import did_you_mean
from knarr.postgres.identifiers import enclosed
from knarr.postgres.session import Connection
from knarr.postgres.survey.ask import Failure, refusal
from knarr.postgres.survey.declared import index_parts
from knarr.postgres.survey.future import columns_on, columns_on_target, on_future_target, row_of
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.resolve import primary_key_columns
from knarr.postgres.survey.sketches import Sketch
from knarr.postgres.survey.surroundings import Surroundings, columns_at

_TEXT: Final = re.compile(r"'(?:[^']|'')*'")
_NUMBERS: Final = frozenset({20, 21, 23, 700, 701, 1700})  # bigint, smallint, integer, real, double precision, numeric
_BOOLEAN: Final = frozenset({16})
_SUBQUERY: Final = re.compile(r"\bselect\b", re.IGNORECASE)
_CALLS: Final = re.compile(r'(?<![\w$])("(?:[^"]|"")+"|[A-Za-z_][\w$]*)\s*\(')
_CLOCK: Final = re.compile(
    r"\b(current_date|current_time(?:stamp)?|localtime(?:stamp)?|(?:now|transaction_timestamp|statement_timestamp)\s*\()",
    re.IGNORECASE,
)
# Names of which every function is volatile: what they give can't be computed a second time.
_VOLATILE: Final = """
SELECT proname::text FROM pg_catalog.pg_proc WHERE proname = ANY($1::text[])
 GROUP BY proname HAVING bool_and(provolatile = 'v') ORDER BY proname
"""


async def check_source_side(inquiry: Inquiry, sketch: Sketch) -> None:
    """The mapping's filter and its phases, over the source row."""
    predicates: dict[tuple[str, ...], str] = {("where",): sketch.mapping.where} if sketch.mapping.where else {}
    for position, phase in enumerate(inquiry.plan.rollout):
        for table, predicate in phase.where.items():
            if parse_table(table) == sketch.target:
                predicates[(f"rollout[{position}]",)] = predicate
    for path, predicate in predicates.items():
        failure = await refusal(inquiry.source, f"SELECT FROM {sketch.from_clause} WHERE {enclosed(predicate)}")
        where = sketch.where(*path) if path == ("where",) else f"{path[0]}.where ({sketch.target})"
        if failure is not None:
            inquiry.problems.refused(where, failure, expected="a predicate over the source row")
            sketch.unreadable = sketch.unreadable or path == ("where",)
        await _check_repeatable(inquiry, inquiry.source, where, predicate)
    for column in sketch.copied:
        if column.plain is None and column.expression is not None:
            where = sketch.where("columns", column.name)
            await _check_repeatable(inquiry, inquiry.source, where, column.expression)


def check_phases(inquiry: Inquiry) -> None:
    """A phase names mappings by their targets; which those are is known only now where the plan takes whole schemas."""
    known = [write_table(one.target) for one in inquiry.sketches]
    named = {one.target for one in inquiry.sketches}
    for position, phase in enumerate(inquiry.plan.rollout):
        for table in phase.where:
            if parse_table(table) not in named:
                inquiry.problems.error(
                    f"rollout[{position}].where",
                    f"{table} is the target of no mapping",
                    expected="a table that the plan moves",
                    hint=did_you_mean(table, known),
                )


async def check_target_side(inquiry: Inquiry, sketch: Sketch) -> None:
    """Rules, scope, constraints, defaults, generated columns and index expressions, over the target row."""
    mapping = sketch.mapping
    row = row_of(inquiry, sketch)
    predicates: list[tuple[tuple[str, ...], str]] = [(("rules", name), sql) for name, sql in mapping.rules.items()]
    predicates += [(("constraints", name), predicate) for name, predicate in mapping.constraints.items()]
    predicates += [(("scope",), mapping.scope)] if mapping.scope else []
    for position, index in enumerate(mapping.indexes):
        predicates += [((f"indexes[{position}]", "where"), index.where)] if index.where else []
        for part in [part for part in index_parts(index) if part.startswith("(")]:
            await _hold(inquiry, sketch, f"indexes[{position}]", f"SELECT {part} FROM {row}", "an expression")
    for path, predicate in predicates:
        sql = f"SELECT FROM {row} WHERE {enclosed(predicate)}"
        if path[0] == "constraints" and _SUBQUERY.search(_TEXT.sub("''", predicate)):
            inquiry.problems.error(
                sketch.where(*path), "a CHECK constraint can't hold a subquery",
                expected="a predicate over one row", hint="write it under `rules`",
            )  # fmt: skip
            continue
        await _hold(inquiry, sketch, ".".join(path), sql, "a predicate over the target row")
    for position, foreign_key in enumerate(mapping.foreign_keys):
        await _check_comparable(inquiry, sketch, f"foreign_keys[{position}]", foreign_key)
    if sketch.as_is:
        return
    for column in sketch.columns:
        where = f"columns.{column.name}"
        if column.default_sql is not None:
            sql = f"SELECT {enclosed(column.default_sql)}::{column.target_type}"
            await _hold(inquiry, sketch, f"{where}.default", sql, f"a value that fits {column.target_type}")
        if column.generated_sql is not None:
            sql = f"SELECT {enclosed(column.generated_sql)}::{column.target_type} FROM {row}"
            await _hold(inquiry, sketch, f"{where}.generated", sql, "an expression over the target row")
            await _check_repeatable(inquiry, inquiry.target, sketch.where(where, "generated"), column.generated_sql)


async def check_cross(inquiry: Inquiry, position: int, check: CrossCheck) -> None:
    """A cross check: both queries run, and they have the same columns."""
    where = f"checks[{position}] ({check.name})"
    on_source = await columns_on(inquiry, inquiry.source, f"{where}, source", check.source, "the source")
    on_target = await columns_on_target(inquiry, f"{where}, target", check.target)
    if on_source is not None and on_target is not None and len(on_source) != len(on_target):
        inquiry.problems.error(
            where,
            f"{len(on_source)} columns from the source, {len(on_target)} from the target",
            expected="the same number on both sides",
        )


async def check_guard(inquiry: Inquiry, position: int, guard: Guard, surroundings: Surroundings | None) -> None:
    """A guard's query runs where it is to be asked, and gives one column of numbers."""
    where, named_at = f"guards[{position}].query ({guard.name})", f"guards[{position}].on ({guard.name})"
    answer = await columns_at(
        inquiry, surroundings, _alias(inquiry, guard.on), guard.query, named_at=named_at, where=where
    )
    await _check_one(inquiry, where, answer, _NUMBERS, "one column, which is a number")


async def check_pause(inquiry: Inquiry, surroundings: Surroundings | None) -> None:
    """The query that holds verification runs where it is to be asked, and gives one boolean."""
    busy, place = inquiry.plan.verification.pause_while, "verification.pause_while"
    if busy is None:
        return
    alias, where = _alias(inquiry, busy.on), f"{place}.query"
    answer = await columns_at(inquiry, surroundings, alias, busy.query, named_at=f"{place}.on", where=where)
    await _check_one(inquiry, where, answer, _BOOLEAN, "one column, which is a boolean")


def _alias(inquiry: Inquiry, on: str) -> str:
    return {"source": inquiry.plan.source, "target": inquiry.plan.target}.get(on, on)


async def _check_one(
    inquiry: Inquiry, where: str, answer: list[int] | None, wanted: frozenset[int], expected: str
) -> None:
    if answer is not None and (len(answer) != 1 or answer[0] not in wanted):
        kind = await inquiry.target.fetchval("SELECT pg_catalog.format_type($1, NULL)", answer[0]) if answer else ""
        found = f"a column of type {kind}" if len(answer) == 1 else f"{len(answer)} columns"
        inquiry.problems.error(where, found, expected=expected)


async def _check_comparable(inquiry: Inquiry, sketch: Sketch, path: str, foreign_key: ForeignKey) -> None:
    """Both sides of a foreign key must have types that `=` compares."""
    referenced = inquiry.writing(foreign_key.reference.table)
    if referenced is None or referenced.broken:
        return  # a table that is there already is held against it by the server, when the key is made
    pointed_at = foreign_key.reference.columns or primary_key_columns(referenced)
    for name, other in zip(foreign_key.columns, pointed_at, strict=False):
        left, right = sketch.column(name), referenced.column(other)
        if left is None or right is None:
            continue  # said where the key is made
        answer = await on_future_target(inquiry, f"SELECT NULL::{left.target_type} = NULL::{right.target_type}")
        if isinstance(answer, Failure):
            inquiry.problems.error(
                sketch.where(path),
                answer.message,
                examples=answer.words,
                expected=f"columns of types that can be compared: {name} is {left.target_type}, "
                f"{other} is {right.target_type}",
            )


async def _hold(inquiry: Inquiry, sketch: Sketch, path: str, sql: str, expected: str) -> None:
    answer = await on_future_target(inquiry, sql)
    if isinstance(answer, Failure):
        inquiry.problems.refused(sketch.where(path), answer, expected=expected)


async def _check_repeatable(inquiry: Inquiry, connection: Connection, where: str, sql: str) -> None:
    """An expression must give the same value whenever it is asked: verification asks a second time."""
    bare = _TEXT.sub("''", sql)
    clock = _CLOCK.search(bare)
    called = [name.strip('"') if name.startswith('"') else name.lower() for name in _CALLS.findall(bare)]
    volatile = [row["proname"] for row in await connection.fetch(_VOLATILE, called)] if called else []
    if clock is not None or volatile:
        word = clock[1].rstrip("( ") if clock is not None else volatile[0]
        inquiry.problems.error(
            where,
            f"{word} gives another value each time it is asked",
            expected="an expression that depends on the row alone: verification computes it a second time",
        )
