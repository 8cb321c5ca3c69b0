"""Both servers as they are: versions, encodings, collations, replication, event triggers, disk space."""

import shutil
from pathlib import Path
from typing import Final

import asyncpg

from knarr.plan.resolved import TableName
from knarr.postgres.session import Connection
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import Problems, listed

OLDEST: Final = 14
# Rows once, indexes about as much again, and WAL until the next checkpoint.
SPACE_FACTOR: Final = 2.5

_SERVER: Final = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS provider, d.datcollate AS collation,
       pg_catalog.pg_is_in_recovery() AS standby,
       d.datname AS database
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
"""
_READ_ONLY_DATABASE: Final = """
SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'
"""
# Since 15 the version of the default collation is recorded; 14 has only that of each named collation.
_COLLATION_VERSION: Final = """
SELECT datcollversion AS recorded, pg_catalog.pg_database_collation_actual_version(oid) AS actual
  FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
"""
_PREPARED: Final = """
SELECT gid::text FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY 1
"""
_EVENT_TRIGGERS: Final = """
SELECT evtname::text FROM pg_catalog.pg_event_trigger WHERE evtenabled IN ('O', 'A') AND evtevent <> 'login' ORDER BY 1
"""
_PUBLICATIONS: Final = """
SELECT pubname::text FROM pg_catalog.pg_publication_tables
 WHERE (schemaname::text, tablename::text) IN (SELECT * FROM unnest($1::text[], $2::text[]))
 UNION SELECT pubname::text FROM pg_catalog.pg_publication WHERE puballtables ORDER BY 1
"""
_SUBSCRIBED: Final = """
SELECT r.srrelid::regclass::text FROM pg_catalog.pg_subscription_rel r WHERE r.srrelid = ANY($1::oid[]) ORDER BY 1
"""
_SYSTEM: Final = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"
_PLACE: Final = """
SELECT coalesce(host(pg_catalog.inet_server_addr()) IN ('127.0.0.1', '::1'), true) AS local,
       CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')
            THEN pg_catalog.current_setting('data_directory') END AS folder
