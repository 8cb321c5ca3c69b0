"""Publications of the target that keep rows from being updated or deleted, and so from being taken back.

A table that is sent on needs a replica identity; without one the server takes INSERT and refuses the rest.
"""

from typing import Final

import asyncpg

from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sketches import Sketch

_SCHEMAS_SINCE: Final = 15  # FOR TABLES IN SCHEMA
_SENT: Final = "p.pubupdate OR p.pubdelete"

# The table, or its partitions: it is they that are written to. Each is published as itself, and as a part of all that
# it is a partition of.
_WITHOUT_IDENTITY: Final = f"""
SELECT n.nspname::text AS schema_name, c.relname::text AS name, u.publications,
       (SELECT i.relname::text FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
         WHERE x.indrelid = c.oid AND {{usable}} AND x.indexprs IS NULL
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                            WHERE a.attrelid = c.oid AND a.attnum = ANY(x.indkey) AND NOT a.attnotnull)
         ORDER BY x.indisprimary DESC, x.indnkeyatts, i.relname LIMIT 1) AS index
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT ARRAY(SELECT c.oid UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)) AS oids) AS line
 CROSS JOIN LATERAL (
       SELECT array_agg(p.pubname::text ORDER BY p.pubname) AS publications FROM pg_catalog.pg_publication p
        WHERE ({_SENT}) AND (p.puballtables
           OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                       WHERE r.prpubid = p.oid AND r.prrelid = ANY(line.oids)){{of_schema}})) AS u
 WHERE (c.oid = $1 OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1)))
   AND c.relkind = 'r' AND c.relpersistence = 'p' AND u.publications IS NOT NULL
   AND NOT (c.relreplident = 'f' OR EXISTS (
            SELECT FROM pg_catalog.pg_index x
             WHERE x.indrelid = c.oid AND {{usable}}
               AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND x.indisreplident)))
 ORDER BY 1, 2
"""
_USABLE: Final = "x.indisvalid AND x.indisunique AND x.indimmediate AND x.indpred IS NULL"
_OF_SCHEMA: Final = """
           OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s
                        JOIN pg_catalog.pg_class k ON k.relnamespace = s.pnnspid
                       WHERE s.pnpubid = p.oid AND k.oid = ANY(line.oids))"""

# What a table that is not there yet will be in.
_TO_COME: Final = f"""
SELECT p.pubname::text AS publication FROM pg_catalog.pg_publication p
 WHERE ({_SENT}) AND (p.puballtables{{of_schema}})
   AND cardinality($1::text[]) > 0
 ORDER BY 1
"""
_TO_COME_OF_SCHEMA: Final = """
    OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s
                 JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
                WHERE s.pnpubid = p.oid AND n.nspname = ANY($1::text[]))"""


async def check_publications(inquiry: Inquiry) -> None:
    """Tables that are there are refused; of those that the run makes a person should know."""
    for one in inquiry.sketches:
        if not one.creates and one.target_table is not None:
            await _check_identity(inquiry, one, one.target_table.oid)
    made = [one.target for one in inquiry.sketches if one.creates]
    schemas = list({table.schema_name for table in made})
    query = _TO_COME.format(of_schema=_TO_COME_OF_SCHEMA if inquiry.target_major >= _SCHEMAS_SINCE else "")
    publications = [row["publication"] for row in await inquiry.target.fetch(query, schemas)]
    if publications:
        inquiry.problems.warn(
            f"target {inquiry.plan.target}",
            f"publications ({listed(publications)}) will send on updates and deletes of tables that the run makes: "
            "while such a table has no key, the server refuses both",
            hint="a rollback that keeps rows of others deletes rows one by one after the keys are gone: it would stop "
            "and ask; ALTER TABLE ... REPLICA IDENTITY FULL lets a retry pass",
        )


async def _check_identity(inquiry: Inquiry, sketch: Sketch, oid: int) -> None:
    of_schema = _OF_SCHEMA if inquiry.target_major >= _SCHEMAS_SINCE else ""
    rows = await inquiry.target.fetch(_WITHOUT_IDENTITY.format(usable=_USABLE, of_schema=of_schema), oid)
    if not rows:
        return
    publications = list(dict.fromkeys(name for row in rows for name in row["publications"]))
    tables = [write_table(_table(row)) for row in rows]
    mend = [_mend(row) for row in rows]
    inquiry.problems.error(
        sketch.where("target"),
        f"the server refuses to update or delete rows of {listed(tables)}: publications ({listed(publications)}) send "
        "that on, and there is no replica identity to tell the rows by",
        expected="a replica identity: what is written must also be taken back",
        hint=f"{'; '.join(mend[:3])}{'; and so on' if len(mend) > 3 else ''}",
    )


def _mend(row: asyncpg.Record) -> str:
    identity = f"USING INDEX {quote(row['index'])}" if row["index"] is not None else "FULL"
    return f"ALTER TABLE {qualified(_table(row))} REPLICA IDENTITY {identity}"


def _table(row: asyncpg.Record) -> TableName:
    return TableName(schema_name=row["schema_name"], name=row["name"])
