"""A verdict on the terminal: nothing that was not computed looks as if it had passed."""

from datetime import UTC, datetime

import pytest
from rich.console import Console

from activities.models import VerdictSummary
from knarr.audit.chain import AuditHead
from knarr.verify.models import CheckKind, CheckSummary, Finding, Outcome, Verdict
from starter.output import Output
from starter.verdicts import ELSEWHERE, show_verdict, table_of, told

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def check(kind: CheckKind, name: str, outcome: Outcome, mapping: int = 0, findings: int = 0) -> CheckSummary:
    return CheckSummary(
        kind=kind,
        name=name,
        mapping=mapping,
        outcome=outcome,
        message="",
        partitions=1,
        source_rows=1500 if kind == "parity" else None,
        target_rows=1499 if kind == "parity" else None,
        findings_total=findings,
        results_digest="0" * 64,
    )


def judged(*checks: CheckSummary, passed: bool = False) -> Verdict:
    return Verdict(
        run_id="shop-v2/2026-11-23T10-15-02Z",
        phase="everyone",
        round=1,
        plan_name="shop-v2",
        plan_hash="0" * 64,
        passed=passed,
        message="",
        checks=list(checks),
        findings_total=sum(each.findings_total for each in checks),
        started_at=NOW,
        ended_at=NOW,
    )


def drawn(*checks: CheckSummary, passed: bool = False) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table_of(judged(*checks, passed=passed), "verdict: "))
    return capture.get()


def test_each_mapping_has_one_line_and_cross_checks_have_theirs() -> None:
    text = drawn(
        check("parity", "shop.order", "passed"),
        check("integrity", "shop.order", "passed"),
        check("rule", "total is not negative", "passed"),
        check("rule", "a customer is named", "passed"),
        check("cross", "revenue by year", "passed", mapping=-1),
        passed=True,
    )
    assert "PASSED ✓" in text
    [line] = [line for line in text.splitlines() if "shop.order" in line]
    assert "1,500" in line
    assert "✓ 2" in line
    assert any("revenue by year" in line and "✓" in line for line in text.splitlines())


def test_a_check_that_could_not_run_does_not_look_passed() -> None:
    text = drawn(check("parity", "shop.order", "could not run"), check("integrity", "shop.order", "passed"))
    assert "DIFFERS ✗" in text
    assert "✗ could not run" in text


def test_one_rule_of_three_that_is_broken_is_counted() -> None:
    rules = [check("rule", name, outcome) for name, outcome in (("a", "passed"), ("b", "failed"), ("c", "passed"))]  # type: ignore[arg-type]
    assert "✗ 1 of 3 differs" in drawn(check("parity", "shop.order", "passed"), *rules)


def test_a_mapping_whose_rows_were_not_compared_shows_no_mark() -> None:
    [line] = [line for line in drawn(check("integrity", "shop.order", "passed")).splitlines() if "shop.order" in line]
    assert line.count("✓") == 1
    assert "?" in line


def test_without_the_target_the_summary_is_told_and_where_the_rest_is(capsys: pytest.CaptureFixture[str]) -> None:
    summary = VerdictSummary(
        passed=False,
        checks=4,
        failed=1,
        rows=1_500,
        findings=2,
        first_findings=["shop.order: 2 changed in total"],
        digest="0" * 64,
        head=AuditHead(position=3, digest="0" * 64),
    )
    show_verdict(Output(as_json=False, debug=False), None, summary)

    assert capsys.readouterr().out.splitlines() == [
        "verdict: DIFFERS · 4 checks · 1,500 rows · 2 findings",
        "  shop.order: 2 changed in total",
        f"  {ELSEWHERE}",
    ]


@pytest.mark.parametrize(
    ("kept", "reported", "told_last"),
    [
        (12, True, "and 1,490 more findings in the report"),
        (12, False, "and 1,490 more findings; --json shows 12 of all"),
        (10, False, "and 1,490 more findings"),
    ],
)
def test_a_report_is_named_only_where_there_is_a_run_to_report(
    kept: int, reported: bool, told_last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [Finding(mapping="shop.order", kind="missing", key={"id": str(n)}) for n in range(kept)]
    parity = check("parity", "shop.order", "failed", findings=1_500).model_copy(update={"findings": missing})

    show_verdict(Output(as_json=False, debug=False), judged(parity), reported=reported)

    assert capsys.readouterr().out.splitlines()[-1] == f"  {told_last}"


def test_a_finding_says_where_and_both_values() -> None:
    changed = Finding(
        mapping="shop.order", kind="changed", key={"id": "7"}, column="total", expected="1.00", found=None
    )
    assert told(changed) == "shop.order · id = 7 · total · changed: expected '1.00', found NULL"
    assert "lacks this row" in told(changed.model_copy(update={"kind": "missing", "column": None}))
