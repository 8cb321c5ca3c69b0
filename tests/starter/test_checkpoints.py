"""What `knarr status` says of where a rollback can stop."""

import pytest

from starter.checkpoints import knows_its_mappings, stops
from tests.starter.test_screen import RUN, snapshot
from workflows.messages import Progress, State


def progress(*checkpoints: str, state: State = "running", recalled: bool = True) -> Progress:
    seen = snapshot(300).progress
    assert seen is not None
    status = seen.status.model_copy(update={"checkpoints": list(checkpoints), "state": state})
    return seen.model_copy(update={"status": status} | ({} if recalled else {"mappings": []}))


def test_a_run_without_a_checkpoint_names_none() -> None:
    assert stops(progress()) == ""


def test_every_checkpoint_is_named_in_order_and_the_newest_with_its_command() -> None:
    assert stops(progress("canary/shop.order", "canary", "everyone/shop.order")).splitlines() == [
        "checkpoints: canary/shop.order, canary, everyone/shop.order",
        f"  back to the newest: knarr rollback {RUN} --to everyone/shop.order --reason ...",
    ]


def test_of_hundreds_all_phases_are_named_and_the_last_mappings() -> None:
    canary = [f"canary/shop.t{number}" for number in range(1_500)]
    everyone = [f"everyone/shop.t{number}" for number in range(300)]
    first, second = stops(progress(*canary, "canary", *everyone)).splitlines()
    assert first == (
        "checkpoints: canary, everyone/shop.t297, everyone/shop.t298, everyone/shop.t299 "
        f"and 1,797 more (knarr status {RUN} --json)"
    )
    assert second.endswith(f"knarr rollback {RUN} --to everyone/shop.t299 --reason ...")


def test_many_phases_alone_are_all_named() -> None:
    names = [f"p{number}" for number in range(12)]
    assert stops(progress(*names)).splitlines()[0] == f"checkpoints: {', '.join(names)}"


def test_a_name_that_a_shell_would_take_apart_is_quoted_in_the_command() -> None:
    told = stops(progress("everyone/shop.order line's #2"))
    assert told.splitlines()[0] == "checkpoints: everyone/shop.order line's #2"
    assert """--to 'everyone/shop.order line'"'"'s #2' --reason""" in told


@pytest.mark.parametrize("state", ["at checkpoint", "kept open"])
def test_where_nothing_came_after_the_newest_going_back_to_it_is_not_offered(state: State) -> None:
    checkpoints, command = stops(progress("canary", "everyone/shop.order", "everyone", state=state)).splitlines()
    assert checkpoints == "checkpoints: canary, everyone/shop.order, everyone"
    assert command == f"  take everything back: knarr rollback {RUN} --to start --reason ..."


def test_no_way_back_is_offered_while_the_run_is_going_back() -> None:
    assert stops(progress("canary", state="unwinding")) == ""


def test_mappings_known_by_number_alone_are_not_offered_as_names() -> None:
    just_continued = progress("canary/mapping 3", "canary/mapping 4", recalled=False)
    assert not knows_its_mappings(just_continued)
    assert "mapping 3" not in stops(just_continued)
    assert "look again in a moment" in stops(just_continued)
    assert knows_its_mappings(progress("canary", recalled=False)), "a phase has a name at any time"
