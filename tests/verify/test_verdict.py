"""The verdict is derived from what is stored and from what should be, so it can't be fooled by not running."""

from datetime import UTC, datetime

import pytest

from knarr.audit.canonical import digest_of
from knarr.plan.models import CrossCheck, Plan
from knarr.plan.models import Mapping as PlanMapping
from knarr.plan.resolved import ResolvedMapping, TableName
from knarr.verify.models import CheckKey, CheckResult, Finding, Verdict, shorten
from knarr.verify.verdict import conclude, expected_checks

PLAN = Plan(
    name="shop",
    source="legacy",
    target="shop",
    mappings=[PlanMapping(target="shop.t", source="public.t")],
    checks=[CrossCheck(name="revenue", source="SELECT 1", target="SELECT 1")],
)
TABLE = TableName(schema_name="shop", name="t")
MAPPING = ResolvedMapping(
    number=0,
    target=TABLE,
    source_table=TABLE,
    source_alias="t",
    from_clause="t",
    where=None,
    key=[],
    columns=[],
    mode="create",
    binary=True,
    rules={"positive": "id > 0"},
    estimated_rows=1,
    estimated_bytes=1,
)
BOUNDS: list[list[str] | None] = [None, ["10"], ["20"], None]


def passed(key: CheckKey) -> CheckResult:
    if key.kind != "parity":
        return CheckResult(**key.model_dump(), outcome="passed", message="fine", seconds=0.5, sql=["SELECT 1"])
    return CheckResult(
        **key.model_dump(),
        outcome="passed",
        message="7 rows",
        source_rows=7,
        target_rows=7,
        source_checksum="-5/9223372036854775807000",
        target_checksum="-5/9223372036854775807000",
        lower=BOUNDS[key.partition],
        upper=BOUNDS[key.partition + 1],
        method="hashtextextended",
        sql=["SELECT 1"],
    )


EXPECTED = expected_checks(PLAN, [MAPPING], {0: 3})
RESULTS = [passed(key) for key in EXPECTED]


def concluded(results: list[CheckResult], expected: list[CheckKey] = EXPECTED) -> Verdict:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    return conclude(
        expected=expected,
        results=results,
        run_id="shop/1",
        phase="everyone",
        round=1,
        plan_name="shop",
        plan_hash="0" * 64,
        started_at=at,
        ended_at=at,
    )


def test_every_check_is_expected_by_name() -> None:
    assert [(key.kind, key.name, key.mapping, key.partition) for key in EXPECTED] == [
        ("parity", "shop.t", 0, 0),
        ("parity", "shop.t", 0, 1),
        ("parity", "shop.t", 0, 2),
        ("integrity", "shop.t", 0, -1),
        ("rule", "positive", 0, -1),
        ("cross", "revenue", -1, -1),
    ]


def test_all_checks_passed_is_a_verdict_that_passed() -> None:
    verdict = concluded(RESULTS)
    assert verdict.passed and verdict.findings_total == 0
    assert verdict.message == "all 4 checks passed; 21 rows are column by column what the source says"
    parity = verdict.checks[0]
    assert (parity.partitions, parity.source_rows, parity.source_checksum) == (3, 21, "-15/27670116110564327421000")
    assert parity.results_digest == digest_of([result.model_dump(mode="json") for result in RESULTS[:3]])


@pytest.mark.parametrize("place", range(len(RESULTS)))
def test_a_check_without_a_result_has_failed(place: int) -> None:
    verdict = concluded(RESULTS[:place] + RESULTS[place + 1 :])
    assert not verdict.passed
    [check] = [check for check in verdict.checks if check.outcome != "passed"]
    assert check.outcome == "failed" and check.message.startswith("not computed")
    assert check.findings[0].kind == "coverage" and check.findings_total == 1
    if place < 3:
        assert check.unlike_partitions == [place]


def test_nothing_at_all_proves_nothing() -> None:
    assert not concluded([], []).passed
    assert not concluded([]).passed


def test_a_mapping_that_was_never_cut_into_partitions_has_failed() -> None:
    expected = expected_checks(PLAN, [MAPPING], {})
    assert CheckKey(kind="parity", name="shop.t", mapping=0, partition=0) in expected


@pytest.mark.parametrize("outcome", ["failed", "could not run"])
def test_one_result_that_did_not_pass_decides(outcome: str) -> None:
    finding = Finding(mapping="shop.t", kind="missing", key={"id": "1"})
    update = {"outcome": outcome, "counts": {"missing": 3}, "findings_total": 3, "findings": [finding], "message": "3"}
    verdict = concluded([RESULTS[0], RESULTS[1].model_copy(update=update), *RESULTS[2:]])
    assert not verdict.passed and verdict.findings_total == 3
    parity = verdict.checks[0]
    assert (parity.outcome, parity.unlike_partitions, parity.counts) == (outcome, [1], {"missing": 3})
    assert parity.message == "partition 1: 3"


@pytest.mark.parametrize(
    "edit",
    [{"target_rows": 8}, {"target_checksum": "1/1"}, {"findings_total": 1}, {"upper": ["11"]}, {"lower": ["0"]}],
)
def test_a_result_that_was_made_to_pass_is_not_believed(edit: dict[str, object]) -> None:
    verdict = concluded([RESULTS[0], RESULTS[1].model_copy(update=edit), *RESULTS[2:]])
    assert not verdict.passed
    assert verdict.checks[0].findings[0].kind == "coverage"


def test_partitions_that_end_early_or_start_late_are_a_gap() -> None:
    for place, edit in ((0, {"lower": ["1"]}), (2, {"upper": ["99"]})):
        results = [*RESULTS]
        results[place] = results[place].model_copy(update=edit)
        assert "compared by nobody" in concluded(results).checks[0].findings[0].hint


def test_a_result_that_nobody_expected_counts() -> None:
    extra = CheckResult(kind="rule", name="new", mapping=0, outcome="failed", findings_total=1)
    verdict = concluded([*RESULTS, extra])
    assert not verdict.passed and verdict.checks[-1].name == "new"


def test_a_verdicts_digest_survives_json() -> None:
    verdict = concluded(RESULTS)
    again = Verdict.model_validate_json(verdict.model_dump_json())
    assert again == verdict and again.digest == verdict.digest
    assert verdict.model_copy(update={"passed": False}).digest != verdict.digest


def test_long_values_are_shortened_with_length_and_hash() -> None:
    assert shorten("x" * 200) == "x" * 200 and shorten(None) is None
    long = shorten("x" * 201)
    assert long is not None and long.startswith("x" * 200 + "... (201 characters, sha256 ")
    assert long != shorten("x" * 200 + "y")


@pytest.mark.parametrize("place", range(len(EXPECTED)))
def test_a_result_without_a_statement_behind_it_has_failed(place: int) -> None:
    results = [*RESULTS]
    results[place] = results[place].model_copy(update={"sql": []})
    verdict = concluded(results)
    assert not verdict.passed
    assert any("no statement was sent" in (f.found or "") for check in verdict.checks for f in check.findings)