"""


async def identity(connection: Connection) -> str:
    """System identifier and database name: the same only for the same database of the same cluster."""
    database: str = await connection.fetchval("SELECT pg_catalog.current_database()")
    try:
        system: str = await connection.fetchval(_SYSTEM)
    except asyncpg.InsufficientPrivilegeError:
        system = "unknown"
    return f"{system}/{database}"


async def check_servers(source: Connection, target: Connection, aliases: tuple[str, str], problems: Problems) -> bool:
    """Versions, encodings, collations, whether the target takes writes; False: a server is too old to be asked."""
    here, there = await source.fetchrow(_SERVER), await target.fetchrow(_SERVER)
    assert here is not None and there is not None
    sides = (f"source {aliases[0]}", f"target {aliases[1]}")
    for side, server in zip(sides, (here, there), strict=True):
        if server["major"] < OLDEST:
            problems.error(side, f"PostgreSQL {server['version']}", expected=f"PostgreSQL {OLDEST} or later")
    if problems.errors:
        return False
    if here["standby"]:
        problems.warn(
            sides[0], "the server is a standby", hint="long reads may be cancelled there, and it may lag behind"
        )
    if there["standby"]:
        problems.error(sides[1], "the server is a standby: it takes no writes", expected="a primary")
    elif await target.fetchval(_READ_ONLY_DATABASE) == "on" and await _is_read_only_by_itself(target):
        problems.error(sides[1], "default_transaction_read_only is on", expected="a database and a role that may write")
    if here["encoding"] != there["encoding"]:
        problems.warn(
            sides[1],
            f"encoding {there['encoding']}, the source has {here['encoding']}",
            hint="a character that the target can't hold, or bytes that are no text, stop the copy at their row",
        )
    elif here["encoding"] == "SQL_ASCII":
        problems.warn(sides[0], "encoding SQL_ASCII: nothing says what the bytes of a text mean")
    if (here["provider"], here["collation"]) != (there["provider"], there["collation"]):
        problems.warn(
            sides[1],
            f"default collation {there['collation']} ({there['provider']}), the source has {here['collation']} "
            f"({here['provider']})",
            hint="texts may sort in another order than before; equality and keys are not touched",
        )
    for side, connection in zip(sides, (source, target), strict=True):
        await _collation_version(side, connection, problems)
        prepared = [row["gid"] for row in await connection.fetch(_PREPARED)]
        if prepared:
            problems.warn(
                side,
                f"prepared transactions are open: {listed(prepared)}",
                hint="their rows are not seen, and their locks stay until COMMIT PREPARED or ROLLBACK PREPARED",
            )
    return True


async def check_surroundings(inquiry: Inquiry) -> None:
    """Replication and event triggers around the target."""
    there = [one.target_table.oid for one in inquiry.sketches if one.target_table and not one.creates]
    side = f"target {inquiry.plan.target}"
    triggers = [row["evtname"] for row in await inquiry.target.fetch(_EVENT_TRIGGERS)]
    if triggers:
        inquiry.problems.warn(
            side,
            f"event triggers fire when the run makes its objects: {listed(triggers)}",
            hint="what they do is not taken back; disable them, or see that they leave the run's objects alone",
        )
    targets = list({one.target for one in inquiry.sketches})
    publications = await inquiry.target.fetch(
        _PUBLICATIONS, [one.schema_name for one in targets], [one.name for one in targets]
    )
    if publications:
        inquiry.problems.warn(
            side,
            f"publications send on what the run writes: {listed([row['pubname'] for row in publications])}",
            hint="subscribers get every row, and every row that is taken back",
        )
    for row in await inquiry.target.fetch(_SUBSCRIBED, there):
        inquiry.problems.error(
            side,
            f"a subscription writes to {row['srrelid']}",
            expected="a table that nobody else writes to",
            hint="drop the table from the subscription first",
        )


async def check_space(inquiry: Inquiry, estimated_bytes: int) -> None:
    """Disk space, if the target's data folder is on this very machine; of another machine nothing is known."""
    place = await inquiry.target.fetchrow(_PLACE)
    if place is None or not place["local"] or not place["folder"]:
        return
    system = (await identity(inquiry.target)).split("/")[0]
    if not _is_cluster(Path(place["folder"]), system):
        return
    free = shutil.disk_usage(place["folder"]).free
    wanted = round(estimated_bytes * SPACE_FACTOR)
    if free < wanted:
        inquiry.problems.warn(
            f"target {inquiry.plan.target}",
            f"{free // 2**20} MiB free on the disk of {place['folder']}",
            expected=f"about {wanted // 2**20} MiB for rows, indexes and WAL",
            hint="make room first; a full disk pauses the run, and other databases of the server with it",
        )


def same_tables(source_identity: str, target_identity: str, source: TableName, target: TableName) -> bool:
    """Whether a mapping would write into the very table that it reads."""
    known = not source_identity.startswith("unknown")
    return known and source_identity == target_identity and source == target


async def _is_read_only_by_itself(target: Connection) -> bool:
    """Not because Knarr opened this very session read only."""
    query = """
        SELECT source NOT IN ('client', 'session') FROM pg_catalog.pg_settings
         WHERE name = 'default_transaction_read_only'
    """
    found: bool = await target.fetchval(query)
    return found


async def _collation_version(side: str, connection: Connection, problems: Problems) -> None:
    if connection.get_server_version().major < 15:
        return
    version = await connection.fetchrow(_COLLATION_VERSION)
    if version is not None and version["recorded"] and version["recorded"] != version["actual"]:
        problems.warn(
            side,
            f"the default collation's version is {version['actual']}, indexes were built under {version['recorded']}",
            hint="indexes over text may be corrupt: REINDEX, then ALTER DATABASE ... REFRESH COLLATION VERSION",
        )


def _is_cluster(folder: Path, system: str) -> bool:
    """Whether the folder is that very cluster's: the control file begins with its identifier."""
    try:
        head = (folder / "global" / "pg_control").read_bytes()[:8]
    except OSError:
        return False
    return system in (str(int.from_bytes(head, "little")), str(int.from_bytes(head, "big")))
