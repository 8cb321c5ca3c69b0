"""The Web UI is a screen that we design: it says what goes on, what a run waits for, and what to type.

The pictures are in artefacts/web-ui, for people; what is asserted is the text that each of them shows.
"""

import pytest

from tests.ui.album import Album
from tests.ui.plays import ACTOR, AT_WORK, ROLLED_BACK
from workflows.details import LONGEST

# All pictures are taken for the first test: half a minute on an idle machine, minutes on a busy one.
pytestmark = [pytest.mark.saga, pytest.mark.slow, pytest.mark.timeout(900)]


def squeezed(text: str) -> str:
    """The text on one line: where the browser breaks a line does not count."""
    return " ".join(text.split())


def details(album: Album, name: str) -> str:
    """What stands under Current Details, on one line."""
    return squeezed(album.texts[name].rpartition("SHA-256")[2])


def test_the_list_tells_runs_and_their_children_apart_by_their_ids(album: Album) -> None:
    text = album.texts["list"]
    for run_id in (ROLLED_BACK, AT_WORK):
        assert run_id in text
        assert f"{run_id}/shop.order" in text
        assert f"{run_id}/shop.customer" in text
    assert f"{ROLLED_BACK}/verify everyone" in text


def test_columns_can_show_state_phase_source_and_target(album: Album) -> None:
    text = squeezed(album.texts["list-configured"])
    assert f"{AT_WORK} paused everyone legacy shop" in text
    assert f"{ROLLED_BACK} rolled back everyone legacy shop" in text


def test_the_timeline_says_what_each_step_is_about(album: Album) -> None:
    text = album.texts["paused-timeline"]
    for summary in (
        "lease on shop",
        "both databases against the plan",
        "schemas, types and bare tables",
        "shop.order · about 20,000 rows · 5 partitions",
        "shop.customer · about 2,000 rows · 1 partition",
        "shop.order · keys, indexes, checks",
        "shop.order · 1 foreign key",
        "resume by tester: the window is open",
    ):
        assert summary in text, summary
    assert "the seal: the verdict stands" in album.texts["kept-open-timeline"]


def test_the_input_names_plan_source_and_target_before_the_long_plan(album: Album) -> None:
    text = squeezed(album.texts["paused-timeline"])
    assert '"plan_name": "shop-v2", "source": "legacy", "target": "shop", "pause_before":' in text
    assert text.index('"digest":') < text.index('"canonical":')


def test_a_partition_that_is_tried_again_says_which_one_it_is(album: Album) -> None:
    text = album.texts["stuck-child-timeline"]
    assert "copy_partitions • shop.order · partition 1 of 5" in text
    assert "copy_partitions • shop.order · partition 2 of 5" in text


def test_a_pending_activity_says_what_is_in_its_way_and_what_to_look_at(album: Album) -> None:
    text = squeezed(album.texts["stuck-pending-activities"])
    assert "/ Unlimited" in text or "/ UNLIMITED" in text
    assert "canceling statement due to lock timeout; now on the source public.orders is locked in" in text
    assert "Next: another session holds the lock: see pg_locks" in text
    assert '"type": "TransientError"' in text
    assert '"55P03"' in text


def test_a_stuck_run_leads_to_the_child_that_is_stuck(album: Album) -> None:
    text = details(album, "stuck-user-metadata")
    assert "running · phase everyone · copy" in text
    assert "9% copied · 2,000 of about 22,000 rows" in text
    assert "rows/s · about" in text
    assert "at work: shop.order. If one does not move, its Pending Activities say why." in text
    assert "shop.order 0 0% copying 0/5 shop.customer 2,000 100% copied 1/1" in text
    assert f"{AT_WORK}/shop.order" in album.texts["stuck-link"]
    assert "MoveMapping" in album.texts["stuck-link"]


