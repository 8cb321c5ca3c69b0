"""What a run carries over when it continues as new: a few numbers a mapping, whatever the mappings are called."""

from datetime import UTC, datetime
from typing import Final

import pytest

from activities.models import Compensation, MappingSummary, RunContext, SurveyResult, VerdictSummary
from knarr.audit.chain import AuditHead
from knarr.plan.models import Plan
from knarr.postgres.lease import Lease
from workflows.conduct import Conduct
from workflows.messages import Resumed, SagaState, Shown, Turn, Verifiable, VerificationInput
from workflows.rows import in_order
from workflows.saga import Saga
from workflows.settings import RunSettings

MAPPINGS: Final = 5_000
LIMIT: Final = 2_000_000  # bytes that Temporal takes as one payload
NOW: Final = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
HEAD: Final = AuditHead(position=123_456, digest="d" * 64)
RUN: Final = RunContext(
    run_id="shop-v2/2026-11-25T10-00-00Z",
    plan="shop-v2",
    source="legacy",
    target="shop",
    lease=Lease(lease_id=4_711, epoch=7),
)
PLAN: Final = {
    "name": "shop-v2",
    "source": "legacy",
    "target": "shop",
    "mappings": [{"target": "shop.*", "source": "public.*"}],
}


def name(number: int) -> str:
    return f"warehouse.a_table_with_quite_a_long_name_{number}"


def moved(phases: list[str]) -> Saga:
    """All that a run has registered when the rows of each phase have been moved and proved, mapping by mapping."""
    saga = Saga(SagaState())
    saga.register("claim", Compensation(activity="release_target", summary="lease on shop"))
    saga.finish("claim")
    for phase in phases:
        for number in range(MAPPINGS):
            made = [
                (f"move/{phase}", "remove_rows", "its rows", 1_234_567),
                ("build", "drop_keys", "keys, indexes, checks", 7),
                (f"sequences/{phase}", "reset_sequences", "sequences", 1),
                ("foreign keys", "drop_foreign_keys", f"{number % 9} foreign keys", number % 9),
                (f"proved/{phase}", "remove_checkpoint", "the checkpoint", 0),
            ]
            for kind, activity, summary, count in made:
                step = f"{kind}/{number}"
                saga.register(step, Compensation(activity=activity, summary=summary, mapping=number, phase=phase))
                saga.finish(step, count)
    return saga


def carried(saga: Saga, phases: list[str]) -> Resumed:
    rollout = [{"phase": phase, "where": {"shop.a": "a % 10 = 0"}} for phase in phases[:-1]] + [{"phase": phases[-1]}]
    verdict = VerdictSummary(
        passed=False,
        checks=50_000,
        failed=MAPPINGS,
        rows=10**12,
        findings=10**9,
        first_findings=["f" * 300] * 5,
        digest="d" * 64,
        head=HEAD,
        repairable=list(range(MAPPINGS)),
        unlike=list(range(MAPPINGS)),
    )
    return Resumed(
        run=RUN,
        settings=RunSettings.of(Plan.model_validate(PLAN)).model_copy(
            update={"phases": RunSettings.of(Plan.model_validate(PLAN | {"rollout": rollout})).phases}
        ),
        saga=saga.state,
        shown=Shown(
            state="unwinding",
            phase=phases[-1],
            step="copy",
            message="m" * 2_000,
            verdict=verdict,
            verified_rows=10**12,
            rows=10**12,
            estimated_rows=10**12,
            copy_started_at=NOW,
            copy_ended_at=NOW,
        ),
        paused=False,
        pause_before=["seal"],
        started_at=NOW,
        decided=400,
        round=9,
        clock_from=NOW,
        turn=Turn(kind="rollback", to="start", actor="ada@ops", reason="r" * 2_000),
    )


def stuck() -> Conduct:
    """A run that Temporal has cancelled; whether it has is asked nowhere else than in a workflow."""
    return goes_on(carried(moved([]), ["everyone"]).model_copy(update={"cancelled": True}))


