"""What a server makes of a query of the plan; the target, once the tables and types are there that the run makes."""

import re
from typing import Final

from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import quote
from knarr.postgres.session import Connection
from knarr.postgres.survey.ask import Failure, describe, explain
from knarr.postgres.survey.inquiry import Inquiry, mentions, mentions_bare, replaced
from knarr.postgres.survey.sketches import Sketch

_FOUND_BARE: Final = "public"  # the one schema of a pinned search path in which a run may make tables
_OWN_SCHEMA: Final = re.compile(r"\bknarr\s*\.")
_ABSENT: Final = ("42P01", "3F000", "42704")  # a table, a schema, a type


async def on_future_target(inquiry: Inquiry, sql: str) -> list[int] | Failure:
    """What the target makes of `sql` once the plan's tables and types are there.

    Tables that the run will make stand in a WITH clause as rows of typed NULLs, types that it will make as their
    stand-ins. A table is first called "schema.table", which nothing but `schema.table` finds; where a column is then
    called by its table (`order.total`), it is called `table` alone, as is a table that SQL finds without its schema.
    """
    made = [one for one in inquiry.sketches if one.creates and not one.broken]
    used = [one for one in made if _is_mentioned(sql, one.target)]
    called = {one.target: one.target.name if _is_bare(sql, one.target) else str(one.target) for one in used}
    answer = await _with_tables(inquiry, sql, called)
    if isinstance(answer, Failure) and "FROM-clause" in answer.message:
        return await _with_tables(inquiry, sql, {one.target: one.target.name for one in used})
    return answer


async def columns_on_target(inquiry: Inquiry, where: str, query: str) -> list[int] | None:
    """The type oids of the columns that a query of the plan will give on the target.

    Returns:
        None where that can't be known now, and after a problem that was told.
    """
    if any(one.broken for one in inquiry.sketches):
        return None
    answer = await on_future_target(inquiry, f"SELECT * FROM ({query}\n) AS answer")
    if isinstance(answer, Failure):
        # The claim of the run installs our own schema; of a table whose source is missing that is told already.
        if answer.sqlstate in _ABSENT and (_OWN_SCHEMA.search(query) or _mentions_unknown(inquiry, query)):
            return None
        inquiry.problems.refused(where, answer, expected="a query that runs on the target")
        return None
    if not _mentions_made(inquiry, query):
        forbidden = await explain(inquiry.target, query)
        if isinstance(forbidden, Failure):
            inquiry.problems.refused(where, forbidden, expected="a query that this role may run")
            return None
    return answer


async def columns_on(
    inquiry: Inquiry, connection: Connection, where: str, query: str, called: str, *, a_copy: bool = False
) -> list[int] | None:
    """The same on another side, as it is now.

    Args:
        called: that side, for messages.
        a_copy: it may be a copy of the target, to which what the run makes comes only then.
    """
    answer = await describe(connection, f"SELECT * FROM ({query}\n) AS answer")
    if isinstance(answer, Failure):
        later = a_copy and (_mentions_made(inquiry, query) or _mentions_unknown(inquiry, query))
        if later and answer.sqlstate in _ABSENT:
            inquiry.problems.warn(
                where,
                f"{answer}: the query asks for what the run will make on the target",
                expected=f"that {called} has it too when it is asked, after the last phase; that can't be known now",
                hint=f"correct the query if {called} is no copy of the target: the run would be taken back",
            )
        else:
            inquiry.problems.refused(where, answer, expected=f"a query that runs on {called}")
        return None
    forbidden = await explain(connection, query)
    if isinstance(forbidden, Failure):
        inquiry.problems.refused(where, forbidden, expected="a query that this role may run")
        return None
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


def _mentions_made(inquiry: Inquiry, sql: str) -> bool:
    """Whether the SQL may speak of a table or a type that the run has yet to make."""
    made = [one.target for one in inquiry.sketches if one.creates]
    return any(_is_mentioned(sql, name) for name in (*made, *inquiry.types.stand_ins))


def _mentions_unknown(inquiry: Inquiry, sql: str) -> bool:
    """Whether the SQL may speak of a table of the plan of which nothing is known, since its source is not there."""
    known = [one.target for one in inquiry.sketches]
    named = [one.target_table for one in inquiry.plan.mappings if one.target_table not in known]
    return any(name is not None and _is_mentioned(sql, name) for name in named)


def _is_mentioned(sql: str, table: TableName) -> bool:
    """By the whole name, or by a bare one that finds it."""
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
