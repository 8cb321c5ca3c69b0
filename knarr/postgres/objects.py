"""Tables, keys, indexes and constraints that the run makes on the target, and takes back in reverse."""

from collections.abc import Sequence
from typing import Final

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.models import Limits
from knarr.plan.resolved import DatabaseObject, ResolvedMapping, Stage
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.session import Connection

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
    limits: Limits | None = None,
) -> int:
    """Takes back what the run made for a mapping in these stages, newest first, and returns how many objects that were.

    Holds when nothing was made, or a part, or somebody else dropped it. Never cascades.

    Raises:
        PlanError: something that the run did not make depends on one of them.
        LostLease, TransientError.
    """
    dropped = 0
    with classified("reading which objects the run has made"):
        standing = await connection.fetch(STANDING, run_id, mapping, list(stages))
    for row in standing:
        with classified(f"dropping {row['kind']} {row['name']} ({row['drop_sql']})"):
            async with fenced(connection, lease, limits=limits):
                await connection.execute(row["drop_sql"])
                await connection.execute(FORGET, run_id, mapping, row["stage"], row["kind"], row["name"])
                await _audit(connection, run_id, mapping, row["kind"], row["name"], "drop", lease.epoch)
        dropped += 1
    return dropped


async def _audit(
    connection: Connection, run_id: str, mapping: int, kind: str, name: str, verb: str, epoch: int
) -> None:
    """Last in its transaction: the chain's head is locked until the commit, and other builds must not wait."""
    body = {"step": f"{verb} {kind} {name}", "outcome": "done"}
    label = name.encode("unicode_escape").decode("ascii")  # an audit key holds no control characters
    key = f"{verb} {mapping}/{kind}/{label}/epoch {epoch}"
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
