"""Reading one side: one snapshot, nothing written, and every setting that could change a value's text pinned.

The sessions are pinned already (knarr.postgres.session). Verification pins them again, for its transaction, because a
verdict must not depend on who opened the connection, nor on what the plan's SQL has set since.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction

PINNED: Final[dict[str, str]] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",  # shortest text that reads back to the same float, from PostgreSQL 12 on
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "quote_all_identifiers": "off",  # changes what regclass prints
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    "row_security": "off",  # a policy that would hide rows becomes an error; hidden rows would pass for missing ones
}

PIN: Final = """
SELECT set_config(name, value, true)
  FROM unnest($1::text[], $2::text[]) AS pinned (name, value)
"""

SEEN: Final = "SELECT to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || pg_current_snapshot()::text"


@contextlib.asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[str]:
    """A read-only transaction with one snapshot; yields when it began (UTC) and which transactions it could see.

    The connection must not be in a transaction already. Who is cancelled in it finds the connection ended.
    """
    async with transaction(connection, snapshot=True):
        await connection.fetch(PIN, list(PINNED), list(PINNED.values()))
        seen: str = await connection.fetchval(SEEN)
        yield seen
