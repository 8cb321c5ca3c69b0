"""Orders against the state of a run: which make sense when, and what each refusal says."""

import pytest
from temporalio.exceptions import ApplicationError

from workflows.controls import Controls
from workflows.messages import Order, RollbackOrder, State

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
