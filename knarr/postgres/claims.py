"""Which run holds which target table: at most one run writes to a table at a time.

Who writes to a partitioned table writes to its partitions, and so it is with tables that inherit; so a claim holds
against a claim of any table above or below it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from knarr.plan.resolved import TableName
from knarr.postgres.session import Connection

CLAIM_LOCK: Final = 1668047213  # 'clam': classid of the lock under which claims are made one after the other

# The primary key holds a table against a claim of the same name alone; that of a partition is another name's. So claims
# come one by one, each seeing what those before it committed.
ONE_BY_ONE: Final = "SELECT pg_advisory_xact_lock($1::int, 0)"
INSERT: Final = """
INSERT INTO knarr.claim (table_schema, table_name, run_id)
SELECT s, n, $3 FROM unnest($1::text[], $2::text[]) AS t (s, n) ORDER BY s, n
ON CONFLICT (table_schema, table_name) DO NOTHING
"""
# A table that is not there yet has a name and no kin.
HELD_BY_OTHERS: Final = """
WITH RECURSIVE wanted (s, n, oid) AS (
    SELECT t.s, t.n, c.oid
      FROM unnest($1::text[], $2::text[]) AS t (s, n)
      LEFT JOIN pg_namespace AS ns ON ns.nspname = t.s
      LEFT JOIN pg_class AS c ON c.relnamespace = ns.oid AND c.relname = t.n
), above (s, n, oid) AS (
    SELECT w.s, w.n, i.inhparent FROM wanted AS w JOIN pg_inherits AS i ON i.inhrelid = w.oid
     UNION
    SELECT a.s, a.n, i.inhparent FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.oid
), below (s, n, oid) AS (
    SELECT w.s, w.n, i.inhrelid FROM wanted AS w JOIN pg_inherits AS i ON i.inhparent = w.oid
     UNION
    SELECT b.s, b.n, i.inhrelid FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.oid
), family (s, n, held_s, held_n, kin) AS (
    SELECT s, n, s, n, 'itself' FROM wanted
     UNION ALL
    SELECT k.s, k.n, ns.nspname::text, c.relname::text, k.kin
      FROM (SELECT *, 'above' AS kin FROM above UNION ALL SELECT *, 'below' AS kin FROM below) AS k
      JOIN pg_class AS c ON c.oid = k.oid
      JOIN pg_namespace AS ns ON ns.oid = c.relnamespace
)
SELECT DISTINCT f.s, f.n, f.held_s, f.held_n, f.kin, c.run_id, r.plan_name, r.state, r.started_at
  FROM family AS f
  JOIN knarr.claim AS c ON (c.table_schema, c.table_name) = (f.held_s, f.held_n)
  JOIN knarr.run AS r USING (run_id)
 WHERE c.run_id IS DISTINCT FROM $3
 ORDER BY f.s, f.n, f.held_s, f.held_n
"""


class Held(BaseModel):
    """A table that somebody wants, and what another run holds of it: the table, one above it or one below it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wanted: TableName
    table: TableName
    kin: Literal["itself", "above", "below"]
    run_id: str
    plan_name: str
    state: str
    started_at: datetime

    def kinship(self, wanted: str) -> str:
        """What the table that is held is to the one that is wanted, to be put behind its name; empty if it is that."""
        return {"itself": "", "above": f", of which {wanted} is a part", "below": f", a part of {wanted}"}[self.kin]


async def take(connection: Connection, run_id: str, tables: Sequence[TableName]) -> list[Held]:
    """Takes the tables for a run, within the caller's READ COMMITTED transaction.

    Returns:
        What other runs hold of them: the caller has to roll back then.
    """
    await connection.execute(ONE_BY_ONE, CLAIM_LOCK)
    await connection.execute(INSERT, *_split(tables), run_id)
    return await held_by_others(connection, run_id, tables)


async def held_by_others(connection: Connection, run_id: str | None, tables: Sequence[TableName]) -> list[Held]:
    """What other runs hold of the tables, of tables above them and of tables below them."""
    rows = await connection.fetch(HELD_BY_OTHERS, *_split(tables), run_id)
    return [
        Held(
            wanted=TableName(schema_name=row["s"], name=row["n"]),
            table=TableName(schema_name=row["held_s"], name=row["held_n"]),
            kin=row["kin"],
            run_id=row["run_id"],
            plan_name=row["plan_name"],
            state=row["state"],
            started_at=row["started_at"],
        )
        for row in rows
    ]


def _split(tables: Sequence[TableName]) -> tuple[list[str], list[str]]:
    return [table.schema_name for table in tables], [table.name for table in tables]
