"""Gathering a run's facts from the knarr schema of its target."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from knarr.audit import chain
from knarr.audit.evidence import doubts_about
from knarr.audit.facts import (
    ChangeFacts,
    EnvironmentFacts,
    MappingFacts,
    ObjectFacts,
    ReportData,
    RunFacts,
    SaidFacts,
    StoredCheck,
    TrailFacts,
    VerdictFacts,
)
from knarr.audit.sentence import conclude
from knarr.audit.signing import SigningKey, check_signatures
from knarr.errors import PlanError
from knarr.plan.load import canonical_json, digest_of
from knarr.plan.models import Plan
from knarr.telemetry.scrub import scrub_value
from knarr.wording import counted

if TYPE_CHECKING:
    from asyncpg import Connection, Record

RUN: Final = """
SELECT run_id, plan_name, plan_hash, plan, survey, state, source_alias, target_alias, started_at, ended_at
  FROM knarr.run
 WHERE run_id = $1
"""

# The ledger and the partitions are summed apart: joined, each phase would count a mapping's partitions again.
MAPPINGS: Final = """
SELECT m.mapping, m.name, m.resolved,
       coalesce(l.rows, 0)::bigint AS rows, coalesce(l.bytes, 0)::bigint AS bytes,
       coalesce(l.seconds, 0) AS seconds, coalesce(l.copied, 0) AS copied, coalesce(p.planned, 0) AS planned,
       l.inserted, l.updated, l.deleted
  FROM knarr.mapping m
  LEFT JOIN (SELECT mapping, sum(rows) AS rows, sum(bytes) AS bytes, sum(seconds) AS seconds,
                    count(DISTINCT partition) AS copied,
                    sum(inserted)::bigint AS inserted, sum(updated)::bigint AS updated, sum(deleted)::bigint AS deleted
               FROM knarr.ledger WHERE run_id = $1 AND rows IS NOT NULL GROUP BY mapping) l USING (mapping)
  LEFT JOIN (SELECT mapping, count(*) AS planned
               FROM knarr.partition WHERE run_id = $1 GROUP BY mapping) p USING (mapping)
 WHERE m.run_id = $1
 ORDER BY m.mapping
"""

CHECKS: Final = """
SELECT phase, round, kind, name, mapping, partition, outcome, result, computed_at
  FROM knarr.check_result
 WHERE run_id = $1
 ORDER BY computed_at, kind, name, mapping, partition
"""

VERDICTS: Final = """
SELECT phase, round, passed, withdrawn, document, digest
  FROM knarr.verdict
 WHERE run_id = $1
 ORDER BY document ->> 'ended_at' NULLS FIRST, phase, round
"""

OBJECTS: Final = "SELECT mapping, stage, kind, name FROM knarr.object WHERE run_id = $1 ORDER BY sequence"

_OBJECT: Final = TypeAdapter(dict[str, JsonValue])


async def gather(
    connection: "Connection[Record]",
    run_id: str,
    witnesses: Sequence[chain.AuditHead] = (),
    key: SigningKey | None = None,
    said: SaidFacts | None = None,
) -> ReportData:
    """Reads everything that the target knows of a run, in one snapshot, and says what it amounts to.

    Args:
        connection: to the target; only reads, in a transaction of its own.
        run_id: the run's id, which is its workflow id.
        witnesses: heads of the audit chain that Temporal's history holds; without them a chain that was cut and
            wound back can't be told from a whole one.
        key: what every verdict in the trail must be signed with; without one no signature is checked.
        said: what the run's workflow says of itself, where Temporal was asked.

    Raises:
        PlanError: the target knows no such run.
        asyncpg.PostgresError: as the server says.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        run_row = await connection.fetchrow(RUN, run_id)
        if run_row is None:
            raise PlanError(f"no run {run_id!r} on this target", hint="list the runs with: knarr list")
        mapping_rows = await connection.fetch(MAPPINGS, run_id)
        check_rows = await connection.fetch(CHECKS, run_id)
        verdict_rows = await connection.fetch(VERDICTS, run_id)
        object_rows = await connection.fetch(OBJECTS, run_id)
        entries = await chain.read(connection, run_id)
        head = await chain.read_head(connection, run_id)
    written = _document(run_row["plan"])
    plan = _document(scrub_value(written))
    survey = _document(run_row["survey"])
    data = ReportData(
        generated_at=datetime.now(UTC),
        outcome="not verified",
        headline="",
        explanation="",
        run=RunFacts(
            run_id=run_row["run_id"],
            plan_name=run_row["plan_name"],
            plan_hash=run_row["plan_hash"],
            description=_text(plan.get("description")),
            state=run_row["state"],
            source=run_row["source_alias"],
            target=run_row["target_alias"],
            started_at=run_row["started_at"],
            ended_at=run_row["ended_at"],
        ),
        said=said or SaidFacts(),
        environment=_environment(survey),
        mappings=[_mapping(row) for row in mapping_rows],
        checks=[StoredCheck(**dict(row) | {"result": _document(row["result"])}) for row in check_rows],
        verdicts=[VerdictFacts(**dict(row) | {"document": _document(row["document"])}) for row in verdict_rows],
        objects=[ObjectFacts(**dict(row)) for row in object_rows],
        plan=plan,
        trail=TrailFacts(
            entries=entries,
            head=head,
            witnesses=list(witnesses),
            faults=chain.check_chain(entries, head, witnesses),
        ),
        signatures=check_signatures(entries, key),
    )
    doubts = [*doubts_about(data), *_doubts_about_plan(written, run_row["plan_hash"])]
    return conclude(data.model_copy(update={"doubts": doubts}))


