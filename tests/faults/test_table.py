"""The table of docs/reliability.md says what was recorded, no more."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults import proportion, record, table


def line(fault: str, **changes: Any) -> dict[str, Any]:
    """One recorded case that held."""
    made = {"fault": fault, "must": "all", "tried": 1, "held": 1, "seconds": 2.0, "seed": None, "note": ""}
    return made | {"violations": [], "session": "1", "form": "long", "at": "2026-01-02 03:04:05"} | changes


def test_tries_of_one_fault_are_summed_and_the_longest_is_told() -> None:
    told = table.rows([line("kill", seconds=3.4), line("kill", tried=5, held=5), line("cut")])
    assert told[2:] == ["| kill | all | 6 | 6 | 3 | held |", "| cut | all | 1 | 1 | 2 | held |"]


def test_what_did_not_hold_is_told_first() -> None:
    told = table.rows([line("kill", note="fine"), line("kill", held=0, violations=["a row | is lost"])])
    assert told[2] == "| kill | all | 2 | 1 | 2 | **a row \\| is lost** |"


def test_a_newer_session_replaces_what_an_older_one_found_of_the_same_fault(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    lines = [line("kill", held=0), line("cut"), line("kill", session="2")]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert [(one["fault"], one["session"], one["held"]) for one in table.read(path)] == [
        ("cut", "1", 1),
        ("kill", "2", 1),
    ]


def test_a_short_form_takes_a_long_ones_place_only_with_what_did_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    short = [
        line("kill", session="2", form="short"),
        line("cut", session="2", form="short", held=0),
        line("new", session="2", form="short"),
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in [line("kill"), line("cut"), *short]))
    assert [(one["fault"], one["session"], one["held"]) for one in table.read(path)] == [
        ("kill", "1", 1),
        ("cut", "2", 0),
        ("new", "2", 1),
    ]


def test_only_what_stands_between_the_marks_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "reliability.md"
    table.write([line("kill")], page)
    page.write_text(page.read_text() + "\nWritten by a person.\n")
    table.write([line("cut")], page)
    text = page.read_text()
    assert "| cut |" in text
    assert "| kill |" not in text
    assert text.startswith("# What was broken")
    assert text.endswith("Written by a person.\n")


def test_a_case_that_fails_is_recorded_as_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "here" / "faults.jsonl")
    with pytest.raises(AssertionError, match="a row is lost"), record.recorded("kill", "all") as case:
        case.violations.append("a row is lost")
    with pytest.raises(ValueError, match="broken"), record.recorded("cut", "all", seed=7):
        raise ValueError("broken")
    with pytest.raises(pytest.skip.Exception, match="no root"):
        record.not_possible("mount", "all", "no root")
    found = [json.loads(text) for text in record.RESULTS.read_text().splitlines()]
    assert [(one["fault"], one["tried"], one["held"]) for one in found] == [
        ("kill", 1, 0),
        ("cut", 1, 0),
        ("mount", 0, 0),
    ]
    assert found[1]["violations"] == ["ValueError: broken"]
    assert found[2]["note"] == "not possible here: no root"


def test_what_was_tried_stands_beside_the_targets() -> None:
    tried = [line("worker SIGKILL, forward", tried=46, held=45), line("worker SIGKILL, undoing"), line("cut")]
    told = proportion.lines(tried)
    assert told[2].endswith("| 10,000 | 47 | 46 |")
    assert told[3].endswith("| 100 | 0 | 0 |")


def test_every_target_has_faults_in_the_page() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    cells = [text.split("|") for text in page.splitlines()]
    tried = [(row[1].strip(), row[2].strip()) for row in cells if len(row) > 6]
    assert [one.what for one in proportion.TARGETS if not any(one.counts(*row) for row in tried)] == []
