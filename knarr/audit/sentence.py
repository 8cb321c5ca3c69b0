"""The verdict in a sentence: what happened to the data, in words for somebody who has never seen a database."""

from knarr.audit import standing
from knarr.audit.evidence import ENDED_WELL, skips, stays
from knarr.audit.facts import CheckFacts, Outcome, ReportData, VerdictFacts
from knarr.audit.judged import judged_checks
from knarr.wording import counted


def conclude(data: ReportData) -> ReportData:
    """The same data with its outcome, headline and explanation worked out from the facts in it."""
    outcome = _outcome(data)
    return data.model_copy(
        update={"outcome": outcome, "headline": _headline(outcome, data), "explanation": _explanation(outcome, data)}
    )


def _last_verdict(data: ReportData) -> VerdictFacts | None:
    """The verdict that counts: of the phase verified last, its last round."""
    if not data.verdicts:
        return None
    order = {check.phase: index for index, check in enumerate(data.checks)}
    return max(data.verdicts, key=lambda verdict: (order.get(verdict.phase, -1), verdict.round))


def _outcome(data: ReportData) -> Outcome:
    tampering = [fault for fault in data.trail.faults if fault.kind != "clock set back"]
    if tampering or len(data.doubts) > len(data.trail.faults):
        return "altered"
    if data.run.state in ("rolled back", "aborted"):
        if _left(data):
            return "not taken back"
        return "rolled back" if data.run.state == "rolled back" else "aborted"
    if standing.is_taken_back(data):
        return "being taken back"
    verdict = _last_verdict(data)
    if verdict is not None and not verdict.passed:
        return "accepted" if data.run.state in ENDED_WELL and skips(data) else "differs"
    if data.run.state in ENDED_WELL:
        return "proved" if verdict is not None and not verdict.withdrawn else "not verified"
    return "running"


def _headline(outcome: Outcome, data: ReportData) -> str:
    run = data.run
    rows = sum(mapping.rows for mapping in data.mappings)
    tables = counted(len(data.mappings), "table")
    differences = sum(check.findings_total for check in _failed(data))
    if outcome == "proved":
        every = f"All {rows:,} rows" if rows != 1 else "The one row"
        verb = "were moved" if rows != 1 else "was moved"
        return f"{every} of {tables} {verb} from {run.source} to {run.target} and proved identical."
    if outcome == "altered":
        if data.doubts == data.signatures.doubts:
            return "A verdict of this run is not signed by the key it was checked with. Nothing here can be relied on."
        return "The evidence of this run has been altered. Nothing in this report can be relied on."
    if outcome == "being taken back":
        return standing.taking_back(data)
    if outcome == "accepted":
        found = counted(differences or len(_failed(data)), "difference" if differences else "failed check")
        return f"Accepted by a person in spite of {found} between {run.source} and {run.target}."
    if outcome == "not taken back":
        return f"The run was {run.state}, but not all that it had written to {run.target} was taken back."
    if outcome == "differs":
        if differences:
            return f"Not accepted: {counted(differences, 'difference')} between {run.source} and {run.target}."
        failed = counted(len(_failed(data)), "check")
        return f"Not accepted: {failed} between {run.source} and {run.target} did not pass."
    if outcome in ("rolled back", "aborted") and not data.mappings:
        # No survey was stored, and no row is written without one.
        how = "was refused, or ended," if outcome == "rolled back" else "was stopped by an operator"
        return f"Nothing was written to {run.target}: the run {how} before it moved anything."
    if outcome == "rolled back":
        why = f"{counted(differences, 'difference')} found" if differences else "the run did not succeed"
        if stays(data):
            return f"Taken back, but for what others have written to {run.target} meanwhile: {why}."
        return f"Nothing was kept: {why}, and everything this run had written to {run.target} was taken back."
    if outcome == "aborted" and stays(data):
        return f"An operator stopped the run; taken back, but for what others have written to {run.target} meanwhile."
    if outcome == "aborted":
        return f"Nothing was kept: an operator stopped the run, and all it had written to {run.target} was taken back."
    if outcome == "running":
        moved = counted(rows, "row")
        return f"{standing.going_on(data)}: {moved} of {tables} moved from {run.source} to {run.target} so far."
    return f"Not verified: {counted(rows, 'row')} of {tables} moved from {run.source} to {run.target}, nothing proved."


def _explanation(outcome: Outcome, data: ReportData) -> str:
    checks = judged_checks(data)
    passed = sum(check.passed for check in checks)
    if outcome == "altered":
        return data.doubts[0][:1].upper() + data.doubts[0][1:] + "."
    if outcome == "proved":
        compared = sum(check.target_rows or 0 for check in checks if check.kind == "parity")
        return (
            f"Every row was compared, column by column, with what the plan says it should have become: "
            f"{compared:,} rows compared, {passed:,} of {len(checks):,} checks passed, none was left out."
        )
    if outcome == "accepted":
        return " ".join(f"The reason given: {reason}." for reason in skips(data))
    if outcome == "not taken back":
        return ". ".join(_left(data)) + "."
    if needed := standing.needs(data):
        return needed
    if outcome in ("rolled back", "aborted") and (left := "; ".join(stays(data))):
        return f"{left[:1].upper()}{left[1:]}."
    failed = _failed(data)
    if failed:
        return _first(failed[0], data)
    if not checks:
        return "No check has been computed."
    return f"{passed:,} of {len(checks):,} checks computed so far passed."


def _left(data: ReportData) -> list[str]:
    """What a run that was taken back has left on the target, by its own ledger and by what a person decided."""
    left = [f"A step was skipped ({reason})" for reason in skips(data)]
    if rows := sum(mapping.rows for mapping in data.mappings):
        left.append(f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} still in its ledger")
    if data.objects:
        names = ", ".join(each.name for each in data.objects[:5]) + (", ..." if len(data.objects) > 5 else "")
        verb = "stands" if len(data.objects) == 1 else "stand"
        left.append(f"{counted(len(data.objects), 'object')} still {verb}: {names}")
    return left


def _first(check: CheckFacts, data: ReportData) -> str:
    if not check.findings:
        return f"The {check.kind} check {check.name!r} {check.outcome}: {check.message or 'it says no more'}"
    finding = check.findings[0]
    key = ", ".join(f"{column} = {'NULL' if value is None else value}" for column, value in finding.key.items())
    parts = (
        finding.mapping or data.mapping_name(check.mapping) or check.name,
        key,
        f"column {finding.column}" if finding.column else "",
    )
    place = ", ".join(part for part in parts if part)
    if finding.expected is None and finding.found is None:
        return f"The first one is at {place}: {finding.kind}."
    expected, found = ("NULL" if value is None else value for value in (finding.expected, finding.found))
    return f"The first one is at {place}: expected {expected}, found {found}."


def _failed(data: ReportData) -> list[CheckFacts]:
    return [check for check in judged_checks(data) if not check.passed]
