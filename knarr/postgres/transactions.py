"""Transactions with the plan's time limits, which never leave a half-done connection behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import asyncpg

from knarr.plan.models import Limits
from knarr.plan.units import seconds
from knarr.postgres.session import Connection, end

ROLLBACK_SECONDS: Final = 5.0


@contextlib.asynccontextmanager
async def transaction(
    connection: Connection, limits: Limits | None = None, *, snapshot: bool = False
) -> AsyncIterator[None]:
    """A transaction with the plan's time limits that never leaves a half-done connection; errors pass as they are.

    READ COMMITTED, as the fence needs it; with `snapshot` REPEATABLE READ and READ ONLY, for what is only read. On a
    cancellation the connection is ended at once, which rolls back: one that came between BEGIN and its answer would
    else leave a transaction that asyncpg does not know of.
    """
    begun = connection.transaction(isolation="repeatable_read" if snapshot else "read_committed", readonly=snapshot)
    try:
        await begun.start()
        if limits is not None:
            for name, value in (("lock_timeout", limits.lock_timeout), ("statement_timeout", limits.statement_timeout)):
                await connection.execute("SELECT set_config($1, $2, true)", name, f"{round(seconds(value) * 1000)}ms")
        yield
    except Exception:
        await _roll_back(connection, begun)
        raise
    except BaseException:
        await end(connection)
        raise
    try:
        await begun.commit()
    except asyncio.CancelledError:
        await end(connection)
        raise


async def _roll_back(connection: Connection, begun: asyncpg.transaction.Transaction) -> None:
    if connection.is_closed():
        return
    try:
        await asyncio.wait_for(begun.rollback(), ROLLBACK_SECONDS)
    except Exception:
        # The error that led here is the one to tell, and a closed socket rolls back as surely. A COPY that was
        # cancelled at a bad moment leaves asyncpg in a state in which it refuses any query (InternalClientError).
        await end(connection)
