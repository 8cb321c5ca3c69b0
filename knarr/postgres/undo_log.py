"""The end of an undo log: what a run that was completed could have been taken back by."""

from typing import Final

from knarr.plan.models import Limits
from knarr.postgres.failures import classified
from knarr.postgres.lease import Lease, fence
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction

DROP_LOG: Final = """
WITH dropped AS (
    DELETE FROM knarr.undo
     WHERE ctid = ANY (ARRAY(SELECT ctid FROM knarr.undo WHERE run_id = $1 LIMIT $2))
    RETURNING 1)
SELECT count(*) FROM dropped
"""
DROP_BATCH: Final = 100_000


async def drop_undo_log(connection: Connection, lease: Lease, run_id: str, *, limits: Limits | None = None) -> int:
    """Drops what is left of a run's undo log, in batches, and returns how many entries that were.

    From then on what the run did to occupied tables can't be taken back.

    Raises:
        LostLease, TransientError, PlanError.
    """
    total = 0
    with classified(f"dropping the undo log of run {run_id}"):
        while True:
            async with transaction(connection, limits):
                await fence(connection, lease)
                dropped: int = await connection.fetchval(DROP_LOG, run_id, DROP_BATCH)
            if not dropped:
                return total
            total += dropped
