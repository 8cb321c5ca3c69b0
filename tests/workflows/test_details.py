"""What the Web UI shows of a run: plain, short enough for a URL, and harmless whatever a row holds."""

from datetime import UTC, datetime, timedelta

from activities.models import VerdictSummary
from knarr.audit.chain import AuditHead
from workflows.details import LONGEST, current_details
from workflows.messages import MappingProgress, MappingState, Progress, State, Status

RUN = "shop-v2/2026-11-23T10-15-02Z"
HEAD = AuditHead(position=9, digest="d" * 64)
NOW = datetime(2026, 11, 23, 10, 16, 2, tzinfo=UTC)


def mapping(
    number: int, *, state: MappingState = "copying", rows: int = 0, estimated: int = 1_000, name: str = ""
) -> MappingProgress:
    return MappingProgress(
        number=number,
        name=name or f"shop.table_{number}",
        state=state,
        rows=rows,
        estimated_rows=estimated,
        partitions_done=0,
        partitions=4,
    )


def progress(
    *mappings: MappingProgress,
    state: State = "running",
    step: str = "copy",
    phase: str = "everyone",
    waiting_for: str = "",
    message: str = "",
    verified: int = 0,
    verdict: VerdictSummary | None = None,
    ended: datetime | None = None,
) -> Progress:
    status = Status(
        run_id=RUN,
        plan="shop-v2",
        source="legacy",
        target="shop",
        state=state,
        phase=phase,
        step=step,
        waiting_for=waiting_for,
        started_at=NOW - timedelta(seconds=60),
        updated_at=NOW,
        rows=0,
        estimated_rows=0,
        verdict=verdict,
        message=message,
    )
    return Progress(
        status=status,
        mappings=list(mappings),
        verified_rows=verified,
        copy_started_at=NOW - timedelta(seconds=10),
        copy_ended_at=ended,
    )


def shown(now: Progress, phases: tuple[str, ...] = ("everyone",)) -> str:
    return current_details(now, phases, "default")


def test_the_first_lines_say_where_it_is_what_it_waits_for_and_the_command_that_answers() -> None:
    now = progress(mapping(0), state="paused", step="before verify", waiting_for=f"`knarr resume {RUN} --reason ...`")
    assert shown(now).split("\n\n")[:2] == [
        "**paused** · phase `everyone` · before verify",
        f"> waits for `knarr resume {RUN} --reason ...`",
    ]


def test_a_phase_is_one_of_several() -> None:
    assert "phase `canary` (2 of 3)" in shown(progress(phase="canary"), ("staff", "canary", "everyone"))


def test_share_rate_and_time_left_are_told_while_rows_move() -> None:
    text = shown(progress(mapping(0, rows=500), mapping(1, state="waiting")))
    assert "**25% copied** · 500 of about 2,000 rows · 50 rows/s · about 30 s to go" in text


def test_a_paused_run_promises_no_time_left() -> None:
    assert "to go" not in shown(progress(mapping(0, rows=500), state="paused"))


def test_a_run_that_goes_back_tells_what_is_still_there() -> None:
    gone, there = mapping(0, state="taken back"), mapping(1, state="copied", rows=1_000)
    assert "**1,000 copied rows** still on the target" in shown(progress(gone, there, state="unwinding"))
    assert "no copied row is on the target" in shown(progress(gone, state="rolled back"))


def test_verification_tells_its_share_until_there_is_a_verdict() -> None:
    copied = mapping(0, state="copied", rows=1_000)
    assert "**40% verified** · 400 of 1,000 rows" in shown(progress(copied, step="verify", verified=400, ended=NOW))
    verdict = VerdictSummary(
        passed=False, checks=1, failed=1, findings=2, rows=1_000, digest="d", first_findings=[], head=HEAD
    )
    text = shown(progress(copied, step="verify", verified=1_000, verdict=verdict, ended=NOW))
    assert "verdict: **failed ✗** · 1 check · 2 findings" in text
    assert "100% verified" not in text


def test_mappings_are_an_aligned_table_in_a_code_block() -> None:
    text = shown(
        progress(mapping(0, rows=1), mapping(1, rows=1_000_000, estimated=4_000_000, name="sales." + "x" * 60))
    )
    table = text.split("```")[1].strip("\n").splitlines()
    assert [line.index(word) for line, word in zip(table, ("state", "copying", "copying"), strict=True)] == [43] * 3
    assert table[1].startswith("…xxxxxxxxxxxxxxxxxxxxx     1,000,000  25%  copying")
    assert max(map(len, table)) <= 64


