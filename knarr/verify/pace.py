"""Sparing the servers: a pace in rows per second, and a hold while a query says that one of them is busy."""

import asyncio
from collections.abc import Callable
from typing import Final

from knarr.errors import DataError
from knarr.plan.models import Plan
from knarr.plan.proof import Busy
from knarr.plan.units import seconds
from knarr.postgres.failures import classified
from knarr.postgres.session import Pools
from knarr.postgres.transactions import transaction

# A query that takes longer says nothing about now.
LONGEST: Final = "30s"


class Pace:
    """The plan's pace for one of the partitions that are verified at once; without one in the plan nothing waits.

    Args:
        plan: its limits.verify_rows_per_second, verification.pause_while and parallelism.verify.
        pools: lends the connection that is asked whether it is busy.
        on_hold: told each time that it is.
    """

    def __init__(self, plan: Plan, pools: Pools, on_hold: Callable[[], None] | None = None) -> None:
        self._plan = plan
        self._pools = pools
        self._on_hold = on_hold
        allowed = plan.limits.verify_rows_per_second
        self._rows_per_second = allowed / plan.parallelism.verify if allowed else None

    async def until_quiet(self) -> None:
        """Returns when the plan's query says that its server is not busy.

        Raises:
            DataError: the query gives something other than one boolean.
            PlanError: it is wrong.
            TransientError: nobody answered.
        """
        busy = self._plan.verification.pause_while
        while busy is not None and await self._is(busy):
            if self._on_hold:
                self._on_hold()
            await asyncio.sleep(max(seconds(busy.every), 0.1))

    async def after(self, rows: int, took: float) -> None:
        """Waits for as long as the rows just compared, which took so many seconds, were compared too quickly."""
        if self._rows_per_second:
            await asyncio.sleep(max(0.0, rows / self._rows_per_second - took))

    async def _is(self, busy: Busy) -> bool:
        alias = {"source": self._plan.source, "target": self._plan.target}.get(busy.on, busy.on)
        brief = self._plan.limits.model_copy(update={"statement_timeout": LONGEST})
        async with self._pools.acquire(alias, read_only=True) as connection:
            with classified("asking whether the server is busy"):
                async with transaction(connection, brief, snapshot=True):
                    rows = await connection.fetch(busy.query)
        if len(rows) != 1 or len(rows[0]) != 1 or not isinstance(rows[0][0], bool):
            shown = type(rows[0][0]).__name__ if rows and len(rows[0]) else "nothing"
            raise DataError(
                f"verification.pause_while gave {shown}, {len(rows)} rows; expected one boolean",
                hint="SELECT count(*) > 20 FROM pg_stat_activity WHERE state = 'active'",
            )
        return rows[0][0]
