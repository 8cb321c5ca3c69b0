"""Finding the rows that the target refused: its error names columns, and here these become a query for the source."""

import re
from typing import Final

import asyncpg

from knarr.errors import DataError
from knarr.plan.resolved import ResolvedColumn, ResolvedMapping
from knarr.postgres.identifiers import enclosed, literal, quote
from knarr.postgres.selection import source_where

# Only names of the mapping's own columns are taken from these words, in whatever language they are.
_KEY_COLUMNS: Final = re.compile(r"\((.*?)\)=\(", re.DOTALL)
_COPY_COLUMN: Final = re.compile(r"^COPY [^\n]+?, \w+ \d+, \w+ ([^\n:]+)", re.MULTILINE)


def findable(error: DataError, mapping: ResolvedMapping) -> DataError:
    """The error with a query in its hint that gives the refused rows by their keys; as it is where none can be told."""
    cause = error.__cause__
    query = _query(cause, mapping) if isinstance(cause, asyncpg.PostgresError) else ""
    if not query:
        return error
    hint = f"{error.hint}; on the source, this finds the rows: {query}"
    return DataError(error.message, hint=hint, sqlstate=error.sqlstate, detail=error.detail)


def _query(error: asyncpg.PostgresError, mapping: ResolvedMapping) -> str:
    columns = {quote(column.name): column for column in mapping.columns} | {
        column.name: column for column in mapping.columns
    }
    named = [columns[name] for name in _names(error) if name in columns]
    if not named:
        return ""
    if error.sqlstate == "23505":
        values = ", ".join(_value(column) for column in named)
        numbers = ", ".join(str(place + 1) for place in range(len(named)))
        return _select(f"{values}, count(*)", mapping, "TRUE") + f" GROUP BY {numbers} HAVING count(*) > 1"
    keys = ", ".join(_value(column) for column in mapping.key) or "*"
    column = named[0]
    if error.sqlstate == "23502":
        return _select(keys, mapping, f"{enclosed(column.expression)} IS NULL")
    # Since PostgreSQL 16; it knows lengths and ranges as well as what can't be read at all.
    refused = f"NOT pg_input_is_valid({enclosed(column.expression)}::text, {literal(column.base_type)})"
    return _select(keys, mapping, refused) if str(error.sqlstate).startswith("22") else ""


def _names(error: asyncpg.PostgresError) -> list[str]:
    if name := getattr(error, "column_name", None):
        return [str(name)]
    if key := _KEY_COLUMNS.search(str(getattr(error, "detail", None) or "")):
        return key[1].split(", ")
    place = _COPY_COLUMN.search(str(getattr(error, "context", None) or ""))
    return [place[1]] if place else []


def _value(column: ResolvedColumn) -> str:
    return f"{enclosed(column.expression)} AS {quote(column.name)}"


def _select(what: str, mapping: ResolvedMapping, where: str) -> str:
    return f"SELECT {what} FROM {mapping.from_clause} WHERE {source_where(mapping, where)}"
