"""Taking a mapping's copied rows of a phase back out of the target."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import asyncpg

from knarr.audit import chain
from knarr.errors import DataError, PlanError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import ledger
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.lease import Lease, fenced, transaction
from knarr.postgres.selection import phase_predicate, source_key, source_where, target_key
from knarr.postgres.session import Connection

BATCH: Final = 10_000  # keys deleted by one statement

EXISTS: Final = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)"
# Foreign keys of other tables that point here: TRUNCATE refuses them, DELETE may cascade through them.
POINTING_HERE: Final = """
SELECT conrelid::regclass::text AS referencing, c.conname AS name,
       confdeltype::text IN ('c', 'n', 'd') AS changes_rows,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.conrelid, k.number)) AS columns,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.confrelid, k.number)) AS referenced
  FROM pg_constraint c
 WHERE c.contype = 'f' AND c.confrelid = to_regclass($1) AND c.conrelid <> c.confrelid
"""
KEYS: Final = "SELECT {texts} FROM {source} WHERE {where}"


async def remove_rows(
    connection: Connection,
    source: Connection | None,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    phase_order: Sequence[str],
    *,
    limits: Limits | None = None,
) -> int:
    """Takes back the rows that a phase copied into a table that the run fills, and returns how many there were.

    One transaction with the phase's ledger rows, so that the phase can be copied again. A table that holds only this
    phase's rows is emptied; else the phase's keys are read from the source again and deleted, and what is left is
    counted against the ledger.

    Raises:
        DataError: the table holds other rows than the ledger knows of, or rows elsewhere depend on them; nothing is
            changed.
        PlanError: the mapping appends or merges, which has an undo of its own, or has no key.
        LostLease, TransientError.
    """
    if mapping.mode not in ("create", "fill"):
        raise PlanError(f"the rows of {mapping.name} are not taken back by phase: its mode is '{mapping.mode}'")
    with classified(f"taking back the rows of {mapping.name}, phase {phase}"):
        async with fenced(connection, lease, limits=limits):
            totals = await ledger.phase_totals(connection, run_id, mapping.number)
            own = totals.pop(phase, None)
            if own is None:
                return 0
            kind = await connection.fetchval(EXISTS, qualified(mapping.target))
            if kind is not None:
                # Nobody may add a row between the count and the commit.
                await connection.execute(f"LOCK TABLE {qualified(mapping.target)} IN SHARE ROW EXCLUSIVE MODE")
                if any(total.rows for total in totals.values()):
                    if source is None:
                        raise PlanError(f"taking back one of several phases of {mapping.name} needs the source")
                    await _delete_phase(connection, source, mapping, phase, phase_order, limits)
                else:
                    await _empty(connection, mapping, kind, own.rows)
                await _prove(connection, mapping, phase, sum(total.rows for total in totals.values()))
            await connection.execute(ledger.DELETE_PHASE, run_id, mapping.number, phase)
            await _audit(connection, lease, run_id, mapping, phase, own.rows)
    return own.rows


async def _empty(connection: Connection, mapping: ResolvedMapping, kind: str, expected: int) -> None:
    table = qualified(mapping.target)
    if mapping.mode == "fill":
        found = await connection.fetchval(f"SELECT count(*) FROM {table}")
        if found != expected:
            raise DataError(
                f"{mapping.name} holds {found} rows, the ledger says that the run put {expected} there: "
                "somebody else has written to it",
                hint="take the other rows out, or skip this step with a reason; nothing was changed",
            )
    if not await connection.fetch(POINTING_HERE, table):
        # ONLY: tables that inherit from it hold other people's rows; a partitioned table can't do without its parts.
        only = "" if kind == "p" else "ONLY "
        try:
            async with connection.transaction():
                await connection.execute(f"TRUNCATE {only}{table}")
        except (asyncpg.DiskFullError, asyncpg.InsufficientPrivilegeError):
            # TRUNCATE writes each index anew, a page at least, and needs a right of its own; DELETE needs neither.
            await connection.execute(f"DELETE FROM {only}{table}")
        return
    await refuse_changes_elsewhere(connection, mapping, "TRUE", [])
    await connection.execute(f"DELETE FROM {table}")


async def _delete_phase(
    connection: Connection,
    source: Connection,
    mapping: ResolvedMapping,
    phase: str,
    phase_order: Sequence[str],
    limits: Limits | None,
) -> None:
    if not mapping.key:
        raise PlanError(
            f"{mapping.name} has no key, so the rows of phase {phase} can't be told from those of other phases",
            hint="roll back all phases, which empties the table, or skip this step with a reason",
        )
    key = target_key(mapping)
    matches = " AND ".join(f"t.{column.sql} = k.c{place}::{column.type}" for place, column in enumerate(key))
    names = ", ".join(f"c{place}" for place in range(len(key)))
    arrays = ", ".join(f"${place + 1}::text[]" for place in range(len(key)))
    doomed = f"EXISTS (SELECT FROM unnest({arrays}) AS k ({names}) WHERE {matches})"
    delete = f"DELETE FROM {qualified(mapping.target)} AS t USING unnest({arrays}) AS k ({names}) WHERE {matches}"
    async for columns in _keys(source, mapping, phase, phase_order, limits):
        await refuse_changes_elsewhere(connection, mapping, doomed, columns)
        await connection.execute(delete, *columns)


async def _keys(
    source: Connection, mapping: ResolvedMapping, phase: str, phase_order: Sequence[str], limits: Limits | None
) -> AsyncIterator[list[list[str | None]]]:
    """The phase's keys on the source as text, column by column, in batches."""
    predicate = phase_predicate(mapping, phase_order, phase)
    if predicate is None:
        return
    query = KEYS.format(
        texts=", ".join(f"({column.sql})::text" for column in source_key(mapping)),
        source=mapping.from_clause,
        where=source_where(mapping, predicate),
    )
    async with transaction(source, limits, snapshot=True):
        cursor = await source.cursor(query)
        while rows := await cursor.fetch(BATCH):
            yield [[row[place] for row in rows] for place in range(len(mapping.key))]


