"""What is shown of a run: rates, times, bars and lines, from snapshots without a server."""

from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console
from temporalio.client import WorkflowExecutionStatus

from starter.following import Snapshot, started
from starter.meter import Meter, spoken
from starter.screen import Lines, Screen
from workflows.messages import MappingProgress, Progress, State, Status

RUN = "shop-v2/2026-11-23T10-15-02Z"
NOW = datetime(2026, 11, 23, 10, 15, 2, tzinfo=UTC)


def snapshot(
    rows: int, *, at: float = 0.0, state: State = "running", live: int = 0, step: str = "copy", answered: bool = True
) -> Snapshot:
    mapping = MappingProgress(
        number=0,
        name="shop.order",
        state="copying",
        rows=rows,
        estimated_rows=1000,
        partitions_done=0,
        partitions=4,
    )
    status = Status(
        run_id=RUN,
        plan="shop-v2",
        source="legacy",
        target="shop",
        state=state,
        phase="everyone",
        step=step,
        started_at=NOW,
        updated_at=NOW,
        rows=rows,
        estimated_rows=1000,
    )
    progress = Progress(status=status, mappings=[mapping], verified_rows=0, copy_started_at=None, copy_ended_at=None)
    return Snapshot(RUN, WorkflowExecutionStatus.RUNNING, progress, answered, {0: live} if live else {}, at=at)


def drawn(screen: Screen, seen: Snapshot) -> str:
    console = Console(width=140, force_terminal=False)
    with console.capture() as capture:
        console.print(screen.still(seen))
    return capture.get()


def test_a_rate_is_what_was_seen_in_the_last_seconds() -> None:
    meter = Meter()
    for second in range(60):
        meter.see(float(second), 100 * second if second < 40 else 4000 + 10 * (second - 40))
    assert 9 < meter.rate < 15
    assert meter.seconds_left(meter.rows + 100) == 100 / meter.rate


def test_a_partition_that_is_tried_again_is_not_shown_as_a_loss() -> None:
    meter = Meter()
    meter.see(0.0, 500)
    meter.see(1.0, 200)
    assert meter.rows == 500
    assert meter.rate == 0.0
    assert meter.seconds_left(1000) is None


def test_times_are_spoken() -> None:
    assert [spoken(seconds) for seconds in (None, 0.4, 59.4, 185, 7800)] == [
        "–",
        "0 s",
        "59 s",
        "3 min 05 s",
        "2 h 10 min",
    ]


def test_rows_of_open_partitions_count_on_the_screen() -> None:
    text = drawn(Screen(Console(), None), snapshot(300, live=150))
    assert "450 rows" in text
    assert RUN in text
    assert "phase everyone" in text


def test_the_screen_says_when_no_worker_answers() -> None:
    assert "no worker answers" in drawn(Screen(Console(), None), snapshot(300, answered=False))
    assert "no worker answers" not in drawn(Screen(Console(), None), snapshot(300))


def test_without_a_terminal_a_line_comes_for_a_change_and_for_each_tenth() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for rows in (0, 10, 20, 120, 130, 140, 250):
        lines.show(snapshot(rows, at=rows / 10))
    assert len(said) == 3
    lines.show(snapshot(250, at=30.0, state="paused"))
    assert "paused" in said[-1]


def test_without_a_terminal_what_a_run_waits_for_stands_on_a_line_of_its_own() -> None:
    said: list[str] = []
    seen = snapshot(250, state="paused")
    assert seen.progress is not None
    status = seen.progress.status.model_copy(update={"waiting_for": f"`knarr resume {RUN}`"})
    lines = Lines(said.append)
    for _ in range(2):
        lines.show(replace(seen, progress=seen.progress.model_copy(update={"status": status})))
    (text,) = said
    assert text.splitlines()[0].endswith("250 rows")
    assert text.splitlines()[1] == f"  waits for `knarr resume {RUN}`"


def test_a_start_is_enough_once_the_survey_has_passed() -> None:
    nothing_yet = snapshot(0)
    assert nothing_yet.progress is not None
    bare = nothing_yet.progress.model_copy(update={"mappings": []})
    assert started(Snapshot(RUN, WorkflowExecutionStatus.RUNNING, bare, True)) is None
    ending = started(nothing_yet)
    assert ending is not None
    assert "1 mapping, about" in ending.message
    assert f"knarr watch {RUN}" in ending.message


def test_a_mapping_that_was_taken_back_does_not_look_copied() -> None:
    screen = Screen(Console(), None)
    drawn(screen, snapshot(900))
    seen = snapshot(0, at=1.0, state="rolled back", step="ended")
    assert seen.progress is not None
    gone = seen.progress.mappings[0].model_copy(update={"state": "taken back"})
    seen = replace(seen, progress=seen.progress.model_copy(update={"mappings": [gone]}))
    text = drawn(screen, seen)
    assert "900" not in text
    assert "taken back" in text
    assert "still there" in text
    said: list[str] = []
    Lines(said.append).show(seen)
    assert said[-1].endswith("0 rows still there")


def test_the_screen_says_what_happened_while_a_person_is_waited_for() -> None:
    seen = snapshot(250, state="waiting for a person")
    assert seen.progress is not None
    problem = "can't take back: keys\n" + "\n".join(f"line {number}" for number in range(1, 20))
    status = seen.progress.status.model_copy(update={"message": problem, "waiting_for": "`knarr retry`"})
    text = drawn(Screen(Console(), None), replace(seen, progress=seen.progress.model_copy(update={"status": status})))
    assert "can't take back: keys" in text
    assert "line 5" in text
    assert "line 6" not in text
    assert "… and 14 lines more" in text


def test_names_and_errors_are_shown_as_they_are_and_do_not_act_on_the_screen() -> None:
    seen = snapshot(250)
    assert seen.progress is not None
    mapping = seen.progress.mappings[0].model_copy(update={"name": 'shop."[/red]\x1b[2J"'})
    progress = seen.progress.model_copy(update={"mappings": [mapping]})
    text = drawn(Screen(Console(), None), replace(seen, progress=progress, retrying=["copy: found '\x1b]0;title\x07'"]))
    assert 'shop."[/red]⟨U+001B⟩[2J"' in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_without_an_answer_the_state_is_what_the_server_knows() -> None:
    seen = Snapshot(RUN, WorkflowExecutionStatus.RUNNING, None, False, told="waiting for a person")
    text = drawn(Screen(Console(), None), seen)
    assert "waiting for a person" in text
    assert "no worker answers" in text
    assert "starting" not in text
