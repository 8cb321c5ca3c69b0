"""Locks that others hold on the plan's tables: that stop the survey, that are to be known, that made a step wait."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from knarr.errors import KnarrError
from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.session import Connection
from knarr.postgres.survey.problems import Problems

# A quick ALTER TABLE of somebody else is no reason to refuse a run.
PATIENCE_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.2
HOLDERS_SHOWN: Final = 3
LOCK_TIMEOUT: Final = "55P03"

_LOCKS: Final = """
SELECT DISTINCT n.nspname, c.relname, l.mode, l.pid, a.application_name, a.usename,
       pg_catalog.date_trunc('second', now() - a.xact_start)::text AS age
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_class c ON c.oid = l.relation
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN unnest($1::text[], $2::text[]) AS wanted (schema_name, name)
       ON wanted.schema_name = n.nspname AND wanted.name = c.relname
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.granted AND l.locktype = 'relation' AND l.mode = ANY($3::text[])
   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND ($4::text IS NULL OR a.application_name IS DISTINCT FROM $4)
 ORDER BY 1, 2, 4
"""
_STOPS_READING: Final = ["AccessExclusiveLock"]
_READS: Final = ["AccessShareLock"]
_LOCKS_ROWS: Final = ["RowShareLock"]
_STOPS_WRITING: Final = ["RowExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock"]


async def unreadable_tables(
    connection: Connection, side: str, names: Iterable[TableName], problems: Problems
) -> set[TableName]:
    """Tables that nobody else may even look at now; each becomes a problem.

    Looking at one of them would wait for lock_timeout, and end the survey without a report.
    """
    wanted = list(names)
    deadline = time.monotonic() + PATIENCE_SECONDS
    held = await _held(connection, wanted, _STOPS_READING)
    while held and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
        held = await _held(connection, wanted, _STOPS_READING)
    for _, text in held:
        problems.error(side, text, expected="a table that can be read", hint="try again when that session has ended")
    return {table for table, _ in held}


async def check_locks(connection: Connection, side: str, names: Iterable[TableName], problems: Problems) -> None:
    """Sessions that write to tables that the run is to fill, or keep it from writing."""
    for _, text in await _held(connection, list(names), _STOPS_WRITING):
        problems.warn(side, text, hint="a run waits for a lock as long as limits.lock_timeout says")


async def holders_on_target(connection: Connection, names: Sequence[TableName]) -> list[str]:
    """Who holds locks on tables that a step wrote to when it was kept waiting; the server does not say for whom.

    Those that only read are named where nobody else is there: only what drops or empties a table waits for them. The
    worker's own sessions are not: a step's neighbours write to the same table, and keep none of it from the step.

    Args:
        connection: of the worker, but not the one that waited, unless that has rolled back.
    """
    own = await connection.fetchval("SELECT pg_catalog.current_setting('application_name')")
    held = await _held(connection, names, [*_LOCKS_ROWS, *_STOPS_WRITING, *_STOPS_READING], own)
    return [text for _, text in held or await _held(connection, names, _READS, own)]


async def holders_on_source(connection: Connection, names: Sequence[TableName]) -> list[str]:
    """Who keeps tables from being read."""
    return [f"on the source {text}" for _, text in await _held(connection, names, _STOPS_READING)]


def naming(error: KnarrError, holders: Sequence[str]) -> KnarrError:
    """The error of a lock that was not to be had, with who holds such locks now."""
    if not holders:
        return error
    more = f"; and {len(holders) - HOLDERS_SHOWN:,} more" if len(holders) > HOLDERS_SHOWN else ""
    said = f"; now {'; '.join(holders[:HOLDERS_SHOWN])}{more}"
    detail = f"{error.detail}{said}" if error.detail else ""
    return type(error)(f"{error.message}{said}", hint=error.hint, sqlstate=error.sqlstate, detail=detail)


async def _held(
    connection: Connection, names: Sequence[TableName], modes: list[str], but_for: str | None = None
) -> list[tuple[TableName, str]]:
    schemas, tables = [name.schema_name for name in names], [name.name for name in names]
    rows = await connection.fetch(_LOCKS, schemas, tables, modes, but_for)
    found: list[tuple[TableName, str]] = []
    for row in rows:
        table = TableName(schema_name=row["nspname"], name=row["relname"])
        holder = "a prepared transaction"
        if row["pid"] is not None:
            holder = f"{row['application_name'] or 'a session'} ({row['usename']}, pid {row['pid']}, for {row['age']})"
        found.append((table, f"{write_table(table)} is locked in {row['mode']} by {holder}"))
    return found
