"""The resolved plan in the target: stored once after the survey, read by number ever after."""

from collections.abc import Sequence
from typing import Final

from knarr.errors import PlanError
from knarr.plan.models import Plan
from knarr.plan.resolved import ResolvedMapping, Survey
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.session import Connection

# A survey that is repeated before anything was written may have learnt better; later it finds partitions and stops.
STORE_MAPPING: Final = """
INSERT INTO knarr.mapping (run_id, mapping, name, resolved, table_sql, table_oid, part_oids)
VALUES ($1, $2, $3, $4::text::json, $5, to_regclass($5), ARRAY(SELECT relid FROM pg_partition_tree(to_regclass($5))))
ON CONFLICT (run_id, mapping) DO UPDATE
   SET name = excluded.name, resolved = excluded.resolved,
       table_sql = excluded.table_sql, table_oid = excluded.table_oid, part_oids = excluded.part_oids
"""
STORE_SURVEY: Final = "UPDATE knarr.run SET survey = $2::text::json WHERE run_id = $1"
LOAD_MAPPING: Final = "SELECT resolved::text FROM knarr.mapping WHERE run_id = $1 AND mapping = $2"
LOAD_MAPPINGS: Final = "SELECT resolved::text FROM knarr.mapping WHERE run_id = $1 ORDER BY mapping"
LOAD_PLAN: Final = "SELECT plan::text FROM knarr.run WHERE run_id = $1"
LOAD_SURVEY: Final = "SELECT survey::text FROM knarr.run WHERE run_id = $1"
HAS_WRITTEN: Final = "SELECT EXISTS (SELECT FROM knarr.partition WHERE run_id = $1)"


async def store_mappings(
    connection: Connection, lease: Lease, run_id: str, mappings: Sequence[ResolvedMapping]
) -> None:
    """Stores the resolved mappings; once a mapping has been cut into partitions they stay as they are.

    Raises:
        LostLease, TransientError, PlanError.
    """
    with classified("storing the resolved mappings"):
        async with fenced(connection, lease):
            await _store(connection, run_id, mappings)


async def store_survey(connection: Connection, lease: Lease, run_id: str, survey: Survey) -> None:
    """Stores the survey with its mappings, in one transaction; under the same rule as `store_mappings`."""
    document = survey.model_copy(update={"mappings": []}).model_dump_json()
    with classified("storing the survey"):
        async with fenced(connection, lease):
            if await _store(connection, run_id, survey.mappings):
                await connection.execute(STORE_SURVEY, run_id, document)


async def _store(connection: Connection, run_id: str, mappings: Sequence[ResolvedMapping]) -> bool:
    if await connection.fetchval(HAS_WRITTEN, run_id):
        return False
    for mapping in mappings:
        document, table = mapping.model_dump_json(), qualified(mapping.target)
        await connection.execute(STORE_MAPPING, run_id, mapping.number, mapping.name, document, table)
    return True


async def load_mapping(connection: Connection, run_id: str, number: int) -> ResolvedMapping:
    """One resolved mapping by its number.

    Raises:
        PlanError: the run has no such mapping here.
    """
    with classified("reading the resolved mapping"):
        document = await connection.fetchval(LOAD_MAPPING, run_id, number)
    if document is None:
        raise PlanError(f"run {run_id} has no mapping {number} in this database; its survey has not stored one")
    return ResolvedMapping.model_validate_json(document)


async def load_mappings(connection: Connection, run_id: str) -> list[ResolvedMapping]:
    """All resolved mappings of a run, by number; empty before the survey stored them."""
    with classified("reading the resolved mappings"):
        rows = await connection.fetch(LOAD_MAPPINGS, run_id)
    return [ResolvedMapping.model_validate_json(row["resolved"]) for row in rows]


async def load_plan(connection: Connection, run_id: str) -> Plan:
    """The plan that the run was started with.

    Raises:
        PlanError: the run is not known here.
    """
    with classified("reading the plan"):
        document = await connection.fetchval(LOAD_PLAN, run_id)
    if document is None:
        raise PlanError(f"run {run_id} is not known in this database", hint="is the target's alias the one of the run?")
    return Plan.model_validate_json(document)


async def load_survey(connection: Connection, run_id: str) -> Survey:
    """The survey that the run stored, mappings included.

    Raises:
        PlanError: no survey was stored.
    """
    with classified("reading the survey"):
        document = await connection.fetchval(LOAD_SURVEY, run_id)
    if document is None:
        raise PlanError(f"run {run_id} has stored no survey in this database")
    mappings = await load_mappings(connection, run_id)
    return Survey.model_validate_json(document).model_copy(update={"mappings": mappings})
