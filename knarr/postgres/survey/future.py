"""What the target will make of a piece of SQL once the tables and types are there that the run has yet to make."""

from typing import Final

from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import quote
from knarr.postgres.survey.ask import Failure, describe
from knarr.postgres.survey.inquiry import Inquiry, mentions, mentions_bare, replaced
from knarr.postgres.survey.sketches import Sketch

_FOUND_BARE: Final = "public"  # the one schema of a pinned search path in which a run may make tables


async def on_future_target(inquiry: Inquiry, sql: str) -> list[int] | Failure:
    """What the target makes of `sql` once the plan's tables and types are there.

    Tables that the run will make stand in a WITH clause as rows of typed NULLs, types that it will make as their
    stand-ins. A table is first called "schema.table", which nothing but `schema.table` finds; where a column is then
    called by its table (`order.total`), it is called `table` alone, as is a table that SQL finds without its schema.
    """
    made = [one for one in inquiry.sketches if one.creates and not one.broken]
    used = [one for one in made if is_mentioned(sql, one.target)]
    called = {one.target: one.target.name if _is_bare(sql, one.target) else str(one.target) for one in used}
    answer = await _with_tables(inquiry, sql, called)
    if isinstance(answer, Failure) and "FROM-clause" in answer.message:
        return await _with_tables(inquiry, sql, {one.target: one.target.name for one in used})
    return answer


async def _with_tables(inquiry: Inquiry, sql: str, called: dict[TableName, str]) -> list[int] | Failure:
    for name, by in called.items():
        sql = replaced(sql, name, quote_any(by))
    tables = [
        f"{quote_any(called[one.target])} AS (SELECT {_nulls(one)})"
        for one in inquiry.sketches
        if one.target in called and one.creates
    ]
    if tables:
        sql = f"WITH {', '.join(tables)} {sql}"
    for name, stand_in in inquiry.types.stand_ins.items():
        sql = replaced(sql, name, stand_in)
    return await describe(inquiry.target, sql)


def is_mentioned(sql: str, table: TableName) -> bool:
    """Whether the SQL may speak of that table: by its whole name, or by a bare one that finds it."""
    return any(not found["text"] for found in mentions(table).finditer(sql)) or _is_bare(sql, table)


def _is_bare(sql: str, table: TableName) -> bool:
    if table.schema_name != _FOUND_BARE:
        return False
    return any(not found["text"] for found in mentions_bare(table.name).finditer(sql))


def row_of(inquiry: Inquiry, sketch: Sketch) -> str:
    """The target table as FROM takes it, called by its bare name; as typed NULLs where the run makes it."""
    if not sketch.creates:
        return f"{quote(sketch.target.schema_name)}.{quote(sketch.target.name)}"
    return f"(SELECT {_nulls(sketch)}) AS {quote(sketch.target.name)}"


def _nulls(sketch: Sketch) -> str:
    return ", ".join(f"NULL::{column.target_type} AS {quote(column.name)}" for column in sketch.columns)


def quote_any(name: str) -> str:
    """A name for a WITH clause: not an object's, so longer ones are cut."""
    return quote(name.encode()[:63].decode("utf-8", "ignore"))
