"""Installing the `knarr` schema in the target."""

from pathlib import Path
from typing import Final

from knarr.errors import PlanError
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection

VERSION: Final = 4
INSTALLING: Final = "installing the knarr schema"
SCRIPT: Final = Path(__file__).with_name("schema.sql")

# Two starts at once would meet in CREATE SCHEMA IF NOT EXISTS, which then fails on pg_namespace's unique index.
LOCK: Final = "SELECT pg_advisory_xact_lock(1802396018, 0)"
# A copy writes to the ledger for as long as it takes; who waits for it with an ALTER TABLE keeps all others waiting.
BRIEFLY: Final = "SET LOCAL lock_timeout = '5s'"
INSTALLED: Final = "SELECT to_regclass('knarr.version') IS NOT NULL"
READ_VERSION: Final = "SELECT version FROM knarr.version"


async def upgrade(connection: Connection) -> None:
    """Brings an older schema to this version, where there is one: a run that began under it goes on with this worker.

    Raises as `install`.
    """
    with classified("looking for the knarr schema"):
        if not await connection.fetchval(INSTALLED) or await connection.fetchval(READ_VERSION) == VERSION:
            return
    await install(connection)


async def install(connection: Connection) -> None:
    """Makes the `knarr` schema, or brings an older one to this version; all of it or nothing.

    Does nothing where this version stands.

    Raises:
        PlanError: the schema is of a newer version, or the role may not create it.
        TransientError: the server was in the way.
    """
    with classified(INSTALLING):
        async with connection.transaction():
            await connection.execute(LOCK)
            version = await connection.fetchval(READ_VERSION) if await connection.fetchval(INSTALLED) else 0
            if version < VERSION:
                await connection.execute(BRIEFLY)
                await connection.execute(SCRIPT.read_text(encoding="utf-8"))
                version = await connection.fetchval(READ_VERSION)
    if version != VERSION:
        raise PlanError(
            f"the knarr schema in the target has version {version}, this worker knows version {VERSION}",
            hint="run the worker that belongs to it, or finish its runs and DROP SCHEMA knarr CASCADE",
        )
