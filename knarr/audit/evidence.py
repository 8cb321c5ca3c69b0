"""Whether the evidence in a report holds together: chain, verdicts, checks and plan held against each other.

Each doubt is one sentence for an auditor. The offline checker (knarr.audit.offline) repeats the parts that need no
database; both are free of each other's code on purpose.
"""

import json

from pydantic import JsonValue

from knarr.audit.canonical import digest_of
from knarr.audit.coverage import named, not_computed
from knarr.audit.facts import CheckFacts, ReportData, StoredCheck, VerdictFacts
from knarr.audit.judged import said_by
from knarr.wording import counted

ENDED_WELL = ("sealed", "completed")


def doubts_about(data: ReportData) -> list[str]:
    """Every reason why this report's evidence can't be relied on; empty when there is none."""
    doubts = [f"audit trail, entry {fault.position}: {fault.message}" for fault in data.trail.faults]
    witnessed = _verdict_digests(data)
    started = [body_of(entry.body).get("plan_hash") for entry in data.trail.entries if entry.kind == "run started"]
    doubts.extend(
        f"the run's plan is {data.run.plan_hash}, the audit trail says that it was started with {plan_hash}"
        for plan_hash in started
        if plan_hash not in (None, data.run.plan_hash)
    )
    gone = sorted(witnessed - {verdict.digest for verdict in data.verdicts})
    doubts.extend(f"the audit trail holds a verdict with the digest {digest} that is not stored" for digest in gone)
    doubts.extend(data.signatures.doubts)
    for verdict in data.verdicts:
        doubts.extend(_doubts_about_verdict(verdict, data, witnessed))
    proved = any(verdict.passed and not verdict.withdrawn for verdict in data.verdicts)
    if data.run.state in ENDED_WELL and not proved and not skips(data):
        doubts.append(f"the run is recorded as {data.run.state}, but no verdict that passed stands")
    return doubts


def _verdict_digests(data: ReportData) -> set[str]:
    digests = set()
    for entry in data.trail.entries:
        if entry.kind == "verdict":
            digest = body_of(entry.body).get("digest")
            if isinstance(digest, str):
                digests.add(digest)
    return digests


def _doubts_about_verdict(verdict: VerdictFacts, data: ReportData, witnessed: set[str]) -> list[str]:
    name = f"verdict of phase {verdict.phase}, round {verdict.round}"
    doubts = []
    computed = digest_of(verdict.document)
    if computed != verdict.digest:
        doubts.append(f"{name}: its document gives {computed}, its digest says {verdict.digest}: it was edited")
    if verdict.digest not in witnessed:
        doubts.append(f"{name}: the audit trail holds no verdict with the digest {verdict.digest}")
    if (said := verdict.document.get("passed")) is not None and said is not verdict.passed:
        doubts.append(f"{name}: its document says {_word(said)}, its row says {_word(verdict.passed)}")
    if (plan_hash := verdict.document.get("plan_hash")) is not None and plan_hash != data.run.plan_hash:
        doubts.append(f"{name}: it is about the plan {plan_hash}, the run's plan is {data.run.plan_hash}")
    stored = [check for check in data.checks if (check.phase, check.round) == (verdict.phase, verdict.round)]
    judged = said_by(verdict)
    if verdict.passed and (failed := [check for check in judged if not check.passed]):
        doubts.append(f"{name}: it says passed, but {len(failed):,} of its {counted(len(judged), 'check')} did not")
    if verdict.passed and not judged:
        doubts.append(f"{name}: it says passed, but names no check")
    if verdict.passed:
        doubts.extend(f"{name}: it says passed, but {what}" for what in not_computed(data, verdict, stored))
    doubts.extend(f"{name}: {what}" for what in _unlike_results(judged, stored))
    return doubts


def _word(passed: JsonValue) -> str:
    return {True: "passed", False: "failed"}[passed] if isinstance(passed, bool) else f"neither, but {passed}"


def _unlike_results(judged: list[CheckFacts], stored: list[StoredCheck]) -> list[str]:
    """Where the results that are stored are not those that the verdict was computed from."""
    results: dict[tuple[str, str, int], list[StoredCheck]] = {}
    for check in sorted(stored, key=lambda check: check.partition):
        results.setdefault((check.kind, check.name, check.mapping), []).append(check)
    unlike = []
    for summary in judged:
        behind = results.pop((summary.kind, summary.name, summary.mapping), [])
        if digest_of([check.result for check in behind]) != summary.results_digest:
            unlike.append(f"the results stored for {summary.kind} {summary.name!r} are not those it was computed from")
    unlike.extend(f"the result stored for {kind} {name!r} is not in it" for kind, name, _ in results)
    for check in stored:
        row = check.model_dump(include={"kind", "name", "mapping", "partition", "outcome"})
        if any(check.result.get(column) != value for column, value in row.items()):
            unlike.append(f"the row of {named(check.kind, check.name, check.partition)} contradicts its own document")
    return unlike


def skips(data: ReportData) -> list[str]:
    """The reasons for which a person decided, on the record, to leave something as it was."""
    bodies = [body_of(entry.body) for entry in data.trail.entries if entry.kind == "operator"]
    taken = [body for body in bodies if body.get("action") == "skip" and body.get("accepted") is True]
    return [f"{body.get('actor')}: {body.get('reason')}" for body in taken]


def stays(data: ReportData) -> list[str]:
    """What was taken back and still is not what it was, since others have written; each said once."""
    said: dict[str, None] = {}
    for entry in data.trail.entries:
        left = body_of(entry.body).get("left") if entry.kind == "compensation" else None
        said |= {each: None for each in left if isinstance(each, str)} if isinstance(left, list) else {}
    return list(said)


def body_of(text: str) -> dict[str, JsonValue]:
    """An audit entry's body, or what can be shown of it when it is not the JSON object that it should be."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"body": text}
    return value if isinstance(value, dict) else {"body": value}
