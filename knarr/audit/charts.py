"""The geometry of the report's pictures: what is drawn where, before any markup."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from knarr.audit.facts import CheckFacts, Facts, ReportData, StoredCheck
from knarr.audit.judged import judged_checks
from knarr.audit.story import Event
from knarr.wording import counted

CHECKS_SHOWN: Final = 14
EVENTS_SHOWN: Final = 24  # besides copies and verification
BARS_SHOWN: Final = 60

EXPLAINED: Final[dict[str, tuple[str, str]]] = {
    "parity": ("Every row, every column", "each row on the target against what the plan makes of the source"),
    "integrity": ("Keys and references", "keys present and unique, every reference leads somewhere, constraints hold"),
    "rule": ("Business rules", "what the plan says must be true of every row"),
    "cross": ("Totals in both databases", "the same question asked on either side, the answers compared"),
    "downstream": ("Consumers of the data", "what those who use the data see now"),
}


class CheckGroup(Facts):
    """All checks of one kind, or of one kind about one thing; `share` is of the longest in the same picture."""

    kind: str
    label: str
    about: str
    checks: int
    passed: int
    rows: int
    seconds: float
    share: float

    @property
    def failed(self) -> int:
        """How many of them did not pass."""
        return self.checks - self.passed


class Bar(Facts):
    """A stretch of time in a picture, from 0 to 1 of the whole width."""

    label: str
    detail: str
    start: float
    width: float
    seconds: float
    kind: str


def kinds(data: ReportData) -> list[CheckGroup]:
    """The checks that count, by kind, in the order in which the kinds are explained."""
    groups: dict[str, list[CheckFacts]] = {kind: [] for kind in EXPLAINED}
    for check in judged_checks(data):
        groups.setdefault(check.kind, []).append(check)
    told = [(kind, *EXPLAINED.get(kind, (kind, "")), checks) for kind, checks in groups.items() if checks]
    return _scaled([_group(kind, label, about, checks) for kind, label, about, checks in told])


def slowest(data: ReportData) -> list[CheckGroup]:
    """The checks that took longest, failed ones first; at most 14."""
    groups: dict[tuple[str, str], list[CheckFacts]] = {}
    for check in judged_checks(data):
        mapping = data.mapping_name(check.mapping)
        label = " · ".join(part for part in (mapping, check.name if check.name != mapping else "") if part)
        groups.setdefault((check.kind, label), []).append(check)
    made = [_group(kind, label, "", checks) for (kind, label), checks in groups.items()]
    made.sort(key=lambda group: (not group.failed, -group.seconds))
    return _scaled(made[:CHECKS_SHOWN])


def timed(told: Sequence[Event], data: ReportData) -> list[Event]:
    """What the picture of the time is drawn from: what the trail tells, and verification, which it only concludes.

    The trail has one entry for a verdict, at the end of hours of comparing: those are told by the results' own times.
    """
    verified = _verifications(data)
    return [event for event in told if event.kind != "verdict" or not verified] + verified


def _verifications(data: ReportData) -> list[Event]:
    rounds: dict[tuple[str, int], list[StoredCheck]] = {}
    for check in data.checks:
        rounds.setdefault((check.phase, check.round), []).append(check)
    return [
        Event(
            position=0,
            started=min(_began(check) for check in checks),
            ended=max(check.computed_at for check in checks),
            kind="verification",
            title=f"verify {phase}" + (f", round {number:,}" if number > 1 else ""),
            detail=counted(len(checks), "result"),
            outcome="passed" if all(check.outcome == "passed" for check in checks) else "failed",
            undo=False,
        )
        for (phase, number), checks in rounds.items()
    ]


def _began(check: StoredCheck) -> datetime:
    seconds = check.result.get("seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds < 10.0**8:  # a check can't last longer than a run
        return check.computed_at
    return check.computed_at - timedelta(seconds=seconds)


def time_span(told: Sequence[Event]) -> float:
    """Seconds from the beginning of the first event to the end of the last: the axis of `time_bars`."""
    if not told:
        return 0.0
    return (max(event.ended for event in told) - min(event.started for event in told)).total_seconds()


def time_bars(told: Sequence[Event]) -> list[Bar]:
    """What took time, on one axis from the first entry to the last, in order of its beginning.

    All copies and verifications, and of everything else the 24 that took longest; of more than 60 bars the longest.
    """
    if not told:
        return []
    start = min(event.started for event in told)
    whole = max(time_span(told), 0.001)
    by_length = sorted(told, key=lambda event: -event.seconds)
    rows = [event for event in by_length if event.kind in {"copy", "verification"}]
    others = [event for event in by_length if event.kind not in {"copy", "verification"} and event.seconds > 0]
    longest = sorted([*rows, *others[:EVENTS_SHOWN]], key=lambda event: -event.seconds)[:BARS_SHOWN]
    return [
        Bar(
            label=event.title,
            detail=event.detail,
            start=(event.started - start).total_seconds() / whole,
            width=max(event.seconds / whole, 0.002),
            seconds=event.seconds,
            kind="failed" if event.failed else "undo" if event.undo else event.kind,
        )
        for event in sorted(longest, key=lambda event: event.started)
    ]


def _group(kind: str, label: str, about: str, checks: Sequence[CheckFacts]) -> CheckGroup:
    return CheckGroup(
        kind=kind,
        label=label,
        about=about,
        checks=len(checks),
        passed=sum(check.passed for check in checks),
        rows=sum(check.target_rows or 0 for check in checks),
        seconds=sum(check.seconds for check in checks),
        share=0.0,
    )


def _scaled(groups: Sequence[CheckGroup]) -> list[CheckGroup]:
    longest = max((group.seconds for group in groups), default=0.0) or 1.0
    return [group.model_copy(update={"share": group.seconds / longest}) for group in groups]
