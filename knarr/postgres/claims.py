"""Which run holds which target table: at most one run writes to a table at a time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from knarr.plan.resolved import TableName
from knarr.postgres.session import Connection

# In one order for everybody, so that two starts wait for each other and never deadlock.
INSERT: Final = """
INSERT INTO knarr.claim (table_schema, table_name, run_id)
SELECT s, n, $3 FROM unnest($1::text[], $2::text[]) AS t (s, n) ORDER BY s, n
ON CONFLICT (table_schema, table_name) DO NOTHING
"""
HELD_BY_OTHERS: Final = """
SELECT c.table_schema, c.table_name, c.run_id, r.plan_name, r.state, r.started_at
  FROM knarr.claim c
  JOIN knarr.run r USING (run_id)
  JOIN unnest($1::text[], $2::text[]) AS t (s, n) ON (c.table_schema, c.table_name) = (t.s, t.n)
 WHERE c.run_id IS DISTINCT FROM $3
 ORDER BY 1, 2
"""


class Held(BaseModel):
    """A table that somebody wants and another run holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: TableName
    run_id: str
    plan_name: str
    state: str
    started_at: datetime


async def take(connection: Connection, run_id: str, tables: Sequence[TableName]) -> list[Held]:
    """Takes the tables for a run, within the caller's transaction; what it can't have is told, and is to end it."""
    await connection.execute(INSERT, *_split(tables), run_id)
    return await held_by_others(connection, run_id, tables)


async def held_by_others(connection: Connection, run_id: str | None, tables: Sequence[TableName]) -> list[Held]:
    """Those of the tables that other runs hold."""
    rows = await connection.fetch(HELD_BY_OTHERS, *_split(tables), run_id)
    return [
        Held(
            table=TableName(schema_name=row["table_schema"], name=row["table_name"]),
            run_id=row["run_id"],
            plan_name=row["plan_name"],
            state=row["state"],
            started_at=row["started_at"],
        )
        for row in rows
    ]


def _split(tables: Sequence[TableName]) -> tuple[list[str], list[str]]:
    return [table.schema_name for table in tables], [table.name for table in tables]
