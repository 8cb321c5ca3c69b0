"""What is known, before a run, of what it will change in tables that have rows; and what is not."""

from collections.abc import Mapping, Sequence
from typing import Final

from knarr.plan.models import Plan
from knarr.plan.resolved import ResolvedMapping, Survey
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.session import connect
from knarr.settings import Settings
from knarr.wording import counted
from starter.aliases import load_connections

STANDING: Final = "SELECT reltuples::bigint FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)"
# Keys of one database would have to be held against those of the other: that is the run itself.
UNKNOWN: Final = (
    "How many rows are {verbs} is not known before the run: it would take every key of both databases. "
    "The run counts them, and knarr report tells."
)


async def standing_rows(settings: Settings, plan: Plan, survey: Survey) -> dict[int, int]:
    """About how many rows the tables have that are appended to or merged into, by the server's own statistics.

    A table of which there are none yet is left out.

    Raises:
        PlanError, TransientError: as `survey_plan`.
    """
    occupied = [mapping for mapping in survey.mappings if mapping.occupied]
    if not occupied:
        return {}
    target = load_connections(settings).resolve(plan.target)
    connection = await connect(target, application_name="knarr check", read_only=True)
    try:
        with classified("reading the target's statistics"):
            found = {each.number: await connection.fetchval(STANDING, qualified(each.target)) for each in occupied}
    finally:
        await connection.close()
    return {number: rows for number, rows in found.items() if rows is not None and rows >= 0}


def foretold(mappings: Sequence[ResolvedMapping], standing: Mapping[int, int]) -> list[str]:
    """For people: a line for each table that has rows, and one that says what nobody can know yet."""
    occupied = [mapping for mapping in mappings if mapping.occupied]
    lines = [
        f"{mapping.name}, {mapping.mode}: {_foretold(mapping, standing.get(mapping.number))}" for mapping in occupied
    ]
    merged = [mapping for mapping in occupied if mapping.mode == "merge"]
    if merged:
        deletes = any(mapping.delete_missing for mapping in merged)
        verbs = "inserted, updated and deleted" if deletes else "inserted and updated"
        lines.append(UNKNOWN.format(verbs=verbs))
    return lines


def _foretold(mapping: ResolvedMapping, standing: int | None) -> str:
    come = f"about {counted(mapping.estimated_rows, 'row')}"
    there = "the rows that are there" if standing is None else f"the about {counted(standing, 'row')} there"
    if mapping.mode == "append":
        return f"{come} are inserted beside {there}; refused if one of the keys is there"
    told = f"{come} come: those with a new key are inserted, those that differ are updated"
    if not mapping.delete_missing:
        return f"{told}; of {there} none is deleted"
    scope = f" of the scope ({' '.join(mapping.scope.split())})" if mapping.scope is not None else ""
    return f"{told}; of {there} those{scope} that the source does not have are DELETED"
