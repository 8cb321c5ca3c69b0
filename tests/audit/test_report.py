"""The report as people see it: its sentence, its tables, and names that would like to be markup."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from knarr.audit import offline, story
from knarr.audit.chain import AuditHead, check_chain
from knarr.audit.charts import Bar, kinds, slowest, time_bars, timed
from knarr.audit.evidence import doubts_about
from knarr.audit.facts import ChangeFacts, MappingFacts, ReportData, TrailFacts
from knarr.audit.report import load_report, mapping_lines, render_report, report_json
from knarr.audit.sentence import conclude
from knarr.audit.shown import duration, short, size, visible
from knarr.errors import PlanError
from tests.audit import specimen

HOSTILE = "<script>alert(1)</script>\"'&\u202egpj.exe\x1b[2J"


class Page(HTMLParser):
    """A page as a browser takes it apart: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def concluded(data: ReportData) -> ReportData:
    faults = check_chain(data.trail.entries, data.trail.head, data.trail.witnesses)
    data = data.model_copy(update={"trail": data.trail.model_copy(update={"faults": faults})})
    return conclude(data.model_copy(update={"doubts": doubts_about(data)}))


def changed(data: ReportData, **changes: object) -> ReportData:
    return concluded(data.model_copy(update={"run": data.run.model_copy(update=changes)}))


def test_a_run_that_was_proved_says_so_in_one_sentence() -> None:
    data = specimen.report()
    assert data.outcome == "proved"
    assert data.headline == "All 866,602 rows of 8 tables were moved from legacy to shop and proved identical."
    assert "19 of 19 checks passed" in data.explanation
    assert data.doubts == []


def test_a_run_that_was_rolled_back_names_the_first_difference() -> None:
    data = specimen.report(differs=True)
    assert data.outcome == "rolled back"
    assert "1 difference found" in data.headline
    assert data.explanation == (
        "The first one is at shop.order, id = 104231, column total: expected 173665.47, found 73665.47."
    )


@pytest.mark.parametrize(
    ("state", "how"), [("rolled back", "was refused, or ended,"), ("aborted", "was stopped by an")]
)
def test_a_run_that_ended_before_its_survey_says_that_nothing_was_written(state: str, how: str) -> None:
    trail = trail_of([("step/claim", "step", {"step": "claim"}, 1.0)])
    nothing = {"mappings": [], "checks": [], "verdicts": [], "objects": [], "trail": trail}
    data = changed(specimen.report(differs=True).model_copy(update=nothing), state=state)
    assert data.outcome == state
    assert data.headline.startswith(f"Nothing was written to shop: the run {how}")
    assert "taken back" not in data.headline


def test_a_run_that_differs_and_still_stands_is_not_accepted() -> None:
    data = changed(specimen.report(differs=True), state="running")
    assert data.outcome == "differs"
    assert data.headline == "Not accepted: 1 difference between legacy and shop."


def test_a_run_that_is_called_completed_without_a_verdict_is_in_doubt() -> None:
    entries = [entry for entry in specimen.report().trail.entries if entry.kind != "verdict"]
    items: list[specimen.Item] = [(entry.key, entry.kind, {}, float(entry.position)) for entry in entries]
    data = specimen.report().model_copy(update={"verdicts": [], "trail": trail_of(items)})
    data = concluded(data)
    assert data.outcome == "altered"
    assert data.doubts == ["the run is recorded as completed, but no verdict that passed stands"]


def trail_of(items: list[specimen.Item]) -> TrailFacts:
    entries = specimen.linked(specimen.RUN, items)
    return TrailFacts(entries=entries, head=AuditHead(position=len(entries), digest=entries[-1].digest))


def test_a_step_that_a_person_skipped_is_never_called_taken_back() -> None:
    data = specimen.report(differs=True)
    judged = data.verdicts[0]
    skip: specimen.Item = (
        "skip",
        "operator",
        {"action": "skip", "actor": "mira", "reason": "owner is away", "accepted": True},
        30.0,
    )
    data = concluded(data.model_copy(update={"trail": trail_of([*specimen.story(judged, True), skip])}))
    assert data.outcome == "not taken back"
    assert "not all that it had written to shop was taken back" in data.headline
    assert "mira: owner is away" in data.explanation


