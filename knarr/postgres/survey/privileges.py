"""What both roles may do, too little and too much: the source is to be read, the target's tables made or filled."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sequences import SequencePlan

_ROLE: Final = "SELECT current_user AS name, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
_SCHEMA: Final = """
SELECT wanted.name, n.oid IS NOT NULL AS exists,
       CASE WHEN n.oid IS NOT NULL THEN pg_catalog.has_schema_privilege(n.oid, 'CREATE') END AS may_create,
       CASE WHEN n.oid IS NOT NULL THEN pg_catalog.has_schema_privilege(n.oid, 'USAGE') END AS may_use
  FROM unnest($1::text[]) AS wanted (name) LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.name
"""
_MAY_CREATE_SCHEMAS: Final = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')"
_READS: Final = """
SELECT pg_catalog.has_table_privilege($1::oid, 'SELECT') AS whole,
       pg_catalog.has_any_column_privilege($1::oid, 'SELECT') AS some
"""
# A right on a table is of no use without one on its schema.
_MAY_USE_SCHEMA: Final = """
SELECT pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid = $1
"""
_WRITES: Final = """
SELECT p AS privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
 WHERE NOT pg_catalog.has_table_privilege($1::oid, p)
"""
# All that belong to a column or that its default takes from: where they stand is read and kept, then they are set.
_SEQUENCES: Final = """
SELECT n.nspname::text AS schema_name, s.relname::text AS name,
       ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'UPDATE']) AS p
              WHERE NOT pg_catalog.has_sequence_privilege(s.oid, p)) AS lacking,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may_use
  FROM pg_catalog.pg_class s
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
 WHERE s.relkind = 'S' AND s.oid IN (
       SELECT d.objid FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
          AND d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
        UNION
       SELECT d.refobjid FROM pg_catalog.pg_attrdef e
         JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = e.oid
              AND d.refclassid = 'pg_catalog.pg_class'::regclass
        WHERE e.adrelid = $1)
 ORDER BY 1, 2
"""
# Of a source's sequence only where it stands is asked.
_SEQUENCES_READ: Final = """
SELECT n.nspname::text AS schema_name, s.relname::text AS name,
       ARRAY(SELECT 'SELECT' WHERE NOT pg_catalog.has_sequence_privilege(s.oid, 'SELECT')) AS lacking,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may_use
  FROM pg_catalog.pg_class s
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
 WHERE s.oid = ANY($1::oid[])
 ORDER BY 1, 2
"""


async def check_privileges(inquiry: Inquiry, schemas: list[str], sequences: SequencePlan) -> None:
    """Both roles; `schemas` are those of the target that the run makes objects in."""
    await _source_role(inquiry, sequences)
    await _target_role(inquiry, schemas)


async def _source_role(inquiry: Inquiry, sequences: SequencePlan) -> None:
    side = f"source {inquiry.plan.source}"
    role = await inquiry.source.fetchrow(_ROLE)
    assert role is not None
    if role["rolsuper"]:
        inquiry.problems.warn(
            side, f"role {role['name']} is a superuser",
            hint="a role that may only SELECT proves by its grants that the source is only read",
        )  # fmt: skip
    for one in inquiry.sketches:
        table, where = one.source_table, one.where("source")
        if table.rows_hidden:
            inquiry.problems.error(
                where,
                f"row level security hides rows of {write_table(one.source)} from role {role['name']}",
                expected="a role that sees all rows: its owner, or one with BYPASSRLS",
            )
        may = await inquiry.source.fetchrow(_READS, table.oid)
        assert may is not None
        if not may["whole"] and not (may["some"] and not one.as_is):
            inquiry.problems.error(
                where,
                f"role {role['name']} may not read {write_table(one.source)}",
                expected=f"GRANT SELECT ON {qualified(one.source)} TO {quote(role['name'])}",
            )
        read = await inquiry.source.fetch(_SEQUENCES_READ, sequences.to_read(one))
        _sequences(inquiry, where, role["name"], one.source, read)


async def _target_role(inquiry: Inquiry, schemas: list[str]) -> None:
    side = f"target {inquiry.plan.target}"
    role = await inquiry.target.fetchrow(_ROLE)
    assert role is not None
    name = quote(role["name"])
    if role["rolsuper"]:
        inquiry.problems.warn(
            side, f"role {role['name']} is a superuser", hint="a role that owns the target's schemas is enough"
        )
    found = {row["name"]: row for row in await inquiry.target.fetch(_SCHEMA, [*schemas, "knarr"])}
    missing = [schema for schema in [*schemas, "knarr"] if not found[schema]["exists"]]
    database = await inquiry.target.fetchval("SELECT pg_catalog.current_database()")
    if missing and not await inquiry.target.fetchval(_MAY_CREATE_SCHEMAS):
        inquiry.problems.error(
            side,
            f"role {role['name']} may not create the schemas {listed(missing)}",
            expected=f"GRANT CREATE ON DATABASE {quote(database)} TO {name}",
        )
    for schema in [*schemas, "knarr"]:
        if found[schema]["exists"] and not (found[schema]["may_create"] and found[schema]["may_use"]):
            inquiry.problems.error(
                side,
                f"role {role['name']} may not create tables in schema {schema}",
                expected=f"GRANT CREATE, USAGE ON SCHEMA {quote(schema)} TO {name}",
            )
    for one in inquiry.sketches:
        if one.creates or one.target_table is None:
            continue
        table = one.target_table
        lacking = [row["privilege"] for row in await inquiry.target.fetch(_WRITES, table.oid)]
        if lacking:
            inquiry.problems.error(
                one.where("target"),
                f"role {role['name']} lacks {listed(lacking)} on {write_table(one.target)}",
                expected=f"GRANT {', '.join(lacking)} ON {qualified(one.target)} TO {name}",
                hint="what is written must also be verified and taken back",
            )
        schema = one.target.schema_name
        if schema not in schemas and not await inquiry.target.fetchval(_MAY_USE_SCHEMA, table.oid):
            inquiry.problems.error(
                one.where("target"),
                f"role {role['name']} may not use schema {schema}",
                expected=f"GRANT USAGE ON SCHEMA {quote(schema)} TO {name}",
            )
        found_sequences = await inquiry.target.fetch(_SEQUENCES, table.oid)
        _sequences(inquiry, one.where("target"), role["name"], one.target, found_sequences)


def _sequences(inquiry: Inquiry, where: str, role: str, table: TableName, found: Sequence[asyncpg.Record]) -> None:
    """What lacks on the sequences of a table; what lacks on its own schema is said of the table."""
    for row in found:
        sequence = TableName(schema_name=row["schema_name"], name=row["name"])
        grants = [f"GRANT {', '.join(row['lacking'])} ON SEQUENCE {qualified(sequence)}"] if row["lacking"] else []
        grants += (
            []
            if row["may_use"] or sequence.schema_name == table.schema_name
            else [f"GRANT USAGE ON SCHEMA {quote(sequence.schema_name)}"]
        )
        if grants:
            inquiry.problems.error(
                where,
                f"role {role} may not {'set' if 'UPDATE' in row['lacking'] else 'read'} sequence "
                f"{write_table(sequence)}",
                expected="; ".join(f"{grant} TO {quote(role)}" for grant in grants),
            )
