"""Foreign keys that point at a mapping's table: what deleting rows there would do elsewhere."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from knarr.errors import DataError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.session import Connection

# Of other tables TRUNCATE refuses them; DELETE may cascade through them, also through one of the table's own. One may
# also point at a part of it alone, and one that points at a table that it is a part of points at its rows too.
POINTING_HERE: Final = """
SELECT conrelid::regclass::text AS referencing, c.conname AS name, c.conrelid = c.confrelid AS itself,
       CASE WHEN c.confrelid <> to_regclass($1) THEN c.confrelid END AS part,
       confdeltype::text IN ('c', 'n', 'd') AS changes_rows,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.conrelid, k.number)) AS columns,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.confrelid, k.number)) AS referenced
  FROM pg_constraint c
 WHERE c.contype = 'f' AND c.conparentid = 0
   AND (c.confrelid = to_regclass($1) OR c.confrelid IN (SELECT relid FROM pg_partition_tree(to_regclass($1)))
        OR c.confrelid IN (SELECT relid FROM pg_partition_ancestors(to_regclass($1))))
"""
# A row elsewhere whose transaction is not over can't be seen, but its foreign key has locked the row that it points at.
# That lock is waited for here, before anybody looks; the DELETE would wait for it too, and then cascade.
LOCK_DOOMED: Final = "SELECT count(*) FROM (SELECT 1 FROM {table} AS t WHERE {doomed} FOR UPDATE OF t) AS locked"
STAYS: Final = "NOT EXISTS (SELECT FROM {table} AS t WHERE (t.tableoid, t.ctid) = (r.tableoid, r.ctid) AND ({doomed}))"


async def refuse_changes_elsewhere(
    connection: Connection, mapping: ResolvedMapping, doomed: str, arguments: Sequence[object]
) -> None:
    """Deleting must not cascade: a row that stays and points at a doomed row stops it. Locks the doomed rows.

    Args:
        doomed: a condition on a row called t of the mapping's table, in which nobody may insert any more.
        arguments: what it binds.

    Raises:
        DataError: with the foreign key that would delete or change rows; nothing is changed.
    """
    table = qualified(mapping.target)
    changing = [row for row in await connection.fetch(POINTING_HERE, table) if row["changes_rows"]]
    if changing:
        await connection.execute(LOCK_DOOMED.format(table=table, doomed=doomed), *arguments)
    for row in changing:
        joined = pointing(row, "r", "t")
        stays = STAYS.format(table=table, doomed=doomed) if row["itself"] else "TRUE"
        query = (
            f"SELECT EXISTS (SELECT FROM {row['referencing']} AS r JOIN {table} AS t ON {joined} "
            f"WHERE ({doomed}) AND {stays})"
        )
        if await connection.fetchval(query, *arguments):
            raise pointed_at(mapping, row["referencing"], row["name"], cascades=True)


def pointing(row: asyncpg.Record, referencing: str, table: str) -> str:
    """The condition on two rows, quoted and called so, under which one points at the other by that foreign key."""
    pairs = zip(row["columns"], row["referenced"], strict=True)
    joined = [f"{referencing}.{quote(own)} = {table}.{quote(other)}" for own, other in pairs]
    if row["part"]:
        parts = f"SELECT relid FROM pg_partition_tree({row['part']}::oid::regclass)"
        joined.append(f"{table}.tableoid IN ({parts})")
    return " AND ".join(joined)


def pointed_at(mapping: ResolvedMapping, referencing: str, name: str, *, cascades: bool = False) -> DataError:
    """Rows of a table point at rows that are to go; the foreign key forbids that, or would take them along."""
    effect = "would delete or change them" if cascades else "does not let them go"
    return DataError(
        f"rows of {referencing} point at rows of {mapping.name} that are to be taken back, and its foreign key {name} "
        f"{effect}",
        hint=f"take those rows out of {referencing} or point them elsewhere, and retry; or skip this step with a "
        "reason; nothing of it was changed",
    )