def goes_on(before: Resumed) -> Conduct:
    """The next run of the workflow, after what is carried has crossed as text."""
    return Conduct(RUN, before.settings, [], Resumed.model_validate_json(before.model_dump_json()))


@pytest.mark.parametrize("phases", [["everyone"], ["canary", "half", "everyone"]], ids=["one phase", "three phases"])
def test_five_thousand_mappings_stay_well_under_a_megabyte(phases: list[str]) -> None:
    text = carried(moved(phases), phases).model_dump_json()
    assert len(text) < 1_000_000 * (0.5 if len(phases) == 1 else 0.9)
    assert Resumed.model_validate_json(text).saga == moved(phases).state


def test_no_name_of_a_mapping_is_carried_so_that_long_ones_cost_nothing() -> None:
    each = len(moved(["everyone"]).state.model_dump_json()) / MAPPINGS
    assert each < 80, f"{each:.0f} bytes a mapping"


def test_stops_are_counted_on_so_that_an_answer_to_an_earlier_one_stays_one() -> None:
    before = carried(moved([]), ["everyone"]).model_copy(update={"stops": 3, "cancelled": True})
    conduct = goes_on(before)
    assert conduct.controls.ask("can't take back: its rows").number == 4
    assert conduct.resumed().stops == 4


def test_a_stop_that_nobody_answered_is_the_same_one_when_it_comes_again() -> None:
    conduct = stuck()
    assert conduct.controls.ask("can't take back: its rows").number == 1
    assert goes_on(conduct.resumed()).controls.ask("can't take back: its rows").number == 1
    assert goes_on(conduct.resumed()).controls.ask("can't take back: its keys").number == 2
    conduct.controls.passed()
    assert goes_on(conduct.resumed()).controls.ask("can't take back: its rows").number == 2


def test_a_decision_that_could_not_be_recorded_is_carried_until_it_is() -> None:
    conduct = stuck()
    conduct.controls.note("operator", "abort", "ada@ops", "enough", "taking everything back")
    assert goes_on(conduct.resumed()).controls.unrecorded == conduct.controls.unrecorded


@pytest.mark.parametrize("raised", [False, True])
def test_whether_the_epoch_was_raised_is_carried_for_the_turn_that_is_taken(raised: bool) -> None:
    before = carried(moved([]), ["everyone"]).model_copy(update={"raised": raised})
    assert goes_on(before).raised == raised
    assert not goes_on(before.model_copy(update={"turn": None})).raised, "the next turn raises it anew"


def test_what_crosses_beside_it_fits_into_a_payload_too() -> None:
    mappings = [
        MappingSummary(
            number=number,
            name=name(number),
            partitions=12,
            estimated_rows=10**9,
            estimated_bytes=10**11,
            depends_on=[number - 1] if number else [],
            foreign_keys=3,
            phases=["canary", "half", "everyone"],
        )
        for number in range(MAPPINGS)
    ]
    survey = SurveyResult(mappings=mappings, cross_checks=[], warnings=0, head=HEAD)
    verification = VerificationInput(
        run=RUN,
        phase="everyone",
        round=1,
        mappings=[Verifiable(number=each.number, name=each.name, partitions=each.partitions) for each in mappings],
        cross_checks=[],
        window=4,
    )
    assert len(survey.model_dump_json()) < LIMIT * 0.7
    assert len(verification.model_dump_json()) < LIMIT * 0.3


def mapping(number: int, size: int, *depends_on: int) -> MappingSummary:
    return MappingSummary(
        number=number,
        name=name(number),
        partitions=1,
        estimated_rows=1,
        estimated_bytes=size,
        depends_on=list(depends_on),
        phases=["everyone"],
    )


def test_the_largest_mapping_goes_first_but_none_before_those_that_it_depends_on() -> None:
    mappings = [mapping(0, 10), mapping(1, 50, 3), mapping(2, 30), mapping(3, 5, 4), mapping(4, 1), mapping(5, 30, 99)]
    assert [each.number for each in in_order(mappings)] == [2, 5, 0, 4, 3, 1]
