"""Where a run stands that has not ended: under way, held, being taken back, or waiting for a person.

The target's record knows `running` and `sealed` alone until the end. That a run has turned back is in its audit trail;
whether it waits is known to its workflow, which tells it where Temporal was asked.
"""

import re
from typing import Final

from knarr.audit.evidence import body_of
from knarr.audit.facts import ReportData
from knarr.telemetry.scrub import scrub

BACK: Final = "being taken back"
WAITS: Final = "waiting for a person"
HELD: Final = "at checkpoint"
GONE: Final = frozenset({"terminated", "timed out", "failed", "canceled"})  # from outside: nobody takes it back
TURNS_BACK: Final = frozenset({"abort", "rollback", "roll back"})
GOING_BACK: Final = re.compile(r"going back to checkpoint (.+?); `resume`")  # the answer to such an order
START: Final = "start"
HELD_THERE: Final = ", or held there"


def state_of(data: ReportData) -> str:
    """The run's state in the words of its own commands."""
    if data.run.ended_at is not None:
        return data.run.state
    if is_taken_back(data):
        return f"{BACK}, {WAITS}" if data.said.state == WAITS else _on_the_way(data)
    return data.said.state or data.run.state


def is_taken_back(data: ReportData) -> bool:
    """Whether the run is on its way back: it turned, has not ended, and is neither held nor without a workflow."""
    if data.run.ended_at is not None or data.said.state in {HELD, *GONE}:
        return False
    return data.said.state == "unwinding" or _turned_to(data) is not None


def going_on(data: ReportData) -> str:
    """How a headline about a run that goes forward begins: `Still running`, or what keeps it."""
    state = state_of(data)
    return "Still running" if state in {"running", "starting", "sealed"} else state[:1].upper() + state[1:]


def taking_back(data: ReportData) -> str:
    """The headline of a run that is being taken back."""
    way, to = _on_the_way(data), _turned_to(data)
    waits = ", and waiting for a person" if data.said.state == WAITS else ""
    rest = f"this run had written to {data.run.target}" if to in {None, START} else "came later"
    perhaps = "may be" if HELD_THERE in way else "is"
    return f"{way[:1].upper()}{way[1:]}{waits}: not all that {rest} {perhaps} gone yet."


def needs(data: ReportData) -> str:
    """What the run waits for a person with and how it is answered; empty when it does not wait, or nobody told."""
    if data.said.state != WAITS:
        return ""
    first, _, more = data.said.message.partition("\n")
    parts = [
        first[:1].upper() + first[1:],
        f"To answer: {data.said.waiting_for}".replace("`", "") if data.said.waiting_for else "",
        f"The rest of it, with what to look at: knarr status {data.run.run_id}" if more else "",
    ]
    return scrub(" ".join(part if part.endswith(".") else f"{part}." for part in parts if part))


def _on_the_way(data: ReportData) -> str:
    to = _turned_to(data)
    if to in {None, START}:
        return BACK
    # The trail alone does not tell when a run has arrived at its checkpoint.
    return f"{BACK} to checkpoint {to}" + ("" if data.said.state else HELD_THERE)


def _turned_to(data: ReportData) -> str | None:
    """Where the run is going back to, by its trail: start or a checkpoint's name; None when it goes forward.

    An epoch is only raised to take a run back, and only `resume` lets it go forward again.
    """
    to: str | None = None
    for entry in data.trail.entries:
        if entry.kind not in {"decision", "operator"}:
            continue
        body = body_of(entry.body)
        accepted = body.get("accepted") is True
        if entry.key.startswith("raise epoch "):
            to = to or START
        elif accepted and body.get("action") in TURNS_BACK:
            named = GOING_BACK.match(str(body.get("answer")))
            to = named[1] if named else START
        elif accepted and body.get("action") == "resume":
            to = None
    return to
