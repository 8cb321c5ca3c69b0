"""The geometry of the report's pictures: what is drawn where, before any markup."""

from collections.abc import Sequence
from typing import Final

from knarr.audit.facts import CheckFacts, Facts, ReportData
from knarr.audit.judged import judged_checks
from knarr.audit.story import Event

CHECKS_SHOWN: Final = 14
EVENTS_SHOWN: Final = 24

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


def time_span(told: Sequence[Event]) -> float:
    """Seconds from the beginning of the first event to the end of the last: the axis of `time_bars`."""
    if not told:
        return 0.0
    return (max(event.ended for event in told) - min(event.started for event in told)).total_seconds()


def time_bars(told: Sequence[Event]) -> list[Bar]:
    """What took time, on one axis from the first entry to the last; the longest 24 in order of their beginning."""
    if not told:
        return []
    start = min(event.started for event in told)
    whole = max(time_span(told), 0.001)
    longest = sorted((event for event in told if event.seconds > 0), key=lambda event: -event.seconds)[:EVENTS_SHOWN]
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
