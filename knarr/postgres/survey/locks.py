"""Locks that others hold on the plan's tables: that stop the survey, that are to be known, that made a step wait."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from knarr.errors import KnarrError
from knarr.plan.names import write_table
from knarr.plan.resolved import ResolvedMapping, TableName
from knarr.postgres.mappings import load_mapping, load_mappings
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


async def with_holders(connection: Connection, run_id: str, mapping: int, error: KnarrError) -> KnarrError:
    """The error of a lock that was not to be had, with who holds locks on the mapping's table now, or on all tables.

    The server does not say whom it waited for. Those that only read are named where nobody else is there: only what
    drops or empties a table waits for them.

    Args:
        connection: another than the one that waited, or that one after its rollback.
        mapping: below 0, all of the run's.
    """
    resolved = await (load_mappings(connection, run_id) if mapping < 0 else _one(connection, run_id, mapping))
    names = [each.target for each in resolved]
    held = await _held(connection, names, [*_LOCKS_ROWS, *_STOPS_WRITING, *_STOPS_READING])
    held = held or await _held(connection, names, _READS)
    if not held:
        return error
    said = "; ".join(text for _, text in held[:HOLDERS_SHOWN])
    more = f"; and {len(held) - HOLDERS_SHOWN:,} more" if len(held) > HOLDERS_SHOWN else ""
    detail = f"{error.detail}\n{said}{more}" if error.detail else ""
    return type(error)(f"{error.message}; now {said}{more}", hint=error.hint, sqlstate=error.sqlstate, detail=detail)


async def _one(connection: Connection, run_id: str, mapping: int) -> list[ResolvedMapping]:
    return [await load_mapping(connection, run_id, mapping)]


async def _held(connection: Connection, names: list[TableName], modes: list[str]) -> list[tuple[TableName, str]]:
    rows = await connection.fetch(_LOCKS, [name.schema_name for name in names], [name.name for name in names], modes)
    found: list[tuple[TableName, str]] = []
    for row in rows:
        table = TableName(schema_name=row["nspname"], name=row["relname"])
        holder = "a prepared transaction"
        if row["pid"] is not None:
            holder = f"{row['application_name'] or 'a session'} ({row['usename']}, pid {row['pid']}, for {row['age']})"
        found.append((table, f"{write_table(table)} is locked in {row['mode']} by {holder}"))
    return found
