"""Guards: asking one figure, and holding it against the bounds that the plan gives it."""

import math
from decimal import Decimal

import structlog

from knarr.errors import DataError, KnarrError
from knarr.plan.criteria import Guard
from knarr.plan.models import Limits
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction

log = structlog.get_logger(__name__)

# A figure that takes longer says nothing about now.
LONGEST = "30s"


async def ask(connection: Connection, guard: Guard, limits: Limits) -> float:
    """The figure that a guard's query gives, in a read-only transaction of at most 30 seconds.

    Raises:
        DataError: it gave something other than one number.
        PlanError: the query is wrong.
        TransientError: nobody answered, or not in time.
    """
    try:
        return await _figure(connection, guard, limits.model_copy(update={"statement_timeout": LONGEST}))
    except KnarrError as error:
        if error.detail:
            # A breach of a guard that can't be asked is told in history, and history holds no row.
            log.warning("guard gave no figure", guard=guard.name, message=error.detail)
        raise


async def _figure(connection: Connection, guard: Guard, limits: Limits) -> float:
    with classified(f"asking guard '{guard.name}'"):
        async with transaction(connection, limits, snapshot=True):
            rows = await connection.fetch(guard.query)
    if len(rows) != 1 or len(rows[0]) != 1:
        width = f" of {len(rows[0])} columns" if rows else ""
        raise DataError(f"guard '{guard.name}' gave {len(rows)} rows{width}, expected one number")
    figure = rows[0][0]
    if isinstance(figure, bool) or not isinstance(figure, int | float | Decimal) or math.isnan(figure):
        shown = "NULL" if figure is None else type(figure).__name__
        if isinstance(figure, float | Decimal):
            shown = "NaN"
        raise DataError(
            f"guard '{guard.name}' gave {shown}, expected a number",
            detail=f"guard '{guard.name}' gave {shown} {str(figure)[:40]!r}, expected a number",
        )
    return float(figure)


def breach(guard: Guard, figure: float) -> str:
    """Which bound the figure breaks, in one line for people; empty when it is well."""
    if guard.max is not None and figure > guard.max:
        return f"guard '{guard.name}' breached: {figure:,.15g} is above max {guard.max:,.15g}"
    if guard.min is not None and figure < guard.min:
        return f"guard '{guard.name}' breached: {figure:,.15g} is below min {guard.min:,.15g}"
    return ""
