"""Who wrote a row of a table that a run fills, told by the transaction that the row shows.

Each partition was written by one transaction, whose id the ledger keeps and each row shows as its xmin; a repair is
another. That, and not the source, which has lived on since, says which rows are the run's and which a phase's.
"""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.identifiers import enclosed, literal, qualified
from knarr.postgres.session import Connection

# Conditions on a row called t, for $1 run, $2 mapping, $3 phase: written by this phase's copy, by somebody before it
# began, or by another phase's copy; in doubt are rows that were written anew since this phase began. Without an id (a
# ledger of an older version) all are in doubt.
OWN: Final = "SELECT xid FROM knarr.ledger WHERE (run_id, mapping, phase) = ($1, $2, $3) AND xid IS NOT NULL"
OTHERS: Final = "SELECT xid FROM knarr.ledger WHERE (run_id, mapping) = ($1, $2) AND phase <> $3 AND xid IS NOT NULL"
WRITTEN_BY_PHASE: Final = f"knarr.full_xid(t.xmin) IN ({OWN})"
IN_DOUBT: Final = f"""
knarr.full_xid(t.xmin) NOT IN ({OWN}) AND knarr.full_xid(t.xmin) NOT IN ({OTHERS})
AND (knarr.full_xid(t.xmin) < ({OWN} ORDER BY xid LIMIT 1)) IS NOT TRUE
"""
REPAIRED: Final = """
knarr.full_xid(t.xmin) IN (SELECT unnest(repair_xids) FROM knarr.ledger WHERE (run_id, mapping) = ($1, $2))
"""
COUNT_PHASE: Final = f"""
SELECT count(*) AS all, count(*) FILTER (WHERE {WRITTEN_BY_PHASE}) AS own, count(*) FILTER (WHERE {IN_DOUBT}) AS doubt,
       count(*) FILTER (WHERE {IN_DOUBT} AND {REPAIRED}) AS repaired
  FROM {{table}} AS t
 WHERE {{inside}}
"""

# Of a table of which only one phase has rows: what the run wrote, copied or repaired.
OF_THE_RUN: Final = (
    "SELECT xid FROM knarr.ledger WHERE (run_id, mapping) = ({run}, {mapping}) AND xid IS NOT NULL"
    " UNION ALL SELECT unnest(repair_xids) FROM knarr.ledger WHERE (run_id, mapping) = ({run}, {mapping})"
)
WRITTEN_BY_RUN: Final = f"knarr.full_xid(t.xmin) IN ({OF_THE_RUN.format(run='$1', mapping='$2')})"
# Grouped first: 2 M rows take 0.3 s like this, 0.9 s when each row is asked about; a plain count 0.1 s (measured).
COUNT_ALL: Final = f"""
SELECT coalesce(sum(t.rows), 0)::bigint AS all,
       coalesce(sum(t.rows) FILTER (WHERE {WRITTEN_BY_RUN}), 0)::bigint AS ours
  FROM (SELECT t.xmin, count(*) AS rows FROM {{table}} AS t WHERE {{inside}} GROUP BY t.xmin) AS t
"""
ALL_KNOWN: Final = "SELECT bool_and(xid IS NOT NULL) FROM knarr.ledger WHERE (run_id, mapping) = ($1, $2)"


class Written(BaseModel):
    """How many rows a table holds, and how many of them the run wrote; None where the ledger has no transactions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(ge=0)
    ours: int | None = Field(ge=0)

    def of_others(self, expected: int, *, in_use: bool) -> int:
        """How many rows may not be taken for the run's; 0 where they are as many as it wrote and not for use yet.

        Before anything of the run was proved a row that was changed goes with the rest, or one that is tampered with
        would keep a run from turning back by itself when its verification fails. One that was added makes them more
        than the run wrote. Once people were meant to use the table, each row that shows another transaction counts.

        Args:
            expected: how many the run wrote, by the ledger.
            in_use: a phase of the run was proved, so people were meant to use the table.
        """
        if self.ours is None:
            return abs(self.rows - expected)
        return self.rows - self.ours if in_use or self.rows != expected else 0


def inside(mapping: ResolvedMapping) -> str:
    """The condition under which a row of the mapping's table is one that the mapping fills: others may share it."""
    return enclosed(mapping.scope) if mapping.scope else "TRUE"


async def count_written(connection: Connection, run_id: str, mapping: ResolvedMapping) -> Written:
    """Counts the rows of a mapping's target by who wrote them, in the caller's transaction."""
    query = COUNT_ALL.format(table=qualified(mapping.target), inside=inside(mapping))
    counted = await connection.fetchrow(query, run_id, mapping.number)
    if counted is None:
        raise RuntimeError("counting returned no row")
    known = await all_known(connection, run_id, mapping)
    return Written(rows=counted["all"], ours=counted["ours"] if known else None)


async def all_known(connection: Connection, run_id: str, mapping: ResolvedMapping) -> bool:
    """Whether the ledger has the transaction of every partition; one of an older version has not."""
    return bool(await connection.fetchval(ALL_KNOWN, run_id, mapping.number))


def list_others(run_id: str, mapping: ResolvedMapping) -> str:
    """A query for people: the rows of a mapping's target that show transactions which are not the run's."""
    ours = OF_THE_RUN.format(run=literal(run_id), mapping=mapping.number)
    table, scope = qualified(mapping.target), f" AND {inside(mapping)}" if mapping.scope else ""
    return f"SELECT t.* FROM {table} AS t WHERE knarr.full_xid(t.xmin) NOT IN ({ours}){scope}"
