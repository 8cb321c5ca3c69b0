"""What a database says of itself to somebody who asks whether all is well: server, role, knarr schema, leases."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from knarr.plan.resolved import TableName
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection

LOOK: Final = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       current_database() AS database,
       current_user AS role,
       pg_is_in_recovery() AS standby,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       current_setting('max_connections')::int
           - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS free,
       to_regclass('knarr.version') IS NOT NULL AS installed,
       CASE WHEN to_regnamespace('knarr') IS NOT NULL THEN has_schema_privilege('knarr', 'USAGE') END AS may_use
"""
VERSION: Final = "SELECT version FROM knarr.version"
HELD: Final = """
SELECT r.run_id, r.plan_name AS plan, r.state, r.source_alias AS source, r.target_alias AS target, r.started_at,
       l.epoch,
       ARRAY(SELECT c.table_schema || '.' || c.table_name FROM knarr.claim c
              WHERE c.run_id = r.run_id ORDER BY 1) AS tables,
       (SELECT coalesce(sum(g.rows), 0) FROM knarr.ledger g WHERE g.run_id = r.run_id)::bigint AS rows,
       (SELECT count(*) FROM knarr.object o WHERE o.run_id = r.run_id) AS objects
  FROM knarr.lease l
  JOIN knarr.run r USING (run_id)
 WHERE NOT l.released
 ORDER BY r.started_at
"""
READABLE: Final = """
SELECT quote_ident(s) || '.' || quote_ident(t) AS name, c.oid IS NOT NULL AS there,
       has_table_privilege(c.oid, 'SELECT') AS readable
  FROM unnest($1::text[], $2::text[]) AS wanted (s, t)
  LEFT JOIN pg_namespace n ON n.nspname = s
  LEFT JOIN pg_class c ON (c.relnamespace, c.relname) = (n.oid, t)
"""
SCHEMAS: Final = """
SELECT quote_ident(s) AS name, n.oid IS NOT NULL AS there,
       has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE') AS may_create
  FROM unnest($1::text[]) AS s
  LEFT JOIN pg_namespace n ON n.nspname = s
"""
FILLED: Final = """
SELECT quote_ident(s) || '.' || quote_ident(t) AS name, quote_ident(s) AS schema, c.oid IS NOT NULL AS there,
       has_schema_privilege(n.oid, 'USAGE') AS may_use,
       ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
              WHERE NOT has_table_privilege(c.oid, p)) AS lacking
  FROM unnest($1::text[], $2::text[]) AS wanted (s, t)
  LEFT JOIN pg_namespace n ON n.nspname = s
  LEFT JOIN pg_class c ON (c.relnamespace, c.relname) = (n.oid, t)
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Frozen):
    """One database as a role sees it."""

    version: str
    major: int
    database: str
    role: str
    standby: bool
    may_create: bool = Field(description="schemas, in this database")
    free: int = Field(description="connections that are not taken")
    knarr_version: int | None = Field(description="None: there is no knarr schema")
    may_use: bool = Field(description="the knarr schema; true when there is none")


class HeldLease(_Frozen):
    """A run that holds tables of this database: its lease is not released."""

    run_id: str
    plan: str
    state: str
    source: str
    target: str
    started_at: datetime
    epoch: int
    tables: list[str]
    rows: int = Field(description="in the ledger: still there, as far as the run knows")
    objects: int = Field(description="made by the run and not dropped again")


async def look(connection: Connection) -> Server:
    """What there is to know of a database before a run.

    Raises:
        TransientError, PlanError: as the server says.
    """
    with classified("looking at the server"):
        row = await connection.fetchrow(LOOK)
        assert row is not None  # it has no FROM
        found = dict(row)
        installed, may_use = found.pop("installed"), found.pop("may_use")
        version = await connection.fetchval(VERSION) if installed and may_use else None
    return Server(**found, knarr_version=version, may_use=may_use is not False)


class Filled(_Frozen):
    """A table that is there before a run writes to it, as a role sees it; names as SQL writes them."""

    name: str
    schema_name: str
    there: bool
    may_use: bool = Field(description="the schema; true when there is none")
    lacking: list[str] = Field(description="privileges that a run needs there and the role has not")


async def held_leases(connection: Connection) -> list[HeldLease]:
    """Leases that are not released, the oldest first; the knarr schema must be there.

    Raises:
        TransientError, PlanError: as the server says.
    """
    with classified("reading the leases"):
        return [HeldLease.model_validate(dict(row)) for row in await connection.fetch(HELD)]


async def unreadable(connection: Connection, tables: Sequence[TableName]) -> tuple[list[str], list[str]]:
    """Of tables: those that are not there, and those that the role may not read; both as SQL writes them."""
    schemas, names = [table.schema_name for table in tables], [table.name for table in tables]
    with classified("looking at the source's tables"):
        rows = await connection.fetch(READABLE, schemas, names)
    missing = [row["name"] for row in rows if not row["there"]]
    return missing, [row["name"] for row in rows if row["there"] and not row["readable"]]


async def closed_schemas(connection: Connection, schemas: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of schemas that tables are made in: those that are not there, and those in which the role may not make any."""
    with classified("looking at the target's schemas"):
        rows = await connection.fetch(SCHEMAS, list(schemas))
    missing = [row["name"] for row in rows if not row["there"]]
    return missing, [row["name"] for row in rows if row["there"] and not row["may_create"]]


async def filled(connection: Connection, tables: Sequence[TableName]) -> list[Filled]:
    """Whether rows can be written to tables that are to be there, verified and taken back.

    Raises:
        TransientError, PlanError: as the server says.
    """
    schemas, names = [table.schema_name for table in tables], [table.name for table in tables]
    with classified("looking at the target's tables"):
        rows = await connection.fetch(FILLED, schemas, names)
    return [
        Filled(
            name=row["name"],
            schema_name=row["schema"],
            there=row["there"],
            may_use=row["may_use"] is not False,
            lacking=row["lacking"],
        )
        for row in rows
    ]
