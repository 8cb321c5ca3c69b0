"""The offline checker: what an auditor runs on a report alone."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knarr.audit import offline
from knarr.audit.canonical import canonical_json, digest_of
from knarr.audit.report import load_report, report_json
from tests.audit import specimen

RAW = report_json(specimen.report()).encode()
Report = dict[str, Any]


def sealed(report: Report) -> bytes:
    """The report as a forger would write it: its own digest is right again."""
    content = {key: value for key, value in report.items() if key != "digest"}
    return (canonical_json(content | {"digest": digest_of(content)}) + "\n").encode()


@pytest.mark.parametrize("differs", [False, True])
def test_a_report_as_it_was_written_is_whole(differs: bool) -> None:
    data = specimen.report(differs=differs)
    raw = report_json(data).encode()
    assert offline.check(raw, []) == []
    assert load_report(raw.decode()) == data


def test_a_change_of_any_byte_is_found() -> None:
    chance = random.Random(41)
    places = {0, 1, len(RAW) - 1, len(RAW) - 2, *chance.sample(range(len(RAW)), 400)}
    for place in sorted(places):
        changed = bytearray(RAW)
        changed[place] ^= 1 << chance.randrange(8)
        assert offline.check(bytes(changed), []), f"byte {place} was changed unnoticed"


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{}", b'"text"', RAW[:-1], RAW + b" ", RAW[: len(RAW) // 2], b"[" * 100_000, b"\xff"]
)
def test_what_is_no_whole_report_is_a_fault_and_no_crash(raw: bytes) -> None:
    assert offline.check(raw, [])


def test_the_same_content_in_another_layout_is_a_fault() -> None:
    assert offline.check(json.dumps(json.loads(RAW), indent=1).encode(), [])


def first_entry(report: Report) -> None:
    report["trail"]["entries"][4]["body"] = "{}"


def rows_of_a_result(report: Report) -> None:
    report["checks"][0]["result"]["target_rows"] = 24


def a_result_gone(report: Report) -> None:
    del report["checks"][0]


def the_verdict(report: Report) -> None:
    verdict = report["verdicts"][0]
    verdict["document"]["checks"] = verdict["document"]["checks"][:1]


def the_verdict_and_its_digest(report: Report) -> None:
    the_verdict(report)
    report["verdicts"][0]["digest"] = digest_of(report["verdicts"][0]["document"])


def the_verdicts_word(report: Report) -> None:
    report["verdicts"][0]["passed"] = False


def a_verdict_gone(report: Report) -> None:
    report["verdicts"] = []


def the_tail(report: Report) -> None:
    del report["trail"]["entries"][-1]


def the_head(report: Report) -> None:
    report["trail"]["head"] = None


def everything(report: Report) -> None:
    report["trail"]["entries"], report["trail"]["head"], report["trail"]["witnesses"] = [], None, []


@pytest.mark.parametrize(
    "forge",
    [
        first_entry,
        rows_of_a_result,
        a_result_gone,
        the_verdict,
        the_verdict_and_its_digest,
        the_verdicts_word,
        a_verdict_gone,
        the_tail,
        the_head,
        everything,
    ],
)
def test_a_forger_who_seals_the_report_again_is_found(forge: Callable[[Report], None]) -> None:
    report = json.loads(RAW)
    forge(report)
    assert offline.check(sealed(report), [])


def test_a_trail_written_anew_is_found_by_a_witness_alone() -> None:
    report = json.loads(RAW)
    items = [(e["key"], e["kind"], json.loads(e["body"]), float(n)) for n, e in enumerate(report["trail"]["entries"])]
    anew = specimen.linked(specimen.RUN, items)
    report["trail"]["entries"] = [entry.model_dump(mode="json") for entry in anew]
    report["trail"]["head"] = {"position": len(anew), "digest": anew[-1].digest}
    report["trail"]["witnesses"] = []
    forged = sealed(report)
    assert offline.check(forged, []) == []
    kept = specimen.report().trail.entries[2]
    assert offline.check(forged, [(3, kept.digest)])
    assert offline.check(forged, [(3, kept.digest[:12])])
    assert offline.check(forged, [(3, anew[2].digest[:12])]) == []
    assert offline.check(forged, [(len(anew) + 1, kept.digest)])


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """As on an auditor's machine: the file alone, isolated from every installed package."""
    return subprocess.run(
        [sys.executable, "-I", "-S", Path(offline.__file__), *arguments], capture_output=True, text=True, check=False
    )


def test_the_checker_needs_nothing_but_python(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    whole.write_bytes(RAW)
    broken.write_bytes(RAW.replace(b"866,602", b"866,603"))
    head = specimen.report().trail.head
    assert head is not None
    passed = run(whole, "--witness", f"{head.position}:{head.digest}")
    assert passed.returncode == 0, passed.stderr
    assert "All 866,602 rows of 8 tables" in passed.stdout
    assert "no witness given" not in passed.stdout
    assert f"  head of the trail: position {head.position}, digest {head.digest}\n" in passed.stdout
    assert "  no key given: no signature was checked\n" in passed.stdout
    failed = run(broken)
    assert failed.returncode == 1
    assert "its content gives" in failed.stdout


def test_what_the_checker_says_is_for_people_and_not_pythons_own_form(tmp_path: Path) -> None:
    faults = []
    for number, forge in enumerate((the_head, the_tail, the_verdicts_word, a_result_gone, the_verdict, no_statement)):
        report = json.loads(RAW)
        forge(report)
        file = tmp_path / f"{number}.json"
        file.write_bytes(sealed(report))
        done = run(file)
        assert done.returncode == 1
        faults += done.stdout.splitlines()
    said = "\n".join(faults)
    assert not [line for line in faults if any(word in line for word in ("{'", "('", "True", "False", "None"))], said
    last = specimen.report().trail.entries[-2]
    assert f"its head is not its last entry: it is missing, not at {last.position + 1}" in said
    assert f"it is at position {last.position + 1}, digest " in said
    assert "verdict of everyone, round 1: passed without a result of parity 'shop.country', partition 0" in said
    assert "verdict of everyone, round 1: no statement behind integrity 'shop.country', so nothing was computed" in said
    assert "do not agree on whether it passed" in said


def no_statement(report: Report) -> None:
    row = next(row for row in report["checks"] if row["kind"] == "integrity")
    row["result"]["sql"] = []


def test_a_forged_report_cannot_act_on_the_auditors_terminal(tmp_path: Path) -> None:
    report = json.loads(RAW)
    report["verdicts"][0]["digest"] = "\r✓ all is well\x1b[2J"
    file = tmp_path / "forged.json"
    file.write_bytes(sealed(report))
    done = run(file)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "\\u001b[2J" in done.stdout
    assert all(line.startswith("✗ ") for line in done.stdout.splitlines())


def test_a_file_that_is_not_there_is_named_without_a_traceback(tmp_path: Path) -> None:
    whole = tmp_path / "whole.json"
    whole.write_bytes(RAW)
    for arguments in ((tmp_path / "none.json",), (whole, "--key", tmp_path / "none.key")):
        done = run(*arguments)
        assert done.returncode == 2
        assert "can't be read: No such file" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_report_that_lacks_a_part_says_which(tmp_path: Path) -> None:
    report = json.loads(RAW)
    del report["trail"]
    assert offline.check(sealed(report), []) == ["not a whole Knarr report: it has no 'trail'"]


def test_the_checker_is_short_enough_to_be_read() -> None:
    source = Path(offline.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 190
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names
