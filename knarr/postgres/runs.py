"""The run's own record in the target: its plan and state, its checkpoints."""

from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from knarr.errors import PlanError
from knarr.plan.models import Plan
from knarr.plan.resolved import Survey
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection

# What to do where the knarr schema was dropped under a run; it ends a sentence.
GONE: Final = (
    "its knarr schema was dropped, restore that from a backup (pg_restore --schema knarr): without the record in it "
    "nothing of the run can be taken back or proved"
)
HAS_SCHEMA: Final = "SELECT to_regclass('knarr.lease') IS NOT NULL"
HOLDS_LEASE: Final = "SELECT EXISTS (SELECT FROM knarr.lease WHERE run_id = $1 AND NOT released)"
IS_KNOWN: Final = "SELECT EXISTS (SELECT FROM knarr.run WHERE run_id = $1)"
SET_STATE: Final = "UPDATE knarr.run SET state = $2 WHERE run_id = $1"
LOAD_RUN: Final = """
SELECT plan::text, plan_hash, state, started_at, survey::text, clock_timestamp() AS read_at
  FROM knarr.run
 WHERE run_id = $1
"""
# After a raise of the epoch a skip answers a compensation that is stuck, and not the verdict before it. Bodies are
# canonical JSON; what people say in them may be no jsonb.
WAS_ACCEPTED: Final = """
SELECT EXISTS (
    SELECT FROM knarr.audit AS skip, knarr.audit AS verdict
     WHERE (skip.run_id, verdict.run_id) = ($1, $1) AND verdict.kind = 'verdict'
       AND verdict.body::jsonb @> jsonb_build_object('phase', $2::text, 'round', $3::int)
       AND skip.kind = 'operator' AND skip.body LIKE '{"accepted":true,"action":"skip",%'
       AND skip.position > verdict.position
       AND NOT EXISTS (SELECT FROM knarr.audit AS raised
                        WHERE raised.run_id = $1 AND raised.entry_key LIKE 'raise epoch %'
                          AND raised.position BETWEEN verdict.position AND skip.position)
)
"""
ADD_CHECKPOINT: Final = "INSERT INTO knarr.checkpoint (run_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING"
REMOVE_CHECKPOINT: Final = "DELETE FROM knarr.checkpoint WHERE run_id = $1 AND name = $2"


class RunRecord(BaseModel):
    """What the target holds of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    plan_hash: str
    state: str
    started_at: datetime
    survey: Survey | None
    read_at: datetime


async def holds_lease(connection: Connection, run_id: str) -> bool:
    """Whether the run has a lease that is not released; False too where Knarr has never been."""
    with classified("looking for the run's lease"):
        if not await connection.fetchval(HAS_SCHEMA):
            return False
        return bool(await connection.fetchval(HOLDS_LEASE, run_id))


async def has_schema(connection: Connection) -> bool:
    """Whether there is a knarr schema, with a record of any run."""
    with classified("looking for the knarr schema"):
        return bool(await connection.fetchval(HAS_SCHEMA))


async def is_known(connection: Connection, run_id: str) -> bool:
    """Whether this database has a record of the run; False too where Knarr has never been."""
    with classified("looking for the run"):
        if not await connection.fetchval(HAS_SCHEMA):
            return False
        return bool(await connection.fetchval(IS_KNOWN, run_id))


async def load_run(connection: Connection, run_id: str) -> RunRecord:
    """The run's record.

    Raises:
        PlanError: the run is not known in this database.
    """
    with classified("reading the run"):
        row = await connection.fetchrow(LOAD_RUN, run_id)
    if row is None:
        raise PlanError(f"run {run_id} is not known in this database", hint="is the target's alias the one of the run?")
    return RunRecord(
        plan=Plan.model_validate_json(row["plan"]),
        plan_hash=row["plan_hash"],
        state=row["state"],
        started_at=row["started_at"],
        survey=Survey.model_validate_json(row["survey"]) if row["survey"] else None,
        read_at=row["read_at"],
    )


async def set_state(connection: Connection, run_id: str, state: str) -> None:
    """Changes the run's state, within the caller's fenced transaction."""
    await connection.execute(SET_STATE, run_id, state)


async def was_accepted(connection: Connection, run_id: str, phase: str, round: int) -> bool:
    """Whether a person decided, on the record and after that verdict, to go on in spite of what it found."""
    return bool(await connection.fetchval(WAS_ACCEPTED, run_id, phase, round))


async def add_checkpoint(connection: Connection, run_id: str, name: str) -> None:
    """Records a checkpoint, within the caller's fenced transaction."""
    await connection.execute(ADD_CHECKPOINT, run_id, name)


async def remove_checkpoint(connection: Connection, run_id: str, name: str) -> None:
    """Forgets a checkpoint, within the caller's fenced transaction; holds when it was never reached."""
    await connection.execute(REMOVE_CHECKPOINT, run_id, name)
