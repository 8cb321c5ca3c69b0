"""What the report says of a run that has not ended: it goes on, is held, is being taken back, or waits for a person."""

import pytest

from knarr.audit.chain import AuditHead
from knarr.audit.facts import ReportData, SaidFacts, TrailFacts
from knarr.audit.report import render_report
from knarr.audit.sentence import conclude
from knarr.audit.standing import state_of
from tests.audit import specimen
from tests.audit.test_report import Page
from workflows.controls import Controls
from workflows.messages import RollbackOrder

ORDERED: specimen.Item = ("o/1", "operator", {"action": "rollback", "actor": "mira", "accepted": True}, 20.0)
REFUSED: specimen.Item = ("o/2", "operator", {"action": "abort", "actor": "mira", "accepted": False}, 21.0)
RAISED: specimen.Item = ("raise epoch 1", "decision", {"summary": "writers of epoch 1 lose the right to write"}, 22.0)
RESUMED: specimen.Item = ("o/3", "operator", {"action": "resume", "actor": "mira", "accepted": True}, 23.0)
BACK = RollbackOrder(actor="mira", to="canary")
PROBLEM = "can't take back: rows: 4 rows of shop.order were changed by somebody else"
RETRY = f"knarr retry {specimen.RUN} --reason ..."


def under_way(*items: specimen.Item, state: str = "running", said: SaidFacts | None = None) -> ReportData:
    """A run whose record is open, with these entries in its trail."""
    data = specimen.report()
    start: specimen.Item = ("start", "run started", {}, 0.0)
    entries = specimen.linked(specimen.RUN, [start, *items])
    trail = TrailFacts(entries=entries, head=AuditHead(position=len(entries), digest=entries[-1].digest))
    run = data.run.model_copy(update={"state": state, "ended_at": None})
    changes = {"run": run, "trail": trail, "verdicts": [], "checks": [], "said": said or SaidFacts()}
    if state not in ("running", "sealed"):
        changes |= {"mappings": [each.model_copy(update={"rows": 0}) for each in data.mappings], "objects": []}
    return conclude(data.model_copy(update=changes))


@pytest.mark.parametrize("state", ["running", "sealed"])
@pytest.mark.parametrize("turned", [[ORDERED], [RAISED], [RESUMED, RAISED], [RAISED, RESUMED, ORDERED]])
def test_a_run_that_has_turned_back_says_so_by_its_trail_alone(turned: list[specimen.Item], state: str) -> None:
    data = under_way(*turned, state=state)
    assert data.outcome == "being taken back"
    assert data.headline == "Being taken back: not all that this run had written to shop is gone yet."
    assert state_of(data) == "being taken back"


@pytest.mark.parametrize("state", ["rolled back", "aborted"])
def test_what_others_have_written_is_not_said_to_be_taken_back(state: str) -> None:
    left = ["2 rows of shop.order that others have written stay", "the sequence shop.ids stays"]
    removed: specimen.Item = ("remove", "compensation", {"step": "copy", "outcome": "done", "left": left}, 30.0)
    data = under_way(RAISED, removed, removed, state=state)
    assert data.outcome == state
    assert "but for what others have written to shop meanwhile" in data.headline
    assert "Nothing was kept" not in data.headline
    assert data.explanation == f"{'; '.join(left)}."


def test_a_run_that_waits_on_its_way_back_says_with_what_and_what_answers() -> None:
    said = SaidFacts(state="waiting for a person", message=f"{PROBLEM}\n  next: SELECT", waiting_for=f"`{RETRY}`")
    data = under_way(RAISED, said=said)
    assert data.headline.startswith("Being taken back, and waiting for a person:")
    whole = f"The rest of it, with what to look at: knarr status {specimen.RUN}."
    assert data.explanation == f"C{PROBLEM[1:]}. To answer: {RETRY} {whole}"
    page = " ".join(Page(render_report(data)).text.split())
    assert "being taken back, waiting for a person" in page
    assert "Still running" not in page


def test_on_the_way_to_a_checkpoint_it_is_named_and_that_it_may_be_held_there_where_nobody_was_asked() -> None:
    answer = Controls(paused=False, decided=0).apply("rollback", BACK, "kept open", ["canary"]).message
    ordered = ORDERED[0], ORDERED[1], ORDERED[2] | {"answer": answer}, ORDERED[3]
    asked = under_way(RAISED, ordered, said=SaidFacts(state="unwinding"))
    assert asked.headline == "Being taken back to checkpoint canary: not all that came later is gone yet."
    not_asked = under_way(RAISED, ordered)
    assert state_of(not_asked) == "being taken back to checkpoint canary, or held there"
    assert not_asked.headline.endswith("or held there: not all that came later may be gone yet.")
    held = under_way(RAISED, ordered, said=SaidFacts(state="at checkpoint"))
    assert held.headline.startswith("At checkpoint: ")


@pytest.mark.parametrize("entries", [[], [REFUSED], [RAISED, RESUMED]])
def test_a_run_that_goes_forward_is_still_running(entries: list[specimen.Item]) -> None:
    data = under_way(*entries, said=SaidFacts(state="running"))
    assert data.outcome == "running"
    assert data.headline.startswith("Still running: 866,602 rows of 8 tables moved")
    assert state_of(data) == "running"


@pytest.mark.parametrize(
    ("said", "begins"),
    [("at checkpoint", "At checkpoint: "), ("paused", "Paused: "), ("terminated", "Terminated: ")],
)
def test_a_run_that_is_held_or_gone_is_not_called_running(said: str, begins: str) -> None:
    entries = [RAISED] if said != "paused" else []
    data = under_way(*entries, said=SaidFacts(state=said))
    assert data.headline.startswith(begins)
    assert state_of(data) == said


def test_once_the_record_is_closed_it_alone_counts() -> None:
    data = specimen.report(differs=True).model_copy(update={"said": SaidFacts(state="unwinding")})
    assert conclude(data).outcome == "rolled back"
    assert state_of(data) == "rolled back"