def test_a_paused_run_says_what_it_waits_for_and_the_command_that_answers(album: Album) -> None:
    text = details(album, "paused-user-metadata")
    assert "paused · phase everyone · before verify" in text
    assert f"waits for knarr resume {AT_WORK} --reason ... (paused before verify)" in text
    assert "100% copied · 22,000 of about 22,000 rows" in text
    assert "mapping rows state partitions shop.order 20,000 100% copied 5/5" in text
    assert "as of 20" in text


def test_a_run_that_is_kept_open_says_how_to_keep_it_and_how_to_undo_it(album: Album) -> None:
    text = details(album, "kept-open-user-metadata")
    assert "kept open · phase everyone · sealed" in text
    assert f"knarr complete {AT_WORK}" in text
    assert f"knarr rollback {AT_WORK} undoes it" in text
    assert "verdict: passed ✓ · 10 checks · 0 findings" in text


def test_summary_and_details_say_who_moves_what_and_the_first_commands(album: Album) -> None:
    text = squeezed(album.texts["paused-user-metadata"])
    assert "shop-v2: legacy to shop" in text
    assert f"legacy to shop · plan shop-v2 · 2 mappings · started by {ACTOR}" in text
    assert "Orders and customers move to the new shop." in text
    assert f"knarr pause {AT_WORK} --reason ... knarr abort {AT_WORK} --reason ..." in text


def test_a_run_that_rolled_back_says_so_in_the_first_line_of_its_failure(album: Album) -> None:
    text = squeezed(album.texts["rolled-back-timeline"])
    reason = "verification failed: 2 findings in 2 checks; first: shop.order: 1 changed in total"
    assert f'"message": "ROLLED BACK: {reason}' in text
    assert "The target is what it was before; the source was only read." in text
    assert f"Next: knarr report {ROLLED_BACK}" in text
    assert "ROLLED BACK: verification failed" in squeezed(album.texts["rolled-back-history"])


def test_what_was_taken_back_reads_as_a_story(album: Album) -> None:
    text = album.texts["rolled-back-timeline"]
    for summary in (
        "fence off all that was writing",
        "take back: everyone · the verdict",
        "take back: shop.order · 1 foreign key",
        "take back: shop.customer · keys, indexes, checks",
        "take back: shop.order · its rows",
        "take back: schemas, types and bare tables",
        "take back: lease on shop",
    ):
        assert summary in text, summary


def test_after_a_rollback_no_mapping_looks_copied(album: Album) -> None:
    text = details(album, "rolled-back-user-metadata")
    assert "rolled back · phase everyone · ended" in text
    assert "shop.order: 1 changed in total" in text
    assert "no copied row is on the target" in text
    assert "shop.order 0 0% taken back 0/5 shop.customer 0 0% taken back 0/1" in text
    assert "verdict: failed ✗ · 10 checks · 2 findings" in text


def test_relationships_name_the_children(album: Album) -> None:
    text = album.texts["rolled-back-relationships"]
    for child in ("shop.order", "shop.customer", "verify everyone"):
        assert f"{ROLLED_BACK}/{child}" in text


def test_search_attributes_are_those_that_an_operator_filters_by(album: Album) -> None:
    text = squeezed(album.texts["paused-search-attributes"])
    for name, value in (
        ("KnarrPlan", "shop-v2"),
        ("KnarrPhase", "everyone"),
        ("KnarrState", "paused"),
        ("KnarrSource", "legacy"),
        ("KnarrTarget", "shop"),
    ):
        assert f'"{name}": "{value}"' in text


def test_no_page_shows_a_password_or_an_address_of_a_database(album: Album) -> None:
    for name, text in album.texts.items():
        assert "postgresql://" not in text, name
        assert "password" not in text.lower(), name


def test_current_details_fit_into_the_url_that_shows_them(album: Album) -> None:
    for name in (name for name in album.texts if name.endswith("user-metadata")):
        assert len(details(album, name)) < LONGEST, name
