"""Run ids, orders' questions and evidence: the small decisions that need no server."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from knarr.audit.chain import AuditHead
from starter.command import confirmed
from starter.evidence import heads_in
from starter.exits import Exit
from starter.failures import StarterError
from starter.output import Output
from starter.runs import RUN_ID, check_steps, new_run_id


def test_a_run_id_is_the_plan_and_the_second_in_utc() -> None:
    noon_in_tokyo = datetime(2026, 11, 23, 19, 15, 2, 999_999, tzinfo=timezone(timedelta(hours=9)))
    assert new_run_id("shop-v2", noon_in_tokyo) == "shop-v2/2026-11-23T10-15-02Z"
    assert RUN_ID.match(new_run_id("shop-v2", datetime.now(UTC)))


def test_two_starts_in_one_second_have_one_id() -> None:
    at = datetime(2026, 11, 23, 10, 15, 2, tzinfo=UTC)
    assert new_run_id("shop-v2", at) == new_run_id("shop-v2", at + timedelta(milliseconds=900))


def test_only_steps_that_there_are_can_be_paused_before() -> None:
    assert check_steps(["verify", "seal"]) == ["verify", "seal"]
    with pytest.raises(StarterError, match="'verfy'") as caught:
        check_steps(["verfy"])
    assert caught.value.exit_code is Exit.USAGE


def test_a_question_without_a_terminal_is_not_answered_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    output = Output(as_json=False, debug=False)
    with pytest.raises(StarterError) as caught:
        confirmed(output, "Take it back?", yes=False)
    assert caught.value.exit_code is Exit.UNCONFIRMED
    confirmed(output, "Take it back?", yes=True)


def test_heads_are_found_wherever_an_activity_returns_them() -> None:
    first, second = AuditHead(position=1, digest="aa"), AuditHead(position=2, digest="bb")
    result = {
        "lease": {"lease_id": 1, "epoch": 1},
        "head": first.model_dump(),
        "verdicts": [{"passed": True, "head": second.model_dump()}, {"head": None}, {"head": "of the table"}],
    }
    assert list(heads_in(result)) == [first, second]  # type: ignore[arg-type]


def test_what_stands_in_rows_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False, debug=False)
    output.result("found '\x1b[2Jcleared'\nnext line")
    output.say("expected '\x1b]0;title\x07'")
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\x07" not in said.err
    assert "cleared'\nnext line" in said.out
