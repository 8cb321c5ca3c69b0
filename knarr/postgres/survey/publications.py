"""Publications of the target that keep rows from being updated or deleted, and so from being taken back.

A table that is sent on needs a replica identity; without one the server takes INSERT and refuses the rest.
"""

from typing import Final

import asyncpg

from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.catalogue import CatalogueTable
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.survey.ask import Failure, explain
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sketches import Sketch

_SINCE: Final = 15  # publications of schemas, with row filters, with lists of columns
_COLUMN_REFERENCE: Final = "42P10"
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

# Row filters and lists of columns must fit the replica identity; the server knows best whether they do.
_NARROWED: Final = """
SELECT array_agg(DISTINCT p.pubname::text) FROM pg_catalog.pg_publication p
  JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
 WHERE (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)
   AND r.prrelid IN (SELECT $1::oid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1)
                      UNION SELECT relid FROM pg_catalog.pg_partition_ancestors($1))
"""

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
        table = None if one.creates else one.target_table
        if table is not None and not await _check_identity(inquiry, one, table):
            await _check_narrowed(inquiry, one, table)
    made = [one.target for one in inquiry.sketches if one.creates]
    schemas = list({table.schema_name for table in made})
    query = _TO_COME.format(of_schema=_TO_COME_OF_SCHEMA if inquiry.target_major >= _SINCE else "")
    publications = [row["publication"] for row in await inquiry.target.fetch(query, schemas)]
    if publications:
        inquiry.problems.warn(
            f"target {inquiry.plan.target}",
            f"publications ({listed(publications)}) will send on updates and deletes of tables that the run makes: "
            "while such a table has no key, the server refuses both",
            hint="a rollback that keeps rows of others deletes rows one by one after the keys are gone: it would stop "
            "and ask; ALTER TABLE ... REPLICA IDENTITY FULL lets a retry pass",
        )


async def _check_identity(inquiry: Inquiry, sketch: Sketch, table: CatalogueTable) -> bool:
    of_schema = _OF_SCHEMA if inquiry.target_major >= _SINCE else ""
    rows = await inquiry.target.fetch(_WITHOUT_IDENTITY.format(usable=_USABLE, of_schema=of_schema), table.oid)
    if not rows:
        return False
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
    return True


async def _check_narrowed(inquiry: Inquiry, sketch: Sketch, table: CatalogueTable) -> None:
    if inquiry.target_major < _SINCE or not table.columns:
        return
    publications = await inquiry.target.fetchval(_NARROWED, table.oid)
    name = qualified(sketch.target)
    statements = [f"DELETE FROM {name}", f"UPDATE {name} SET {quote(table.columns[0].name)} = DEFAULT"]
    for statement in statements if publications else []:
        refused = await explain(inquiry.target, statement)
        if isinstance(refused, Failure) and refused.sqlstate == _COLUMN_REFERENCE:
            inquiry.problems.error(
                sketch.where("target"),
                f"the server refuses to update or delete rows of {write_table(sketch.target)}: {refused.message}, "
                f"since the row filter or the columns of a publication ({listed(sorted(publications))}) do not fit the "
                "replica identity",
                expected="filters over columns of the replica identity, and all of those among the columns sent",
                hint="change the publication, or take the table out of it for the time of the run",
            )
            return


def _mend(row: asyncpg.Record) -> str:
    identity = f"USING INDEX {quote(row['index'])}" if row["index"] is not None else "FULL"
    return f"ALTER TABLE {qualified(_table(row))} REPLICA IDENTITY {identity}"


def _table(row: asyncpg.Record) -> TableName:
    return TableName(schema_name=row["schema_name"], name=row["name"])
