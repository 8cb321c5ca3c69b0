"""Sequences of the target that must continue after the last row, and their positions before the run."""

from typing import Final

from pydantic import BaseModel, ConfigDict

from knarr.errors import DataError, PlanError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping, ResolvedSequence
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.session import Connection

# Identity and serial columns own their sequence; a plain DEFAULT nextval(...) only depends on one.
BEHIND_COLUMN: Final = """
SELECT s.oid, quote_ident(n.nspname) || '.' || quote_ident(s.relname) AS name
  FROM pg_attribute a
  LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
  JOIN pg_depend d
    ON (d.refclassid, d.refobjid, d.refobjsubid) = ('pg_class'::regclass, a.attrelid, a.attnum)
       AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    OR (d.classid, d.objid, d.refclassid) = ('pg_attrdef'::regclass, e.oid, 'pg_class'::regclass)
  JOIN pg_class s
    ON s.relkind = 'S' AND s.oid IN (d.objid, d.refobjid)
  JOIN pg_namespace n ON n.oid = s.relnamespace
 WHERE a.attrelid = $1::text::regclass AND a.attname = $2 AND NOT a.attisdropped
 ORDER BY d.deptype = 'i' DESC, d.deptype = 'a' DESC
 LIMIT 1
"""
RANGE: Final = "SELECT seqincrement, seqmin, seqmax FROM pg_sequence WHERE seqrelid = $1"
REMEMBER: Final = """
INSERT INTO knarr.sequence_before (run_id, mapping, phase, sequence, last_value, is_called)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (run_id, phase, sequence) DO NOTHING
"""
REMEMBERED: Final = """
SELECT sequence, last_value, is_called
  FROM knarr.sequence_before
 WHERE run_id = $1 AND mapping = $2 AND phase = $3
 ORDER BY sequence
"""
FORGET: Final = """
DELETE FROM knarr.sequence_before WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND sequence = $4
"""
REMEMBERED_ONE: Final = """
SELECT last_value, is_called FROM knarr.sequence_before WHERE run_id = $1 AND phase = $2 AND sequence = $3
"""
IS_OCCUPIED: Final = "SELECT EXISTS (SELECT FROM knarr.table_before WHERE run_id = $1 AND mapping = $2)"
SET: Final = "SELECT setval($1::text::regclass, $2, $3)"


class Position(BaseModel):
    """Where a sequence stands: its last value, and whether that value has been given out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    last_value: int
    is_called: bool

    def next(self, increment: int) -> int:
        """The value that it gives out next."""
        return self.last_value + (increment if self.is_called else 0)


async def set_sequences(
    connection: Connection,
    source: Connection,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str = "",
    *,
    limits: Limits | None = None,
) -> int:
    """Moves each sequence of a mapping beyond its rows and beyond the source's position; returns how many there are.

    A sequence never moves back. Its position before the phase is kept first, in a transaction of its own, because
    setval is not undone by a rollback.

    Raises:
        PlanError: no sequence stands behind a column that should have one.
        DataError: the next value would lie outside the sequence's range.
        LostLease, TransientError.
    """
    for item in mapping.sequences:
        with classified(f"setting the sequence of {mapping.name}.{item.column}"):
            found = await connection.fetchrow(BEHIND_COLUMN, qualified(mapping.target), item.column)
            if found is None:
                raise PlanError(f"no sequence stands behind {mapping.name}.{item.column} on the target")
            name: str = found["name"]
            async with fenced(connection, lease, limits=limits):
                await remember(connection, run_id, mapping.number, phase, name)
            async with fenced(connection, lease, limits=limits):
                await _move(connection, source, mapping, item, name, found["oid"])
    return len(mapping.sequences)


async def _move(
    connection: Connection, source: Connection, mapping: ResolvedMapping, item: ResolvedSequence, name: str, oid: int
) -> None:
    shape = await connection.fetchrow(RANGE, oid)
    if shape is None:
        raise PlanError(f"the sequence {name} went away")
    increment: int = shape["seqincrement"]
    candidates = [await position(connection, name)]
    if item.source_sequence is not None:
        candidates.append(await position(source, item.source_sequence))
    furthest = "max" if increment > 0 else "min"
    query = f"SELECT {furthest}({quote(item.column)})::bigint FROM {qualified(mapping.target)}"
    last = await connection.fetchval(query)
    if last is not None:
        candidates.append(Position(last_value=last, is_called=True))
    sign = 1 if increment > 0 else -1
    wanted = max(candidates, key=lambda position: sign * position.next(increment))
    if not shape["seqmin"] <= wanted.last_value <= shape["seqmax"]:
        limits = f"its range, {shape['seqmin']} to {shape['seqmax']}"
        raise DataError(
            f"the sequence {name} must stand beyond {limits}",
            hint="give the target's column or sequence a wider type",
            detail=f"the sequence {name} must stand at {wanted.last_value}, beyond {limits}",
        )
    if wanted != candidates[0]:
        await connection.execute(SET, name, wanted.last_value, wanted.is_called)


async def reset_sequences(
    connection: Connection, lease: Lease, run_id: str, mapping: int, phase: str = "", *, limits: Limits | None = None
) -> int:
    """Puts the sequences of a mapping back to where they stood before the phase; returns how many there were.

    Holds when none was moved, and when a sequence is gone with its table. Those of a table that has rows of its own
    stay: others draw from them, and `knarr.postgres.before` puts them back when the last row has been taken back.

    Raises:
        LostLease, TransientError, PlanError.
    """
    with classified(f"reading the positions of mapping {mapping}'s sequences before phase {phase}"):
        rows = await connection.fetch(REMEMBERED, run_id, mapping, phase)
        occupied = await connection.fetchval(IS_OCCUPIED, run_id, mapping)
    for row in rows:
        with classified(f"putting the sequence {row['sequence']} back"):
            async with fenced(connection, lease, limits=limits):
                there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", row["sequence"])
                if there and not occupied:
                    await connection.execute(SET, row["sequence"], row["last_value"], row["is_called"])
                await connection.execute(FORGET, run_id, mapping, phase, row["sequence"])
    return 0 if occupied else len(rows)


async def remember(connection: Connection, run_id: str, mapping: int, phase: str, sequence: str) -> None:
    """Keeps where a sequence stands, within the caller's transaction, unless it is kept for that phase already."""
    before = await position(connection, sequence)
    await connection.execute(REMEMBER, run_id, mapping, phase, sequence, before.last_value, before.is_called)


async def remembered(connection: Connection, run_id: str, phase: str, sequence: str) -> Position | None:
    """Where a sequence stood, if that was kept."""
    row = await connection.fetchrow(REMEMBERED_ONE, run_id, phase, sequence)
    return None if row is None else Position.model_validate(dict(row))


async def put(connection: Connection, sequence: str, where: Position) -> None:
    """Moves a sequence there, whatever becomes of the caller's transaction."""
    await connection.execute(SET, sequence, where.last_value, where.is_called)


async def position(connection: Connection, sequence: str) -> Position:
    """Where a sequence stands; its name is SQL: quoted and qualified."""
    row = await connection.fetchrow(f"SELECT last_value, is_called FROM {sequence}")
    if row is None:
        raise PlanError(f"the sequence {sequence} holds no position")
    return Position(last_value=row["last_value"], is_called=row["is_called"])
