"""Foreign keys of other tables that point at a mapping's: what deleting rows here would do there."""

from collections.abc import Sequence
from typing import Final

from knarr.errors import DataError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.session import Connection

# Foreign keys of other tables that point here: TRUNCATE refuses them, DELETE may cascade through them.
POINTING_HERE: Final = """
SELECT conrelid::regclass::text AS referencing, c.conname AS name,
       confdeltype::text IN ('c', 'n', 'd') AS changes_rows,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.conrelid, k.number)) AS columns,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.confrelid, k.number)) AS referenced
  FROM pg_constraint c
 WHERE c.contype = 'f' AND c.confrelid = to_regclass($1) AND c.conrelid <> c.confrelid
"""


async def refuse_changes_elsewhere(
    connection: Connection, mapping: ResolvedMapping, doomed: str, arguments: Sequence[object]
) -> None:
    """Deleting must not cascade into other tables: a row there that points at a doomed row stops it."""
    for row in await connection.fetch(POINTING_HERE, qualified(mapping.target)):
        if not row["changes_rows"]:
            continue
        pairs = zip(row["columns"], row["referenced"], strict=True)
        joined = " AND ".join(f"r.{quote(own)} = t.{quote(other)}" for own, other in pairs)
        query = (
            f"SELECT EXISTS (SELECT FROM {row['referencing']} AS r JOIN {qualified(mapping.target)} AS t ON {joined} "
            f"WHERE {doomed})"
        )
        if await connection.fetchval(query, *arguments):
            raise DataError(
                f"rows of {row['referencing']} point at rows of {mapping.name} that are to be taken back, and its "
                f"foreign key {row['name']} would delete or change them",
                hint=f"take those rows out of {row['referencing']} first, or skip this step with a reason",
            )