def test_what_is_still_in_the_ledger_is_never_called_taken_back() -> None:
    data = specimen.report(differs=True)
    left = [mapping.model_copy(update={"rows": 7 if mapping.number == 0 else 0}) for mapping in data.mappings]
    data = concluded(data.model_copy(update={"mappings": left}))
    assert data.outcome == "not taken back"
    assert "7 rows are still in its ledger" in data.explanation


def test_an_altered_trail_is_the_first_thing_that_the_report_says() -> None:
    data = specimen.report()
    entries = list(data.trail.entries)
    entries[5] = entries[5].model_copy(update={"body": "{}"})
    data = concluded(data.model_copy(update={"trail": data.trail.model_copy(update={"entries": entries})}))
    assert data.outcome == "altered"
    page = Page(render_report(data))
    assert "Nothing in this report can be relied on." in page.text
    assert "entry 6" in page.text
    assert "proved identical" not in page.text


@pytest.mark.parametrize("field", ["target_rows", "outcome", "findings_total"])
def test_a_result_that_is_not_what_the_verdict_was_computed_from_is_a_doubt(field: str) -> None:
    data = specimen.report()
    first = data.checks[0]
    forged = first.model_copy(update={"result": first.result | {field: 1}})
    data = concluded(data.model_copy(update={"checks": [forged, *data.checks[1:]]}))
    assert data.outcome == "altered"
    assert any("shop.country" in doubt for doubt in data.doubts)


def test_a_result_that_was_taken_out_or_put_in_is_a_doubt() -> None:
    data = specimen.report()
    extra = data.checks[-1].model_copy(update={"name": "another"})
    for checks in (data.checks[1:], [*data.checks, extra]):
        assert concluded(data.model_copy(update={"checks": list(checks)})).outcome == "altered"


def test_the_page_is_whole_without_anything_from_outside() -> None:
    page = Page(render_report(specimen.report()))
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert not re.search(r"url\(|@import|https?:", render_report(specimen.report()))


def test_the_page_tells_what_was_checked_who_did_what_and_each_table() -> None:
    page = Page(render_report(specimen.report(differs=True)))
    told = " ".join(page.text.split())
    for words in (
        "Every row, every column",
        "mira@ops.example",
        "backup window",
        "nothing waits for an approval",
        "id = 104231",
        "173665.47",
        "an order's total is the sum of its lines",
        "SELECT sum(l.price)",
        "866,602",
        "then taken back",
        "transforms.customer:phones",
        "PostgreSQL 18.6",
        "python -m knarr.audit.offline",
        specimen.report(differs=True).trail.entries[-1].digest,
    ):
        assert words in told, words


def test_the_command_that_checks_the_report_can_be_copied_as_it_stands() -> None:
    data = specimen.report()
    found = re.search(r"knarr\.audit\.offline report\.json --witness (\S+)", Page(render_report(data)).text)
    assert found is not None
    position, digest = offline.witness(found[1])
    assert data.trail.head is not None
    assert (position, digest) == (data.trail.head.position, data.trail.head.digest[:12])