def test_children_at_work_are_linked_by_name() -> None:
    text = shown(progress(mapping(0, name="shop.order"), mapping(1, state="copied")))
    page = "namespaces/default/workflows/shop-v2%2F2026-11-23T10-15-02Z%2Fshop.order"
    assert f"at work: [shop.order]({page})." in text
    verifying = shown(progress(mapping(0, state="copied"), step="verify"))
    assert (
        "[verify everyone](namespaces/default/workflows/shop-v2%2F2026-11-23T10-15-02Z%2Fverify%20everyone)"
        in verifying
    )


def test_many_mappings_and_a_long_message_stay_short_enough_for_a_url() -> None:
    many = [mapping(number, estimated=10_000 - number, name=f"warehouse.facts_{number}") for number in range(300)]
    done = mapping(300, state="verified", estimated=99_999)
    text = shown(progress(done, *many, message="x < y * " * 1_000, waiting_for=f"`knarr retry {RUN}`" * 4))
    assert len(text) <= LONGEST
    assert "… " in text or "…\n" in text
    assert "more\n```" in text
    assert "warehouse.facts_0 " in text, "what moves is shown before what is done"


def test_what_a_row_holds_is_no_markup() -> None:
    text = shown(progress(message="expected <img src=x>, found **bold** [link](http://x) `code`\nsecond line"))
    assert r"\<img src=x\>" in text
    assert r"\*\*bold\*\* \[link\](http://x) \`code\`<br>second line" in text


OTHERS = f"""can't take back: shop.customer · its rows: shop.customer holds 25,001 rows, the ledger says that the run \
put 25,000 there; 1 of them show transactions that are not the run's: somebody else has written to it
Next: look at them: SELECT t.* FROM "shop"."customer" AS t WHERE knarr.full_xid(t.xmin) NOT IN (SELECT u.id FROM \
knarr.written AS u WHERE u.run_id = '{RUN}' AND u.mapping = 0); then on the target: as the run's own role: \
SELECT knarr.decide('{RUN}', 'shop.customer', 'keep theirs', WHO, WHY) (they stay) or as the run's own role: \
SELECT knarr.decide('{RUN}', 'shop.customer', 'restore ours', WHO, WHY) (they go too), and retry; nothing was changed"""
ANSWERS = f"`knarr retry {RUN} --stop 1 --reason ...` or `knarr skip {RUN} --stop 1 --reason ...`"


def test_a_question_comes_first_and_each_statement_that_answers_it_is_whole_on_a_line_of_its_own() -> None:
    now = progress(mapping(0), state="waiting for a person", message=OTHERS, waiting_for=ANSWERS)

    state, block = shown(now).split("\n\n")[:2]

    assert state.startswith("**waiting for a person**")
    lines = block.splitlines()
    assert (lines[0], lines[-1]) == ("```", "```")
    assert f"  SELECT knarr.decide('{RUN}', 'shop.customer', 'keep theirs', WHO, WHY)" in lines
    assert f"  SELECT knarr.decide('{RUN}', 'shop.customer', 'restore ours', WHO, WHY)" in lines
    assert any(line.startswith('  SELECT t.* FROM "shop"."customer"') and line.endswith("= 0)") for line in lines)
    assert lines[-3:-1] == [f"  knarr retry {RUN} --stop 1 --reason ...", f"  knarr skip {RUN} --stop 1 --reason ..."]
    assert lines[1].startswith("can't take back: ")


def test_of_a_question_that_is_too_long_the_statements_that_answer_stay_whole() -> None:
    found = OTHERS.replace("u.mapping = 0", f"u.mapping = 0 AND {'x' * 2_000}").replace("somebody", "somebody " * 300)
    text = shown(progress(mapping(0), state="waiting for a person", message=f"```{found}", waiting_for=ANSWERS))

    assert len(text) <= LONGEST
    lines = text.splitlines()
    assert f"  SELECT knarr.decide('{RUN}', 'shop.customer', 'restore ours', WHO, WHY)" in lines
    assert f"  knarr retry {RUN} --stop 1 --reason ..." in lines
    assert "xxx" not in text
    assert text.count("```") % 2 == 0
