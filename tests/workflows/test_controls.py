"""Orders against the state of a run: which make sense when, and what each refusal says."""

import pytest
from temporalio.exceptions import ApplicationError

from workflows.controls import Controls
from workflows.messages import AnswerOrder, Order, RollbackOrder, State

BY = Order(actor="ada", reason="because")


def controls(*, paused: bool = False) -> Controls:
    return Controls(paused=paused, decided=0)


@pytest.mark.parametrize(
    ("action", "state", "reason"),
    [
        ("pause", "completed", "the run has ended: completed"),
        ("abort", "unwinding", "the run is taking itself back"),
        ("pause", "unwinding", "the run is taking itself back"),
        ("rollback", "unwinding", "the run is taking itself back"),
        ("resume", "running", "nothing to resume: the run is running, not paused"),
        ("approve", "running", "nothing to approve: the run is running, not waiting for approval"),
        ("complete", "running", "nothing to complete: the run is running, not kept open"),
        ("retry", "running", "nothing to retry"),
        ("skip", "kept open", "nothing to skip"),
    ],
)
def test_an_order_that_makes_no_sense_now_is_refused_with_the_reason(action: str, state: State, reason: str) -> None:
    with pytest.raises(ApplicationError, match=reason) as refused:
        controls().validate(action, BY, state, [])
    assert refused.value.type == "OrderRefused"


def test_pausing_twice_is_refused() -> None:
    switches = controls()
    switches.apply("pause", BY, "running", [])
    with pytest.raises(ApplicationError, match="paused already"):
        switches.validate("pause", BY, "paused", [])


def test_a_rollback_to_an_unknown_checkpoint_names_those_there_are() -> None:
    order = RollbackOrder(actor="ada", reason="because", to="nowhere")
    with pytest.raises(ApplicationError, match="no checkpoint 'nowhere'; there are: start, canary"):
        controls().validate("rollback", order, "running", ["canary"])


def test_skip_without_a_reason_is_refused() -> None:
    with pytest.raises(ApplicationError, match="skip needs a reason"):
        controls().validate("skip", Order(actor="ada"), "waiting for a person", [])


def test_an_abort_of_a_paused_run_is_taken() -> None:
    switches = controls(paused=True)
    switches.validate("abort", BY, "paused", [])
    switches.apply("abort", BY, "paused", [])
    assert switches.turn is not None
    assert switches.turn.ends_as == "aborted"
    assert not switches.paused


def test_every_order_is_kept_until_it_is_recorded() -> None:
    switches = controls()
    switches.apply("pause", BY, "running", [])
    switches.apply("resume", BY, "paused", [])
    assert [(decision.action, decision.actor, decision.reason) for decision in switches.unrecorded] == [
        ("pause", "ada", "because"),
        ("resume", "ada", "because"),
    ]


@pytest.mark.parametrize(
    ("order", "state", "checkpoints", "to"),
    [
        (RollbackOrder(actor="ada"), "running", ["canary", "half"], "half"),
        (RollbackOrder(actor="ada"), "running", ["canary", "half", "all/shop.customer"], "half"),
        (RollbackOrder(actor="ada"), "running", ["all/shop.customer", "all/shop.order"], "start"),
        (
            RollbackOrder(actor="ada", to="all/shop.customer"),
            "running",
            ["half", "all/shop.customer"],
            "all/shop.customer",
        ),
        (RollbackOrder(actor="ada"), "running", [], "start"),
        (RollbackOrder(actor="ada"), "kept open", ["canary", "everyone"], "start"),
        (RollbackOrder(actor="ada", to="start"), "running", ["canary"], "start"),
        (RollbackOrder(actor="ada", to="canary"), "kept open", ["canary", "everyone"], "canary"),
        (BY, "running", ["canary"], "start"),
    ],
)
def test_how_far_back_an_order_leads(order: Order, state: State, checkpoints: list[str], to: str) -> None:
    switches = controls()
    switches.validate("rollback", order, state, checkpoints)
    switches.apply("rollback", order, state, checkpoints)
    assert switches.turn is not None
    assert switches.turn.to == to
    for action in ("pause", "resume", "abort", "rollback"):
        assert "taking itself back (rollback by ada)" in str(switches.refusal(action, BY, "unwinding", checkpoints))


def asked(no_skip: str = "") -> Controls:
    """A run that has been asked twice, and now waits with stop 2."""
    switches = controls()
    switches.ask("can't take back: the keys")
    switches.apply("retry", BY, "waiting for a person", [])
    switches.take_answer()
    switches.ask("can't take back: the rows\nDETAIL: many", no_skip)
    return switches


def answer(stop: int = 0) -> AnswerOrder:
    return AnswerOrder(actor="bob", reason="looked at", stop=stop)


@pytest.mark.parametrize("action", ["retry", "skip"])
@pytest.mark.parametrize("stop", [1, 3])
def test_an_answer_to_another_stop_is_refused_and_told_which_stands_now(action: str, stop: int) -> None:
    with pytest.raises(ApplicationError) as refused:
        asked().validate(action, answer(stop), "waiting for a person", [])
    assert refused.value.message == f"it answers stop {stop}, and the run is at stop 2: can't take back: the rows"


@pytest.mark.parametrize("order", [answer(2), answer(), BY], ids=["numbered", "unnumbered", "of an older client"])
def test_the_first_answer_is_taken_and_no_second(order: Order) -> None:
    switches = asked()
    switches.validate("retry", order, "waiting for a person", [])
    told = switches.apply("retry", order, "waiting for a person", [])
    assert told.message == "trying again (stop 2: can't take back: the rows)"
    for action, second in (("skip", answer(2)), ("retry", answer()), ("skip", BY)):
        over = f"stop 2 is over: {order.actor} has answered with retry"
        assert switches.refusal(action, second, "waiting for a person", []) == over
    assert switches.take_answer() == "retry"
    # Until the run shows another state it still seems to wait.
    assert switches.refusal("skip", answer(2), "waiting for a person", []) is not None


def test_what_can_not_be_skipped_says_why_and_takes_a_retry() -> None:
    switches = asked("nothing would be fenced")
    told = switches.refusal("skip", answer(2), "waiting for a person", [])
    assert told == "stop 2 can't be skipped: nothing would be fenced. Mend it, then retry"
    assert switches.refusal("retry", answer(2), "waiting for a person", []) is None


def test_a_stop_that_nobody_answered_keeps_its_number_when_the_same_comes_again() -> None:
    switches = controls()
    assert switches.ask("a lock").number == 1
    assert switches.take_answer() == "retry", "it tries again by itself"
    assert switches.ask("a lock").number == 1
    assert switches.ask("a view").number == 2
    switches.passed()
    assert switches.ask("a view").number == 3, "that one had passed"
    switches.apply("retry", answer(3), "waiting for a person", [])
    switches.take_answer()
    assert switches.ask("a view").number == 4, "that one was answered"


def test_where_nothing_is_asked_nothing_is_answered() -> None:
    assert "does not ask anything" in str(controls().refusal("retry", BY, "waiting for a person", []))
