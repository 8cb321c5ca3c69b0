"""What a run did to tables that had rows of their own: inserted, updated, deleted, by the target's ledger."""

from typing import Final

from knarr.audit.facts import ChangeFacts
from knarr.errors import KnarrError
from knarr.postgres.failures import classified
from knarr.postgres.session import connect
from knarr.settings import Settings
from starter.aliases import load_connections

# Only append and merge count these; a repair corrects them.
CHANGES: Final = """
SELECT m.name, sum(l.inserted)::bigint AS inserted, sum(l.updated)::bigint AS updated, sum(l.deleted)::bigint AS deleted
  FROM knarr.ledger l JOIN knarr.mapping m USING (run_id, mapping)
 WHERE l.run_id = $1 AND l.inserted IS NOT NULL
 GROUP BY m.mapping, m.name
 ORDER BY m.mapping
"""


async def stored_changes(settings: Settings, run_id: str, target: str) -> list[tuple[str, ChangeFacts]]:
    """Each mapping's name, which two may share, and its changes.

    Empty where the run appended and merged nothing, or where the target does not tell this machine: how the run ended
    is no less true then, and the report has them.
    """
    try:
        dsn = load_connections(settings).resolve(target)
        connection = await connect(dsn, application_name="knarr watch", read_only=True)
        try:
            with classified("reading the ledger"):
                rows = await connection.fetch(CHANGES, run_id)
        finally:
            await connection.close()
    except KnarrError:
        return []
    return [
        (row["name"], ChangeFacts(inserted=row["inserted"], updated=row["updated"], deleted=row["deleted"]))
        for row in rows
    ]