def _doubts_about_plan(written: dict[str, JsonValue], plan_hash: str) -> list[str]:
    try:
        computed = digest_of(canonical_json(Plan.model_validate_json(json.dumps(written))))
    except ValidationError as error:
        return [f"the stored plan is no plan that this version knows ({counted(error.error_count(), 'error')})"]
    if computed == plan_hash:
        return []
    return [f"the stored plan gives the hash {computed}, the run was started with {plan_hash}"]


def _document(value: object) -> dict[str, JsonValue]:
    # asyncpg gives jsonb as text unless the session has a codec for it.
    if value is None:
        return {}
    return _OBJECT.validate_python(json.loads(value) if isinstance(value, str | bytes) else value)


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _names(value: JsonValue) -> list[str]:
    columns = value if isinstance(value, list) else []
    return [_text(column.get("name")) for column in columns if isinstance(column, dict)]


def _keys(value: JsonValue) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _mapping(row: "Record") -> MappingFacts:
    resolved = _document(row["resolved"])
    source = resolved.get("source_table")
    table = source if isinstance(source, dict) else {}
    return MappingFacts(
        number=row["mapping"],
        name=row["name"],
        source=".".join(part for part in (_text(table.get("schema_name")), _text(table.get("name"))) if part),
        mode=_text(resolved.get("mode")),
        key=_names(resolved.get("key")),
        columns=len(_names(resolved.get("columns"))),
        transform=_text(resolved.get("transform")) or None,
        rules=_keys(resolved.get("rules")),
        phases=_keys(resolved.get("phases")),
        rows=row["rows"],
        bytes=row["bytes"],
        seconds=row["seconds"],
        changes=_changes(row),
        partitions_copied=row["copied"],
        partitions_planned=row["planned"],
    )


def _changes(row: "Record") -> ChangeFacts | None:
    """None where the ledger has no such figures: nothing is copied yet, or the run made or filled the table."""
    if row["inserted"] is None:
        return None
    return ChangeFacts(inserted=row["inserted"], updated=row["updated"], deleted=row["deleted"])


def _environment(survey: dict[str, JsonValue]) -> EnvironmentFacts:
    problems = survey.get("problems")
    warnings = [
        f"{_text(problem.get('where'))}: {_text(problem.get('found'))}"
        for problem in (problems if isinstance(problems, list) else [])
        if isinstance(problem, dict) and problem.get("severity") == "warning"
    ]
    try:
        knarr_version = version("knarr")
    except PackageNotFoundError:  # run from a checkout that was never installed
        knarr_version = "not installed"
    return EnvironmentFacts(
        source_version=_text(survey.get("source_version")),
        target_version=_text(survey.get("target_version")),
        source_identity=_text(survey.get("source_identity")),
        target_identity=_text(survey.get("target_identity")),
        knarr_version=knarr_version,
        python_version=platform.python_version(),
        warnings=warnings,
    )
