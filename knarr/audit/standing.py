"""Where a run stands that has not ended: under way, held, being taken back, or waiting for a person.

The target's record knows `running` and `sealed` alone until the end. That a run has turned back is in its audit trail;
whether it waits is known to its workflow, which tells it where Temporal was asked.
"""

from typing import Final

from knarr.audit.evidence import body_of
from knarr.audit.facts import ReportData
from knarr.telemetry.scrub import scrub

BACK: Final = "being taken back"
WAITS: Final = "waiting for a person"
HELD: Final = "at checkpoint"
GONE: Final = frozenset({"terminated", "timed out", "failed", "canceled"})  # from outside: nobody takes it back
TURNS_BACK: Final = frozenset({"abort", "rollback", "roll back"})


def state_of(data: ReportData) -> str:
    """The run's state in the words of its own commands."""
    if data.run.ended_at is not None:
        return data.run.state
    if is_taken_back(data):
        return f"{BACK}, {WAITS}" if data.said.state == WAITS else BACK
    return data.said.state or data.run.state


def is_taken_back(data: ReportData) -> bool:
    """Whether the run is on its way back: it turned, has not ended, and is neither held nor without a workflow."""
    if data.run.ended_at is not None or data.said.state in {HELD, *GONE}:
        return False
    return data.said.state == "unwinding" or _turned_back(data)


def going_on(data: ReportData) -> str:
    """How a headline about a run that goes forward begins: `Still running`, or what keeps it."""
    state = state_of(data)
    return "Still running" if state in {"running", "starting", "sealed"} else state[:1].upper() + state[1:]


def taking_back(data: ReportData) -> str:
    """The headline of a run that is being taken back."""
    waits = ", and waiting for a person" if data.said.state == WAITS else ""
    return f"Being taken back{waits}: not all that this run had written to {data.run.target} is gone yet."


def needs(data: ReportData) -> str:
    """What the run waits for a person with and how it is answered; empty when it does not wait, or nobody told."""
    if data.said.state != WAITS:
        return ""
    parts = [data.said.message, f"To answer: {data.said.waiting_for}" if data.said.waiting_for else ""]
    return scrub(" ".join(f"{part.rstrip('.')}." for part in parts if part))


def _turned_back(data: ReportData) -> bool:
    """By the trail: an epoch is only raised to take a run back, and only `resume` lets it go forward again."""
    back = False
    for entry in data.trail.entries:
        if entry.kind not in {"decision", "operator"}:
            continue
        body = body_of(entry.body)
        accepted = body.get("accepted") is True
        if entry.key.startswith("raise epoch ") or (accepted and body.get("action") in TURNS_BACK):
            back = True
        elif accepted and body.get("action") == "resume":
            back = False
    return back