async def refuse_changes_elsewhere(
    connection: Connection, mapping: ResolvedMapping, doomed: str, arguments: list[list[str | None]]
) -> None:
    """Deleting must not cascade into other tables: a row there that points at a doomed row stops it."""
    for row in await connection.fetch(POINTING_HERE, qualified(mapping.target)):
        if not row["changes_rows"]:
            continue
        pairs = zip(row["columns"], row["referenced"], strict=True)
        joined = " AND ".join(f"r.{quote(own)} = t.{quote(other)}" for own, other in pairs)
        query = (
            f"SELECT EXISTS (SELECT FROM {row['referencing']} AS r JOIN {qualified(mapping.target)} AS t ON {joined} "
            f"WHERE {doomed})"
        )
        if await connection.fetchval(query, *arguments):
            raise DataError(
                f"rows of {row['referencing']} point at rows of {mapping.name} that are to be taken back, and its "
                f"foreign key {row['name']} would delete or change them",
                hint=f"take those rows out of {row['referencing']} first, or skip this step with a reason",
            )


async def _prove(connection: Connection, mapping: ResolvedMapping, phase: str, expected: int) -> None:
    found = await connection.fetchval(f"SELECT count(*) FROM {qualified(mapping.target)}")
    if found != expected:
        raise DataError(
            f"after taking back phase {phase}, {mapping.name} holds {found} rows; the ledger says that the other "
            f"phases put {expected} there",
            hint="the source's keys have changed since the copy, or somebody else has written to the table; "
            "nothing was changed",
        )


async def _audit(
    connection: Connection, lease: Lease, run_id: str, mapping: ResolvedMapping, phase: str, rows: int
) -> None:
    body = {
        "step": f"take back the rows of {mapping.name}",
        "outcome": "done",
        "summary": f"{rows} rows",
        "mapping": mapping.name,
        "phase": phase,
    }
    key = f"remove {mapping.number}/{phase}/epoch {lease.epoch}"
    await chain.append(connection, run_id, key, "compensation", body)
