"""Asks a server what it makes of a piece of SQL, without running it: PREPARE for types, EXPLAIN for privileges."""

import json
import re
from typing import Final, NamedTuple

import asyncpg

from knarr.errors import TransientError
from knarr.postgres import server_words
from knarr.postgres.failures import classify
from knarr.postgres.session import Connection

_DOING: Final = "asking the server about the plan's SQL"
_TOKEN: Final = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|[\w$.]+|\S')


class Failure(NamedTuple):
    """What the server had against it."""

    message: str
    near: str
    """The token that the server points at; empty when it points at none."""
    hint: str
    sqlstate: str
    words: str
    """All that the server said, where it may have quoted a row: not for workflow history. Else empty."""

    def __str__(self) -> str:
        return f"{self.message} (at {self.near})" if self.near else self.message


async def describe(connection: Connection, sql: str) -> list[int] | Failure:
    """The type oids of the columns of `sql`, or why the server refuses it. A domain comes as its base type.

    Raises:
        TransientError: the connection was lost, or the like.
    """
    try:
        statement = await connection.prepare(sql)
    except asyncpg.PostgresError as error:
        return _failure(error, sql)
    return [attribute.type.oid for attribute in statement.get_attributes()]


async def refusal(connection: Connection, sql: str) -> Failure | None:
    """Why the server refuses `sql`, or None if it takes it.

    Raises:
        TransientError: the connection was lost, or the like.
    """
    answer = await describe(connection, sql)
    return answer if isinstance(answer, Failure) else None


async def explain(connection: Connection, sql: str) -> float | Failure:
    """The planner's guess of how many rows `sql` gives, or why this role may not run it.

    EXPLAIN starts the executor without running it; that is where privileges on every table are checked.

    Raises:
        TransientError: the connection was lost, or the like.
    """
    try:
        async with connection.transaction(readonly=True):
            answer = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}")
    except asyncpg.PostgresError as error:
        return _failure(error, sql)
    return float(json.loads(answer)[0]["Plan"]["Plan Rows"])


async def lookup(connection: Connection, sql: str, *values: object) -> object:
    """One value, or None also where this role may not use the schema of what is looked up.

    to_regclass() and its like give NULL for what does not exist, but an error for a schema without USAGE. That
    privilege is asked about once, elsewhere; here it must not end the survey.
    """
    try:
        found: object = await connection.fetchval(sql, *values)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return found


def _failure(error: asyncpg.PostgresError, sql: str) -> Failure:
    classified = classify(error, _DOING)
    if isinstance(classified, TransientError):
        raise classified from error
    position = getattr(error, "position", None)
    token = _TOKEN.match(sql, int(position) - 1) if position else None
    message = server_words.words_on_plan(error)
    if not message:
        told = classified.message.removeprefix(f"{_DOING}: ")
        return Failure(told, token[0] if token else "", "", error.sqlstate or "", classified.detail)
    hint = str(getattr(error, "hint", None) or "")
    return Failure(message, token[0] if token else "", hint, error.sqlstate or "", "")
