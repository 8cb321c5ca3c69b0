"""Gathering a report from a target whose knarr schema was written by the rooms that write it in a real run."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from knarr.audit import chain, offline
from knarr.audit.chain import AuditHead
from knarr.audit.facts import ReportData
from knarr.audit.gather import gather
from knarr.audit.report import load_report, render_report, report_json
from knarr.audit.signing import SigningKey
from knarr.errors import PlanError
from knarr.plan.load import canonical_json, digest_of
from knarr.plan.models import Plan
from knarr.plan.resolved import Partition, ResolvedColumn, ResolvedMapping, Survey, SurveyProblem, TableName
from knarr.postgres import ledger, mappings, partitions
from knarr.postgres.lease import Lease, claim, fenced, release
from knarr.postgres.session import Connection
from knarr.verify import results, verdict
from knarr.verify.models import CheckResult, Finding

RUN = "shop/2026-11-24T21-04-05Z"
PLAN = Plan.model_validate(
    {
        "name": "shop",
        "description": "two tables",
        "source": "legacy",
        "target": "shop",
        "mappings": [
            {"target": "public.customer", "source": "public.customer", "key": {"id": "id"}},
            {"target": "public.order", "source": "public.order", "key": {"id": "id"}},
        ],
        "checks": [
            {"name": "seen by password='hunter2'", "source": "SELECT 1", "target": "SELECT 1"},
        ],
    }
)
ROWS = {"public.customer": 10, "public.order": 90}


def column(name: str) -> ResolvedColumn:
    return ResolvedColumn(
        name=name,
        expression=name,
        source_type="integer",
        target_type="integer",
        base_type="integer",
        category="builtin",
        not_null=True,
        collatable=False,
    )


def mapping(number: int, name: str) -> ResolvedMapping:
    table = TableName(schema_name="public", name=name)
    return ResolvedMapping(
        number=number,
        target=table,
        source_table=table,
        source_alias=name,
        from_clause=f"public.{name}",
        where=None,
        key=[column("id")],
        columns=[column("id"), column("n")],
        mode="create",
        binary=True,
        estimated_rows=100,
        estimated_bytes=1000,
    )


SURVEY = Survey(
    source_version="18.6",
    target_version="17.2",
    source_identity="1 legacy",
    target_identity="2 shop",
    mappings=[mapping(0, "customer"), mapping(1, "order")],
    objects=[],
    problems=[SurveyProblem(severity="warning", where="public.order", found="a trigger is not copied")],
)


async def copied(target: Connection, changes: ledger.Changes | None = None) -> Lease:
    """A run that was surveyed and copied: two mappings, the second in two partitions, each with these changes."""
    tables = [each.target for each in SURVEY.mappings]
    lease = await claim(target, RUN, PLAN, digest_of(canonical_json(PLAN)), tables, actor="mira")
    await mappings.store_survey(target, lease, RUN, SURVEY)
    parts = [
        Partition(mapping=0, number=0, lower=None, upper=None, estimated_rows=10),
        Partition(mapping=1, number=0, lower=None, upper=["50"], estimated_rows=50),
        Partition(mapping=1, number=1, lower=["50"], upper=None, estimated_rows=50),
    ]
    await partitions.store_partitions(target, lease, RUN, parts[:1])
    await partitions.store_partitions(target, lease, RUN, parts[1:])
    for part in parts:
        rows = 10 if part.mapping == 0 else 45
        async with fenced(target, lease):
            await ledger.enter(target, lease, RUN, part.mapping, "everyone", part.number, 1)
            await ledger.close(target, RUN, part.mapping, "everyone", part.number, rows, rows * 10, 0.5, changes)
            body = {"mapping": part.mapping, "phase": "everyone", "rows": rows, "bytes": rows * 10, "seconds": 0.5}
            await chain.append(target, RUN, f"copy {part.mapping}/{part.number}", "copy", body)
    return lease


@pytest.fixture
async def lease(target: Connection) -> Lease:
    """The lease of such a run."""
    return await copied(target)


async def verified(
    target: Connection, lease: Lease, *, differs: bool = False, signer: SigningKey | None = None
) -> AuditHead:
    """What verification writes: a result for each check, and the verdict that follows from them."""
    found = Finding(mapping="public.order", kind="changed", key={"id": "7"}, column="n", expected="1", found=None)
    expected = verdict.expected_checks(PLAN, SURVEY.mappings, {0: 1, 1: 2})
    for key in expected:
        unlike = differs and (key.kind, key.mapping, key.partition) == ("parity", 1, 1)
        sums = {"source_checksum": "1/2", "target_checksum": "1/3" if unlike else "1/2"} if key.kind == "parity" else {}
        rows = {"source_rows": 45, "target_rows": 45} if key.kind == "parity" else {}
        bounds: dict[str, object] = {"lower": ["50"] if key.partition == 1 else None}
        bounds["upper"] = ["50"] if (key.mapping, key.partition) == (1, 0) else None
        result = CheckResult.model_validate(
            key.model_dump()
            | sums
            | rows
            | (bounds if key.kind == "parity" else {})
            | {
                "outcome": "failed" if unlike else "passed",
                "findings_total": int(unlike),
                "findings": [found] if unlike else [],
                "counts": {"changed": 1} if unlike else {},
                "seconds": 0.000012,
                "sql": ["SELECT 'ü\u2028'"],
            }
        )
        await results.store(target, lease, RUN, "everyone", 1, result)
    concluded = verdict.conclude(
        expected=expected,
        results=await results.load(target, RUN, "everyone", 1),
        run_id=RUN,
        phase="everyone",
        round=1,
        plan_name=PLAN.name,
        plan_hash=digest_of(canonical_json(PLAN)),
        started_at=datetime(2026, 11, 24, 21, 4, 5, tzinfo=UTC),
        ended_at=datetime(2026, 11, 24, 21, 5, 5, tzinfo=UTC),
    )
    assert concluded.passed is not differs
    return await results.store_verdict(target, lease, concluded, signer)


async def attacked(target: Connection, statement: str) -> ReportData:
    async with target.transaction():
        await target.execute("SET LOCAL session_replication_role = replica")
        await target.execute(statement)
    return await gather(target, RUN)


async def test_a_completed_run_is_proved(target: Connection, lease: Lease) -> None:
    head = await verified(target, lease)
    await release(target, RUN, "completed")
    data = await gather(target, RUN, [head])
    assert data.doubts == []
    assert data.outcome == "proved"
    assert data.headline == "All 100 rows of 2 tables were moved from legacy to shop and proved identical."
    assert [(each.name, each.rows, each.partitions_copied, each.partitions_planned) for each in data.mappings] == [
        ("public.customer", 10, 1, 1),
        ("public.order", 90, 2, 2),
    ]
    assert (data.mappings[1].bytes, data.mappings[1].seconds) == (900, 1.0)
    assert data.environment.target_version == "17.2"
    assert data.environment.warnings == ["public.order: a trigger is not copied"]
    assert data.run.ended_at is not None
    assert data.trail.witnesses == [head]


async def test_the_report_of_a_real_schema_passes_the_offline_checker(target: Connection, lease: Lease) -> None:
    head = await verified(target, lease)
    await release(target, RUN, "completed")
    data = await gather(target, RUN)
    text = report_json(data)
    assert offline.check(text.encode(), [(head.position, head.digest)]) == []
    assert load_report(text) == data
    assert "public.order" in render_report(data)


async def test_a_run_without_a_verdict_is_still_running_and_says_what_was_moved(
    target: Connection, lease: Lease
) -> None:
    data = await gather(target, RUN)
    assert data.outcome == "running"
    assert data.headline == "Still running: 100 rows of 2 tables moved from legacy to shop so far."
    assert data.doubts == []


async def test_what_became_of_rows_that_were_there_is_summed_by_table(target: Connection) -> None:
    await copied(target, ledger.Changes(inserted=1, updated=1_000, deleted=3, others=0, checksum_change=Decimal(0)))
    customer, order = (await gather(target, RUN)).mappings
    assert str(customer.changes) == "1 inserted, 1,000 updated, 3 deleted"
    assert str(order.changes) == "2 inserted, 2,000 updated, 6 deleted"


async def test_a_table_that_the_run_made_has_no_such_figures(target: Connection, lease: Lease) -> None:
    assert [mapping.changes for mapping in (await gather(target, RUN)).mappings] == [None, None]


async def test_a_difference_is_named(target: Connection, lease: Lease) -> None:
    await verified(target, lease, differs=True)
    data = await gather(target, RUN)
    assert data.outcome == "differs"
    assert data.explanation == "The first one is at public.order, id = 7, column n: expected 1, found NULL."


async def test_a_secret_in_the_plan_is_not_in_the_report(target: Connection, lease: Lease) -> None:
    data = await gather(target, RUN)
    assert "hunter2" not in str(data.plan)
    assert data.doubts == []


@pytest.mark.parametrize(
    ("statement", "doubt"),
    [
        ("UPDATE knarr.verdict SET document = jsonb_set(document, '{findings_total}', '7')", "it was edited"),
        ("UPDATE knarr.verdict SET digest = repeat('a', 64)", "the audit trail holds no verdict"),
        ("UPDATE knarr.verdict SET passed = NOT passed", "its document says passed, its row says failed"),
        ("DELETE FROM knarr.verdict", "that is not stored"),
        ("DELETE FROM knarr.check_result WHERE partition = 1", "are not those it was computed from"),
        ("UPDATE knarr.check_result SET outcome = 'failed' WHERE partition = 1", "contradicts its own document"),
        (
            "UPDATE knarr.check_result SET result = jsonb_set(result, '{target_rows}', '44') WHERE partition = 1",
            "are not those it was computed from",
        ),
        (
            "INSERT INTO knarr.check_result SELECT run_id, phase, round, kind, 'another', mapping, partition, outcome, "
            "result FROM knarr.check_result WHERE partition = 1",
            "is not in it",
        ),
        ("UPDATE knarr.run SET plan_hash = repeat('a', 64)", "the run was started with aaaa"),
        (
            """UPDATE knarr.run SET plan = replace(plan::text, '"two tables"', '"three tables"')::json""",
            "the stored plan gives the hash",
        ),
        ("UPDATE knarr.run SET plan = '{}'", "is no plan that this version knows"),
        ("UPDATE knarr.audit SET body = '{}' WHERE kind = 'verdict'", "it is not what was written"),
        ("DELETE FROM knarr.audit_head", "the head row is gone"),
    ],
)
async def test_evidence_that_was_edited_in_the_database_is_doubted(
    target: Connection, lease: Lease, statement: str, doubt: str
) -> None:
    await verified(target, lease)
    await release(target, RUN, "completed")
    data = await attacked(target, statement)
    assert any(doubt in each for each in data.doubts), data.doubts
    assert data.outcome == "altered"
    assert "Nothing in this report can be relied on." in render_report(data)


async def test_a_run_that_is_not_known_is_refused(target: Connection) -> None:
    with pytest.raises(PlanError, match="no run 'another' on this target"):
        await gather(target, "another")
