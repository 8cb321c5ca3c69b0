"""Tables, keys, indexes and constraints that the run makes on the target, and takes back in reverse.

A table is dropped when it holds no row: what the run wrote was removed before, so what is there is somebody else's.
"""

from collections.abc import Sequence
from typing import Final

import asyncpg

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.models import Limits
from knarr.plan.resolved import DatabaseObject, ResolvedMapping, Stage
from knarr.postgres import others, same_table
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from knarr.wording import counted

OF_THE_RUN: Final = -1  # the mapping number of objects that belong to no mapping: schemas, types

ENTER: Final = """
INSERT INTO knarr.object (run_id, mapping, stage, kind, name, drop_sql, epoch)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (run_id, mapping, stage, kind, name) DO NOTHING
RETURNING true
"""
STANDING: Final = """
SELECT stage, kind, name, drop_sql
  FROM knarr.object
 WHERE run_id = $1 AND mapping = $2 AND stage = ANY ($3)
 ORDER BY sequence DESC
"""
DROP_TABLE: Final = "DROP TABLE IF EXISTS "  # how `ddl.table` begins a drop; the quoted name follows
IS_TABLE: Final = "SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = to_regclass($1)"
FORGET: Final = """
DELETE FROM knarr.object
 WHERE run_id = $1 AND mapping = $2 AND stage = $3 AND kind = $4 AND name = $5
"""


async def create_objects(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: int,
    objects: Sequence[DatabaseObject],
    *,
    limits: Limits | None = None,
) -> int:
    """Makes the objects in the given order and returns how many were made now; those that the run made before stay.

    Each object is one fenced transaction with its row in `knarr.object`, so what stands and what is recorded agree.

    Args:
        mapping: the mapping's number; `OF_THE_RUN` for the run's own objects.

    Raises:
        DataError: an object of that name is in the way, or the rows do not meet a constraint.
        PlanError: the statement or a privilege is wrong.
        LostLease, TransientError.
    """
    made = 0
    for item in objects:
        with classified(f"creating {item.kind} {item.name}"):
            async with fenced(connection, lease, limits=limits):
                if not await connection.fetchval(
                    ENTER, run_id, mapping, item.stage, item.kind, item.name, item.drop, lease.epoch
                ):
                    continue
                if await connection.fetchrow(item.probe):
                    raise DataError(
                        f"{item.kind} {item.name} is in the way: it exists on the target, and this run did not make it",
                        hint="rename or drop it, or change the plan; Knarr does not touch what it did not make",
                    )
                await connection.execute(item.create)
                if item.kind == "table":
                    await same_table.made(connection, run_id, mapping)
                made += 1
                await _audit(connection, run_id, mapping, item.kind, item.name, "create", lease.epoch)
    return made


async def drop_objects(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: int,
    stages: Sequence[Stage],
    *,
    changed_since: ChangedSince = "stop",
    limits: Limits | None = None,
) -> int:
    """Takes back what the run made for a mapping in these stages, newest first, and returns how many objects that were.

    Holds when nothing was made, or a part, or somebody else dropped it. Never cascades.

    Args:
        changed_since: 'restore ours' lets a table go with rows of others in it; so does a person's decision.

    Raises:
        DataError: a table holds rows, or is called something else now; it is left with all of them.
        PlanError: something that the run did not make depends on one of them.
        LostLease, TransientError.
    """
    dropped = 0
    with classified("reading which objects the run has made"):
        standing = await connection.fetch(STANDING, run_id, mapping, list(stages))
    for row in standing:
        with classified(f"dropping {row['kind']} {row['name']} ({row['drop_sql']})", taking_back=True):
            async with fenced(connection, lease, limits=limits):
                await same_table.require_same_table(connection, run_id, mapping)
                gone = 0
                if row["kind"] == "table":
                    gone = await _rows_that_go(connection, run_id, mapping, row, changed_since)
                await connection.execute(row["drop_sql"])
                await connection.execute(FORGET, run_id, mapping, row["stage"], row["kind"], row["name"])
                if gone:
                    place = f"{mapping}/drop {_label(row['name'])}"
                    summary = f"{row['name']} was dropped with {counted(gone, 'row')} that others had written"
                    await others.note(connection, lease, run_id, place, "restore ours", summary)
                await _audit(connection, run_id, mapping, row["kind"], row["name"], "drop", lease.epoch)
        dropped += 1
    return dropped


async def _rows_that_go(
    connection: Connection, run_id: str, mapping: int, row: asyncpg.Record, changed_since: ChangedSince
) -> int:
    """How many rows a table is dropped with, by decision; it is locked, so that none comes before it is gone."""
    table = row["drop_sql"].removeprefix(DROP_TABLE)
    if not await connection.fetchval(IS_TABLE, table):
        return 0
    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    rows: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    decided = await others.policy(connection, run_id, mapping, changed_since)
    if not rows or decided == "restore ours":
        return rows
    kept = "; 'keep theirs' was decided" if decided == "keep theirs" else ""
    raise DataError(
        f"{row['name']} is not dropped: it holds {counted(rows, 'row')} that the run has not taken out: somebody else "
        f"wrote them, or that step was skipped{kept}",
        hint=f"look at them: SELECT * FROM {table}; take them elsewhere and out of this table, or on the target: "
        f"{others.decide(run_id, row['name'], 'restore ours')} (they go with the table), and retry; or skip this "
        "step with a reason, and the table stays",
    )


def _label(name: str) -> str:
    return name.encode("unicode_escape").decode("ascii")  # an audit key holds no control characters


async def _audit(
    connection: Connection, run_id: str, mapping: int, kind: str, name: str, verb: str, epoch: int
) -> None:
    """Last in its transaction: the chain's head is locked until the commit, and other builds must not wait."""
    body = {"step": f"{verb} {kind} {name}", "outcome": "done"}
    key = f"{verb} {mapping}/{kind}/{_label(name)}/epoch {epoch}"
    await chain.append(connection, run_id, key, "step" if verb == "create" else "compensation", body)


async def analyze(
    connection: Connection, lease: Lease, mapping: ResolvedMapping, *, limits: Limits | None = None
) -> None:
    """Refreshes the planner's statistics of a mapping's target table, so that verification and users get sane plans.

    Raises:
        LostLease, TransientError, PlanError.
    """
    with classified(f"analysing {mapping.name}"):
        async with fenced(connection, lease, limits=limits):
            await connection.execute(f"ANALYZE {qualified(mapping.target)}")
