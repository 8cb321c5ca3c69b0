"""The ledger: which partitions of which phase were written, exactly once, and what they held."""

from decimal import Decimal
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from knarr.postgres.failures import classified
from knarr.postgres.lease import Lease
from knarr.postgres.session import Connection

# Nothing returned: the row stands, so the work is done. A live attempt's row makes this wait for its end (M7).
ENTER: Final = """
INSERT INTO knarr.ledger (run_id, mapping, phase, partition, epoch, attempt, xid)
VALUES ($1, $2, $3, $4, $5, $6, pg_current_xact_id())
ON CONFLICT (run_id, mapping, phase, partition) DO NOTHING
RETURNING true
"""
CLOSE: Final = """
UPDATE knarr.ledger
   SET rows = $5, bytes = $6, seconds = $7, inserted = $8, updated = $9, deleted = $10, others = $11,
       checksum_change = $12, copied_at = clock_timestamp()
 WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND partition = $4
"""
# The epoch is that of whoever wrote last; counts that are not known anew stay.
REPAIRED: Final = """
UPDATE knarr.ledger
   SET rows = coalesce($5, rows), bytes = coalesce($6, bytes), epoch = $7, repairs = repairs + 1,
       repaired_at = clock_timestamp(), repair_xids = array_append(repair_xids, pg_current_xact_id())
 WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND partition = $4
RETURNING true
"""
READ: Final = """
SELECT mapping, phase, partition, epoch, attempt, rows, bytes, seconds, inserted, updated, deleted
  FROM knarr.ledger
 WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND partition = $4
"""
READ_PHASE: Final = """
SELECT mapping, phase, partition, epoch, attempt, rows, bytes, seconds, inserted, updated, deleted
  FROM knarr.ledger
 WHERE run_id = $1 AND mapping = $2 AND phase = $3
 ORDER BY partition
"""
MISSING: Final = """
SELECT p.partition
  FROM knarr.partition p
 WHERE p.run_id = $1 AND p.mapping = $2
   AND NOT EXISTS (SELECT FROM knarr.ledger l
                    WHERE (l.run_id, l.mapping, l.partition) = (p.run_id, p.mapping, p.partition) AND l.phase = $3)
 ORDER BY p.partition
"""
SUM_ROWS: Final = """
SELECT phase, sum(rows)::bigint AS rows, sum(bytes)::bigint AS bytes, count(*) AS partitions
  FROM knarr.ledger
 WHERE run_id = $1 AND mapping = $2
 GROUP BY phase
"""
DELETE_PHASE: Final = "DELETE FROM knarr.ledger WHERE run_id = $1 AND mapping = $2 AND phase = $3"


class Changes(BaseModel):
    """What one partition did to an occupied table, and by how much it changed the sum of its rows' hashes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inserted: int = Field(ge=0)
    updated: int = Field(ge=0)
    deleted: int = Field(ge=0)
    others: int = Field(default=0, ge=0, description="of those updated or deleted: written by others during the run")
    checksum_change: Decimal


class LedgerRow(BaseModel):
    """One partition of one phase, as it was written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mapping: int
    phase: str
    partition: int
    epoch: int
    attempt: int
    rows: int
    bytes: int
    seconds: float
    inserted: int | None = None
    updated: int | None = None
    deleted: int | None = None


class PhaseTotal(BaseModel):
    """What the ledger holds of one mapping in one phase."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    partitions: int = Field(ge=0)


async def enter(
    connection: Connection, lease: Lease, run_id: str, mapping: int, phase: str, partition: int, attempt: int
) -> bool:
    """Puts the ledger row in first, inside the caller's fenced transaction; False when it stands already."""
    return bool(await connection.fetchval(ENTER, run_id, mapping, phase, partition, lease.epoch, attempt))


async def close(
    connection: Connection,
    run_id: str,
    mapping: int,
    phase: str,
    partition: int,
    rows: int,
    size: int,
    took: float,
    changes: Changes | None = None,
) -> None:
    """Writes what the partition held into its row, in the transaction that entered it."""
    changed = (None,) * 5 if changes is None else tuple(changes.model_dump().values())
    await connection.execute(CLOSE, run_id, mapping, phase, partition, rows, size, took, *changed)


async def note_repair(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: int,
    phase: str,
    partition: int,
    *,
    rows: int | None = None,
    size: int | None = None,
) -> bool:
    """Notes a repair and its transaction in the row of what it rewrote; False when there is no such row."""
    place = run_id, mapping, phase, partition
    return bool(await connection.fetchval(REPAIRED, *place, rows, size, lease.epoch))


async def read_row(connection: Connection, run_id: str, mapping: int, phase: str, partition: int) -> LedgerRow | None:
    """The row of one partition, or None when it was not written."""
    row = await connection.fetchrow(READ, run_id, mapping, phase, partition)
    return None if row is None else LedgerRow.model_validate(dict(row))


async def read_phase(connection: Connection, run_id: str, mapping: int, phase: str) -> list[LedgerRow]:
    """All rows of a mapping in a phase, by partition."""
    with classified("reading the ledger"):
        rows = await connection.fetch(READ_PHASE, run_id, mapping, phase)
    return [LedgerRow.model_validate(dict(row)) for row in rows]


async def missing_partitions(connection: Connection, run_id: str, mapping: int, phase: str) -> list[int]:
    """Numbers of the partitions that the ledger does not hold for this phase, ascending."""
    with classified("reading the ledger"):
        return [row["partition"] for row in await connection.fetch(MISSING, run_id, mapping, phase)]


async def phase_totals(connection: Connection, run_id: str, mapping: int) -> dict[str, PhaseTotal]:
    """What was written of a mapping, by phase; a phase without rows in the ledger is not there."""
    with classified("reading the ledger"):
        rows = await connection.fetch(SUM_ROWS, run_id, mapping)
        return {row["phase"]: PhaseTotal.model_validate(dict(row)) for row in rows}
