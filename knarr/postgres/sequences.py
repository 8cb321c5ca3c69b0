"""Sequences of the target that must continue after the last row, and their positions before the run."""

from collections.abc import Sequence
from typing import Final

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

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
LEAVE: Final = """
UPDATE knarr.sequence_before SET left_value = $4, left_called = $5
 WHERE run_id = $1 AND phase = $2 AND sequence = $3
"""
REMEMBERED: Final = """
SELECT sequence, last_value, is_called, left_value, left_called,
       EXISTS (SELECT FROM pg_depend d
                WHERE (d.classid, d.objid, d.refclassid)
                      = ('pg_class'::regclass, to_regclass(sequence), 'pg_class'::regclass)
                  AND d.deptype IN ('a', 'i')) AS owned
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
# In one statement, as near as a sequence comes to a lock. From an older version's entry nothing can be told.
PUT_BACK: Final = """
SELECT setval($1::text::regclass, $2, $3) FROM {sequence}
 WHERE last_value = coalesce($4, last_value) AND is_called = coalesce($5, is_called)
"""


class Position(BaseModel):
    """Where a sequence stands: its last value, and whether that value has been given out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    last_value: int
    is_called: bool

    def next(self, increment: int) -> int:
        """The value that it gives out next."""
        return self.last_value + (increment if self.is_called else 0)


class Reset(BaseModel):
    """What became of a mapping's sequences: how many stand where they stood, and those that others have drawn from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    put_back: int = Field(default=0, ge=0)
    left: tuple[str, ...] = ()

    @property
    def stay(self) -> list[str]:
        """What is not as it was, for whoever reads that the target is what it was before."""
        return stay(self.left)

    def __str__(self) -> str:
        stay = f"; those that others have drawn from stay: {', '.join(self.left)}" if self.left else ""
        return f"{self.put_back:,} set back{stay}"


def stay(names: Sequence[str]) -> list[str]:
    """Says of each of these sequences that it is not set back."""
    return [f"the sequence {name} stays where others may have drawn from it" for name in names]


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

    A sequence never moves back. Its position before the phase, and where it is moved to, are kept first, each in a
    transaction of its own, because setval is not undone by a rollback.

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
                now, to, increment = await _where_to(connection, source, mapping, item, name, found["oid"])
                await connection.execute(LEAVE, run_id, phase, name, to.last_value, to.is_called)
            if to != now:
                async with fenced(connection, lease, limits=limits):
                    now = await position(connection, name)
                    if (to.next(increment) - now.next(increment)) * increment > 0:
                        await put(connection, name, to)
    return len(mapping.sequences)


async def _where_to(
    connection: Connection, source: Connection, mapping: ResolvedMapping, item: ResolvedSequence, name: str, oid: int
) -> tuple[Position, Position, int]:
    """Where the sequence stands, where it must stand, and its increment."""
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
    return candidates[0], wanted, increment


async def reset_sequences(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: int,
    phase: str = "",
    *,
    stay: bool = False,
    limits: Limits | None = None,
) -> Reset:
    """Puts the sequences of a mapping back to where they stood before the phase.

    Not one that stands elsewhere than the phase left it: somebody has drawn from it, and what they were given would be
    given out again. Holds when none was moved, and when a sequence is gone with its table. Those that belong to a table
    that has rows of its own stay: rows of the run may draw from them, too, and `knarr.postgres.before` puts them back
    when the last row has been taken back.

    Args:
        stay: rows of others stay in the table, whose keys may lie beyond the former position: none is put back.

    Raises:
        LostLease, TransientError, PlanError.
    """
    with classified(f"reading the positions of mapping {mapping}'s sequences before phase {phase}"):
        rows = await connection.fetch(REMEMBERED, run_id, mapping, phase)
        occupied = await connection.fetchval(IS_OCCUPIED, run_id, mapping)
    put_back, left = 0, []
    for row in rows:
        name: str = row["sequence"]
        with classified(f"putting the sequence {name} back", taking_back=True):
            async with fenced(connection, lease, limits=limits):
                if not (occupied and row["owned"]):
                    if await _put_back(connection, row, stay=stay):
                        put_back += 1
                    else:
                        left.append(name)
                await connection.execute(FORGET, run_id, mapping, phase, name)
    return Reset(put_back=put_back, left=tuple(left))


async def _put_back(connection: Connection, row: asyncpg.Record, *, stay: bool) -> bool:
    """Whether it stands where it stood before, or is gone; it stays where others have drawn from it."""
    name, before = row["sequence"], Position(last_value=row["last_value"], is_called=row["is_called"])
    if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name):
        return True
    if await position(connection, name) == before:
        return True
    if stay:
        return False
    left = row["left_value"], row["left_called"]
    query = PUT_BACK.format(sequence=name)
    return await connection.fetchval(query, name, before.last_value, before.is_called, *left) is not None


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