def hostile() -> ReportData:
    """Names and values that would like to act, in every place that foreign text can come from."""
    data = specimen.report(differs=True)
    mappings = [mapping.model_copy(update={"name": HOSTILE, "source": HOSTILE}) for mapping in data.mappings]
    finding = {"mapping": HOSTILE, "kind": HOSTILE, "key": {HOSTILE: HOSTILE}, "column": HOSTILE}
    finding |= {"expected": HOSTILE, "found": HOSTILE, "hint": HOSTILE}
    checks = [
        check.model_copy(
            update={"result": check.result | {"message": HOSTILE, "sql": [HOSTILE], "findings": [finding]}}
        )
        for check in data.checks
    ]
    body: dict[str, object] = {
        "actor": HOSTILE,
        "action": HOSTILE,
        "reason": HOSTILE,
        "answer": HOSTILE,
        HOSTILE: HOSTILE,
    }
    items: list[specimen.Item] = [("a", HOSTILE.replace("\x1b", ""), body, 1.0), ("b", "operator", body, 2.0)]
    return data.model_copy(
        update={
            "mappings": mappings,
            "checks": checks,
            "verdicts": [],
            "trail": trail_of(items),
            "plan": {"name": HOSTILE},
            "headline": HOSTILE,
            "explanation": HOSTILE,
            "doubts": [HOSTILE],
            "run": data.run.model_copy(update={"run_id": HOSTILE, "plan_name": HOSTILE, "description": HOSTILE}),
            "environment": data.environment.model_copy(update={"warnings": [HOSTILE], "source_version": HOSTILE}),
        }
    )


def test_hostile_names_and_values_are_shown_and_do_nothing() -> None:
    text = render_report(hostile())
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>\"'&") >= 20
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "⟨U+202E⟩gpj.exe" in page.text


def test_the_same_data_gives_the_same_page_and_comes_back_from_json() -> None:
    data = specimen.report(differs=True)
    again = load_report(report_json(data))
    assert again == data
    assert render_report(again) == render_report(data)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"document": "something else"}'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a Knarr report"):
        load_report(text)


def test_charts_draw_nothing_from_nothing_and_stay_within_their_frame() -> None:
    empty = specimen.report().model_copy(update={"checks": [], "verdicts": [], "trail": TrailFacts()})
    assert (kinds(empty), slowest(empty), time_bars(story.events(empty))) == ([], [], [])
    assert "Nothing has been checked yet." in render_report(conclude(empty))
    bars = time_bars(story.events(specimen.report()))
    assert len(bars) >= 10
    assert all(0 <= bar.start <= 1 and 0 < bar.width <= 1 for bar in bars)
    groups = slowest(specimen.report(differs=True))
    assert groups[0].failed == 1
    assert max(group.share for group in groups) == 1


def bars_of(data: ReportData) -> list[Bar]:
    return time_bars(timed(story.events(data), data))


def test_verification_is_drawn_from_its_first_check_to_its_last_and_not_as_its_verdict() -> None:
    data = specimen.report()
    [verified] = [bar for bar in bars_of(data) if bar.kind == "verification"]
    assert verified.label == "verify everyone"
    assert verified.detail == f"{len(data.checks)} results"
    last = max(check.computed_at for check in data.checks)
    first = min(check.computed_at - timedelta(seconds=float(str(check.result["seconds"]))) for check in data.checks)
    assert verified.seconds == pytest.approx((last - first).total_seconds())
    assert not [bar for bar in bars_of(data) if bar.label == "verdict"]
    assert "verify everyone" in render_report(data)


def test_verification_that_found_a_difference_is_red_and_each_round_has_its_bar() -> None:
    data = specimen.report(differs=True)
    again = [check.model_copy(update={"round": 2, "outcome": "passed"}) for check in data.checks]
    bars = {bar.label: bar.kind for bar in bars_of(data.model_copy(update={"checks": [*data.checks, *again]}))}
    assert bars["verify everyone"] == "failed"
    assert bars["verify everyone, round 2"] == "verification"


def test_the_copies_of_all_tables_are_drawn_however_many_longer_steps_there_are() -> None:
    steps: list[specimen.Item] = [
        (f"s{n}", "step", {"step": f"build {n}", "outcome": "done", "seconds": 100.0 + n}, 200.0 + n) for n in range(40)
    ]
    copies: list[specimen.Item] = [
        (f"c{n}", "copy", {"mapping": n, "rows": 25, "seconds": 0.0}, 1.0) for n in range(len(specimen.TABLES))
    ]
    data = specimen.report().model_copy(update={"trail": trail_of([*copies, *steps])})
    labels = [bar.label for bar in bars_of(data)]
    assert {f"copy {name}" for name, *_ in specimen.TABLES} <= set(labels)
    assert sum(label.startswith("build") for label in labels) == 24
    assert "16 shorter stretches are in the table alone." in render_report(data)


