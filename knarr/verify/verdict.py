"""The verdict: derived from stored results and the list of checks that must be there, and from nothing else.

What is on the list and has no result has failed: verification can't be fooled by not running.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from knarr.audit.canonical import digest_of
from knarr.plan.models import Plan
from knarr.plan.resolved import ResolvedMapping
from knarr.verify.models import CheckKey, CheckKind, CheckResult, CheckSummary, Finding, Outcome, Verdict
from knarr.verify.sides import Sums

SHOWN_PARTITIONS: Final = 100

Group = tuple[CheckKind, str, int]


def expected_checks(
    plan: Plan, mappings: Sequence[ResolvedMapping], partition_counts: Mapping[int, int]
) -> list[CheckKey]:
    """Every check that a verdict needs: parity of each partition, integrity and rules of each mapping, then the plan's.

    Args:
        plan: its `checks` and `downstream`.
        mappings: those that are to be verified.
        partition_counts: number of partitions by the mapping's number. None is taken for one, which will have no
            result: a mapping without partitions was never copied.
    """
    expected: list[CheckKey] = []
    for mapping in mappings:
        partitions = max(partition_counts.get(mapping.number, 0), 1)
        expected.extend(
            CheckKey(kind="parity", name=mapping.name, mapping=mapping.number, partition=number)
            for number in range(partitions)
        )
        expected.append(CheckKey(kind="integrity", name=mapping.name, mapping=mapping.number))
        expected.extend(CheckKey(kind="rule", name=name, mapping=mapping.number) for name in mapping.rules)
    expected.extend(CheckKey(kind="cross", name=check.name) for check in plan.checks)
    expected.extend(CheckKey(kind="downstream", name=check.name) for check in plan.downstream)
    return expected


def conclude(
    *,
    expected: Sequence[CheckKey],
    results: Sequence[CheckResult],
    run_id: str,
    phase: str,
    round: int,
    plan_name: str,
    plan_hash: str,
    started_at: datetime,
    ended_at: datetime,
    source_version: str = "",
    target_version: str = "",
    source_identity: str = "",
    target_identity: str = "",
    shown: int = 100,
) -> Verdict:
    """The verdict on one round; results that nobody expected count as well.

    Args:
        expected: as `expected_checks` lists them.
        results: as they are stored.
        shown: how many findings each check shows at most.
    """
    groups: dict[Group, list[CheckKey]] = {}
    for key in [*expected, *results]:
        groups.setdefault((key.kind, key.name, key.mapping), [])
    for key in expected:
        groups[key.kind, key.name, key.mapping].append(key)
    stored: dict[Group, list[CheckResult]] = {group: [] for group in groups}
    for result in results:
        stored[result.kind, result.name, result.mapping].append(result)
    checks = [_summary(group, keys, stored[group], shown) for group, keys in groups.items()]
    passed = bool(checks) and all(check.outcome == "passed" for check in checks)
    return Verdict(
        run_id=run_id,
        phase=phase,
        round=round,
        plan_name=plan_name,
        plan_hash=plan_hash,
        passed=passed,
        message=_sentence(checks),
        checks=checks,
        findings_total=sum(check.findings_total for check in checks),
        source_version=source_version,
        target_version=target_version,
        source_identity=source_identity,
        target_identity=target_identity,
        knarr_version=_knarr_version(),
        started_at=started_at,
        ended_at=ended_at,
    )


def _summary(group: Group, keys: Sequence[CheckKey], results: Sequence[CheckResult], shown: int) -> CheckSummary:
    kind, name, mapping = group
    ordered = sorted(results, key=lambda result: result.partition)
    there = {result.partition for result in ordered}
    missing = sorted({key.partition for key in keys} - there)
    findings = [finding for result in ordered for finding in result.findings][:shown]
    doubts = [_doubt(name, result) for result in ordered]
    doubts.append(_gap(name, ordered) if kind == "parity" and not missing else None)
    doubts.append(_not_computed(name, missing) if missing else None)
    certain = [doubt for doubt in doubts if doubt is not None]
    outcome = _outcome(ordered, bool(certain))
    bad = [result.partition for result in ordered if result.outcome != "passed"] + missing
    counts: Counter[str] = Counter()
    for result in ordered:
        counts.update(result.counts)
    if certain:
        counts["coverage"] += len(certain)
    return CheckSummary(
        kind=kind,
        name=name,
        mapping=mapping,
        outcome=outcome,
        message=_message(ordered, certain, outcome),
        partitions=len(there | set(missing)) if kind == "parity" else 0,
        unlike_partitions=sorted(partition for partition in bad if partition >= 0)[:SHOWN_PARTITIONS],
        source_rows=_total([result.source_rows for result in ordered]),
        target_rows=_total([result.target_rows for result in ordered]),
        source_checksum=_checksum([result.source_checksum for result in ordered]),
        target_checksum=_checksum([result.target_checksum for result in ordered]),
        counts=dict(counts),
        findings_total=sum(result.findings_total for result in ordered) + len(certain),
        findings=[*certain, *findings][:shown],
        seconds=sum(result.seconds for result in ordered),
        sql=ordered[0].sql if ordered else [],
        compared=ordered[0].compared if ordered else [],
        method=", ".join(sorted({result.method for result in ordered if result.method})),
        results_digest=digest_of([result.model_dump(mode="json") for result in ordered]),
    )


def _outcome(results: Sequence[CheckResult], doubted: bool) -> Outcome:
    if doubted or any(result.outcome == "failed" for result in results):
        return "failed"
    return "could not run" if any(result.outcome == "could not run" for result in results) else "passed"


def _doubt(name: str, result: CheckResult) -> Finding | None:
    """A result that says `passed` and shows that it did not, or that nothing was asked."""
    if result.outcome != "passed":
        return None
    if result.kind != "downstream" and not result.sql:
        return Finding(
            mapping=name,
            kind="coverage",
            expected="a result with the statements behind it",
            found=f"{result.check}: it says passed, yet no statement was sent for it",
            hint="verify again, by a worker whose code nobody has changed",
        )
    unlike = (result.source_rows, result.source_checksum) != (result.target_rows, result.target_checksum)
    if result.findings_total or result.findings or (result.kind == "parity" and unlike):
        return Finding(
            mapping=name,
            kind="coverage",
            expected="a result that passed without findings, with equal rows and checksums",
            found=f"{result.check}: it says passed, yet {result.findings_total:,} findings, "
            f"{_said(result.source_rows)} and {_said(result.target_rows)} rows",
            hint="verify again; somebody has edited the result",
        )
    return None


def _gap(name: str, results: Sequence[CheckResult]) -> Finding | None:
    """Partitions must follow each other without a gap, or rows between them were compared by nobody."""
    end: list[str] | None = None
    for place, result in enumerate(results):
        last = place == len(results) - 1
        if result.lower != end or (result.upper is None) != last:
            return Finding(
                mapping=name,
                kind="coverage",
                expected=f"partition {result.partition} from {_bound(end, 'the start')}{' to the end' if last else ''}",
                found=f"from {_bound(result.lower, 'the start')} to {_bound(result.upper, 'the end')}",
                hint="rows between partitions were compared by nobody; the stored partitions have been changed",
            )
        end = result.upper
    return None


def _not_computed(name: str, missing: Sequence[int]) -> Finding:
    parts = ", ".join(str(number) for number in missing[:SHOWN_PARTITIONS] if number >= 0)
    return Finding(
        mapping=name,
        kind="coverage",
        expected="a stored result",
        found="not computed" + (f": partitions {parts} ({len(missing):,} in all)" if parts else ""),
        hint="verify again; a check that has not run has failed",
    )


def _message(results: Sequence[CheckResult], doubts: Sequence[Finding], outcome: Outcome) -> str:
    if doubts:
        return doubts[0].found or "not computed"
    first = next((result for result in results if result.outcome != "passed"), results[0])
    if outcome != "passed":
        return first.message if first.partition < 0 else f"partition {first.partition}: {first.message}"
    if len(results) == 1:
        return first.message
    rows = _total([result.target_rows for result in results])
    return f"{_said(rows)} rows in {len(results):,} partitions, all as the source says"


def _sentence(checks: Sequence[CheckSummary]) -> str:
    if not checks:
        return "no check was computed, so nothing is proved"
    bad = [check for check in checks if check.outcome != "passed"]
    rows = sum(check.target_rows or 0 for check in checks if check.kind == "parity")
    if not bad:
        return f"all {len(checks):,} checks passed; {rows:,} rows are column by column what the source says"
    findings = sum(check.findings_total for check in bad)
    names = ", ".join(f"{check.kind} {check.name!r}" for check in bad[:3]) + (", ..." if len(bad) > 3 else "")
    return f"{len(bad):,} of {len(checks):,} checks did not pass ({names}): {findings:,} findings"


def _said(number: int | None) -> str:
    return "an unknown number of" if number is None else f"{number:,}"


def _bound(bound: Sequence[str] | None, end: str) -> str:
    return ", ".join(bound) if bound else end


def _total(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _checksum(texts: Sequence[str | None]) -> str | None:
    known = [text for text in texts if text is not None]
    return sum((Sums.of_checksum(text) for text in known), Sums()).checksum if known else None


def _knarr_version() -> str:
    try:
        return version("knarr")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"
