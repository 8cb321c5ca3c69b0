"""What an order would lead to, found out before it is given."""

import pytest

from starter.exits import Exit
from starter.failures import StarterError
from starter.foreseen import leads_to
from tests.starter.test_screen import RUN, snapshot
from workflows.messages import State, Status


def status(state: State, *checkpoints: str) -> Status:
    seen = snapshot(300, state=state).progress
    assert seen is not None
    return seen.status.model_copy(update={"checkpoints": list(checkpoints)})


@pytest.mark.parametrize("asked", ["", "everyone"])
def test_going_back_to_where_the_run_stands_is_refused_and_says_what_takes_all_back(asked: str) -> None:
    with pytest.raises(StarterError, match="stands at checkpoint everyone already") as refused:
        leads_to(status("at checkpoint", "canary", "everyone"), asked)
    assert refused.value.exit_code is Exit.REFUSED
    assert f"knarr rollback {RUN} --to start --reason ..." in refused.value.hint
    assert f"knarr resume {RUN} --reason ..." in refused.value.hint


def test_a_run_at_a_checkpoint_can_be_taken_further_back() -> None:
    held = status("at checkpoint", "canary", "everyone/shop.a")
    assert leads_to(held, "") == "canary"
    assert leads_to(held, "canary") == "canary"
    assert leads_to(held, "start") == "start"


def test_a_run_that_goes_on_can_be_taken_back_to_its_newest_checkpoint() -> None:
    assert leads_to(status("running", "canary"), "") == "canary"


def test_a_run_that_is_kept_open_is_taken_back_whole_unless_a_checkpoint_is_named() -> None:
    kept = status("kept open", "canary", "everyone")
    assert leads_to(kept, "") == "start"
    assert leads_to(kept, "everyone") == "everyone"
