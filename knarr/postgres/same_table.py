"""The table that a run writes to is known by its oid: a renamed one is still it, another of its name is not."""

from typing import Final

from knarr.errors import DataError
from knarr.postgres.session import Connection

MADE: Final = "UPDATE knarr.mapping SET table_oid = to_regclass(table_sql) WHERE run_id = $1 AND mapping = $2"
MOVED: Final = """
SELECT m.name, c.oid::regclass::text AS now, to_regclass(m.table_sql) IS NOT NULL AS replaced
  FROM knarr.mapping m JOIN pg_catalog.pg_class c ON c.oid = m.table_oid
 WHERE m.run_id = $1 AND m.mapping = $2 AND c.oid IS DISTINCT FROM to_regclass(m.table_sql)
"""

DETACHED: Final = """
SELECT m.name, c.oid::regclass::text AS part
  FROM knarr.mapping m JOIN pg_catalog.pg_class c ON c.oid = ANY (m.part_oids)
 WHERE m.run_id = $1 AND m.mapping = $2 AND to_regclass(m.table_sql) IS NOT NULL
   AND c.oid NOT IN (SELECT relid FROM pg_partition_tree(to_regclass(m.table_sql)))
 ORDER BY 2 LIMIT 1
"""


async def made(connection: Connection, run_id: str, mapping: int) -> None:
    """The run has just made the mapping's table, in the caller's transaction."""
    await connection.execute(MADE, run_id, mapping)


async def require_same_table(connection: Connection, run_id: str, mapping: int) -> None:
    """Stops where the mapping's table has another name now, or a part of it is none any more: the rows would stay.

    Holds when it is gone altogether, and when it is not known (no survey was stored, or by an older version).

    Raises:
        DataError: with its new name, or that of the part.
    """
    moved = await connection.fetchrow(MOVED, run_id, mapping)
    if moved is None:
        detached = await connection.fetchrow(DETACHED, run_id, mapping)
        if detached is not None:
            raise DataError(
                f"{detached['part']} was a partition of {detached['name']} when the run wrote to it, and was detached",
                hint="attach it again, and retry; or drop it, if its rows may go; or skip this step with a reason, and "
                "they stay; nothing was changed",
            )
        return
    name, another = moved["name"], ("", "")
    if moved["replaced"]:
        another = f", and another table is called {name}", ", and the other one another"
    raise DataError(
        f"the table that the run knows as {name} is called {moved['now']} now{another[0]}: somebody has renamed it",
        hint=f"give it the name {name} again{another[1]}, and retry; or skip this step with a reason, and it stays as "
        "it is; nothing was changed",
    )
