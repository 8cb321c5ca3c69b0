"""How many rows and bytes a mapping will move, from statistics, or by counting where a table is small."""

from typing import Final

from knarr.postgres.identifiers import enclosed, quote
from knarr.postgres.survey.ask import Failure, explain
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.sketches import Sketch

COUNTED_BELOW: Final = 64 * 1024 * 1024


async def estimate(inquiry: Inquiry, sketch: Sketch) -> tuple[int, int]:
    """Rows and bytes. Asking also proves that this role may read every table of the mapping; if not, a problem."""
    where = f" WHERE {enclosed(sketch.mapping.where)}" if sketch.mapping.where else ""
    values = ", ".join(f"{enclosed(column.expression or '')} AS {quote(column.name)}" for column in sketch.copied)
    planned = await explain(inquiry.source, f"SELECT {values} FROM {sketch.from_clause}{where}")
    if isinstance(planned, Failure):
        inquiry.problems.refused(sketch.where("source"), planned, expected="a query that this role may run")
        sketch.unreadable = True
        return 0, 0
    table = sketch.source_table
    whole = not where and not sketch.mapping.joins
    rows = planned
    if table.rows >= 0 and whole:
        rows = table.rows
    elif table.rows < 0 and table.kind in ("table", "partitioned table") and table.main_bytes < COUNTED_BELOW:
        async with inquiry.source.transaction(readonly=True):
            rows = await inquiry.source.fetchval(f"SELECT count(*) FROM {sketch.from_clause}{where}")
    share = min(1.0, rows / table.rows) if table.rows > 0 and not whole else 1.0
    return round(rows), round(table.bytes * share)