def test_copies_of_a_table_are_told_as_one_stretch() -> None:
    titles = [event.title for event in story.events(specimen.report())]
    assert titles.count("copy shop.order_line") == 1
    (order_line,) = [event for event in story.events(specimen.report()) if event.title == "copy shop.order_line"]
    assert order_line.detail == "600,572 rows in 4 partitions, phase everyone"


def test_the_story_says_which_code_the_rows_went_through() -> None:
    def told(*files: str) -> str:
        code = {"mapping": "shop.a", "rows": 1_234, "transform": "orders:clean"}
        items: list[specimen.Item] = [
            (f"{number}", "copy", code | {"transform_sha256": file * 64}, float(number))
            for number, file in enumerate(files)
        ]
        [event] = story.events(specimen.report().model_copy(update={"trail": trail_of(items)}))
        return event.detail

    assert told("a", "a") == f"2,468 rows in 2 partitions, through orders:clean, sha256 {'a' * 16}…"
    assert told("a", "b", "b") == (
        f"3,702 rows in 3 partitions, through orders:clean, sha256 {'a' * 16}…, {'b' * 16}… "
        "(the file changed meanwhile: 2 versions)"
    )


def test_numbers_in_the_story_have_separators() -> None:
    items: list[specimen.Item] = [("a", "step", {"step": "survey", "warnings": 1_234, "outcome": "done"}, 1.0)]
    [event] = story.events(specimen.report().model_copy(update={"trail": trail_of(items)}))
    assert event.detail == "warnings 1,234"


def test_a_hundred_objects_are_told_as_one_line() -> None:
    items: list[specimen.Item] = [
        (str(n), "step", {"step": f"create index i{n}", "outcome": "done"}, n / 10) for n in range(100)
    ]
    data = specimen.report().model_copy(update={"trail": trail_of(items)})
    (event,) = story.events(data)
    assert event.title == "create 100 objects"
    assert event.seconds == pytest.approx(9.9)


def test_what_was_taken_back_still_tells_how_much_was_moved() -> None:
    lines = mapping_lines(specimen.report(differs=True))
    assert sum(line.moved.rows for line in lines) == 866_602
    assert all(line.taken_back for line in lines)


def test_what_a_merge_did_to_rows_that_were_there_is_told_also_when_it_was_taken_back() -> None:
    copies: list[specimen.Item] = [
        (f"c{n}", "copy", {"mapping": 1, "rows": 10, "inserted": 2, "updated": 1_000, "deleted": 0}, float(n))
        for n in range(2)
    ]
    data = specimen.report(differs=True).model_copy(update={"trail": trail_of(copies)})
    assert mapping_lines(data)[1].moved.changes == ChangeFacts(inserted=4, updated=2_000, deleted=0)
    assert mapping_lines(data)[0].moved.changes is None
    [event] = story.events(data)
    assert event.detail == "20 rows in 2 partitions, 4 inserted, 2,000 updated, 0 deleted"
    assert "4 inserted, 2,000 updated, 0 deleted" in render_report(data)


def test_a_mapping_without_rows_has_no_rate() -> None:
    nothing = MappingFacts(number=99, name="shop.empty", source="public.empty", mode="create")
    data = specimen.report().model_copy(update={"mappings": [nothing]})
    assert mapping_lines(data)[0].rows_per_second == 0
    assert "shop.empty" in render_report(data)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0034, "3.4 ms"),
        (0.06, "60 ms"),
        (0.42, "0.42 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7262, "2 h 01 min"),
        (183_600, "2 d 03 h"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (119_000_000, "119 MB")]
)
def test_sizes_read_well(count: int, text: str) -> None:
    assert size(count) == text


def test_long_text_is_cut_and_acting_text_is_spelled_out() -> None:
    assert short("abcdef", 4) == "abc…"
    assert visible("a\u202eb\x00\n\t") == "a⟨U+202E⟩b⟨U+0000⟩\n\t"
    assert visible(7) == 7
