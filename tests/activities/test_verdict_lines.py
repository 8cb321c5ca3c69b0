"""What a verdict tells to history: where, how many, of what kind, in which columns; no key and no value."""

import pytest

from activities.verify import lines
from knarr.verify.models import CheckKind, CheckSummary, Finding, FindingKind, Outcome


def check(
    kind: CheckKind, name: str, *findings: Finding, outcome: Outcome = "failed", counts: dict[str, int] | None = None
) -> CheckSummary:
    return CheckSummary(
        kind=kind,
        name=name,
        mapping=0,
        outcome=outcome,
        message="canary",
        partitions=1,
        counts=counts or {},
        findings_total=len(findings),
        findings=list(findings),
        results_digest="0" * 64,
    )


def finding(kind: FindingKind, mapping: str = "shop.order", column: str | None = None) -> Finding:
    return Finding(
        mapping=mapping,
        kind=kind,
        key={"id": "canary"},
        column=column,
        expected="canary",
        found="canary",
        hint="canary",
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            check(
                "parity",
                "shop.order",
                finding("missing"),
                finding("changed", column="total"),
                finding("changed", column="placed_on"),
                counts={"missing": 1, "changed": 1_200},
            ),
            ["shop.order: 1 missing", "shop.order: 1,200 changed in placed_on, total"],
        ),
        (
            check("rule", "total is there", finding("rule"), counts={"rule": 3}),
            ["shop.order, check 'total is there': 3 rows do not meet it"],
        ),
        (
            check("cross", "revenue", finding("cross", "", "sum"), counts={"cross": 2}),
            ["check 'revenue': 2 differences in sum"],
        ),
        (
            check("parity", "shop.order", finding("coverage"), counts={"coverage": 1}),
            ["shop.order: 1 not computed, or not as stored"],
        ),
        (check("downstream", "the page", outcome="could not run"), ["check 'the page': could not run"]),
        (check("rule", "total is there", outcome="passed"), []),
    ],
)
def test_findings_are_counted_by_kind_and_column(given: CheckSummary, told: list[str]) -> None:
    assert lines(given) == told
    assert "canary" not in "".join(lines(given))
