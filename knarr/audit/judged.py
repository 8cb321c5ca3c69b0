"""The checks that count: of every phase its last round, by name, as its verdict sums them up."""

from collections.abc import Sequence

from knarr.audit.facts import CheckFacts, FindingFacts, ReportData, StoredCheck, VerdictFacts


def judged_checks(data: ReportData) -> list[CheckFacts]:
    """All checks of each phase's last round, in the order in which the phases were verified.

    A verdict's own list comes first, since it also names the checks that nobody computed. Where verification has not
    ended yet, the stored results are summed up here instead.
    """
    rounds: dict[str, int] = {}
    places = [(check.phase, check.round) for check in data.checks]
    places += [(verdict.phase, verdict.round) for verdict in data.verdicts]
    for phase, number in places:
        rounds[phase] = max(number, rounds.get(phase, number))
    checks = []
    for phase, last in rounds.items():
        verdict = next((verdict for verdict in data.verdicts if (verdict.phase, verdict.round) == (phase, last)), None)
        stored = [check for check in data.checks if (check.phase, check.round) == (phase, last)]
        checks.extend(said_by(verdict) if verdict else summed(stored))
    return checks


def said_by(verdict: VerdictFacts) -> list[CheckFacts]:
    """A verdict's own list of checks."""
    said = verdict.document.get("checks")
    place = {"phase": verdict.phase, "round": verdict.round}
    documents = [check for check in said if isinstance(check, dict)] if isinstance(said, list) else []
    return [CheckFacts.model_validate(document | place) for document in documents]


def summed(stored: Sequence[StoredCheck]) -> list[CheckFacts]:
    """Stored results by check, partitions together. One that did not pass decides for the whole."""
    groups: dict[tuple[str, str, int], list[StoredCheck]] = {}
    for check in stored:
        groups.setdefault((check.kind, check.name, check.mapping), []).append(check)
    return [_sum(group) for group in groups.values()]


def _sum(group: Sequence[StoredCheck]) -> CheckFacts:
    parts = [CheckFacts.model_validate(check.result | check.model_dump(exclude={"result"})) for check in group]
    worst = next((part for part in parts if not part.passed), parts[0])
    unlike = [check.partition for check in group if check.partition >= 0 and check.outcome != "passed"]
    findings: list[FindingFacts] = [finding for part in parts for finding in part.findings]
    return worst.model_copy(
        update={
            "partitions": sum(check.partition >= 0 for check in group),
            "unlike_partitions": unlike,
            "source_rows": total([part.source_rows for part in parts]),
            "target_rows": total([part.target_rows for part in parts]),
            "source_checksum": _checksum([part.source_checksum for part in parts]),
            "target_checksum": _checksum([part.target_checksum for part in parts]),
            "findings": findings,
            "findings_total": sum(part.findings_total for part in parts),
            "seconds": sum(part.seconds for part in parts),
        }
    )


def total(counts: Sequence[int | None]) -> int | None:
    """The sum of what is known, or None where nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _checksum(checksums: Sequence[str | None]) -> str | None:
    # A checksum is one or more sums of row hashes, first/second, so partitions add up; anything else stands alone.
    known = [checksum for checksum in checksums if checksum is not None]
    if len(known) <= 1:
        return known[0] if known else None
    try:
        columns = zip(*([int(part) for part in checksum.split("/")] for checksum in known), strict=True)
        return "/".join(str(sum(column)) for column in columns)
    except ValueError:
        return None
