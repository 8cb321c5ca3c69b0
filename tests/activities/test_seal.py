"""The seal opens for a verdict that passed, or for one that a person has accepted, and for nothing that looks alike."""

from collections.abc import AsyncIterator

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import context
from activities.models import RunContext, RunInput, StepResult
from activities.seal import seal_run
from knarr.audit import chain
from knarr.postgres import lease
from knarr.postgres.session import Connection, Pools, connect
from knarr.settings import Connections, Settings
from tests.postgres.specimens import Run, claimed

VERDICT = """
INSERT INTO knarr.verdict (run_id, phase, round, passed, document, digest)
VALUES ('run-1', $1, $2, $3, jsonb_build_object('ended_at', clock_timestamp()), '')
"""


@pytest.fixture
async def run(source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """A claimed run of one phase, and activities that find its target."""
    monkeypatch.setenv("KNARR_CONNECTION_LEGACY", source_dsn)
    monkeypatch.setenv("KNARR_CONNECTION_SHOP", target_dsn)
    pools = Pools(Connections.load(Settings()))
    context.use(pools)
    source: Connection = await connect(source_dsn, application_name="test source")
    target: Connection = await connect(target_dsn, application_name="test target")
    yield await claimed(source, target, target_dsn)
    source.terminate()
    target.terminate()
    await pools.close()


async def judged(run: Run, round: int, *, passed: bool, phase: str = "everyone") -> None:
    await run.target.execute(VERDICT, phase, round, passed)
    body = {"phase": phase, "round": round, "passed": passed}
    await chain.append(run.target, run.run_id, f"verdict {phase} round {round}", "verdict", body)


async def ordered(run: Run, action: str, number: int, *, accepted: bool = True) -> None:
    body = {"action": action, "accepted": accepted, "actor": "ann", "reason": "known\0", "answer": "skipped"}
    await chain.append(run.target, run.run_id, f"decision/{number}", "operator", body)


async def seal(run: Run) -> StepResult:
    given = RunContext(run_id=run.run_id, plan="specimen", source="legacy", target="shop", lease=run.lease)
    result: StepResult = await ActivityEnvironment().run(seal_run, RunInput(run=given))
    return result


async def state(run: Run) -> object:
    return await run.target.fetchval("SELECT state FROM knarr.run")


async def test_a_verdict_that_passed_is_sealed(run: Run) -> None:
    await judged(run, 1, passed=True)

    await seal(run)

    assert await state(run) == "sealed"


async def test_a_verdict_that_a_person_accepted_is_sealed(run: Run) -> None:
    await judged(run, 1, passed=False)
    await ordered(run, "skip", 1)

    await seal(run)

    assert await state(run) == "sealed"


async def test_an_accepted_verdict_stays_so_when_the_run_went_back_to_the_checkpoint_after_it(run: Run) -> None:
    await judged(run, 1, passed=False)
    await ordered(run, "skip", 1)
    run.lease = await lease.raise_epoch(run.target, run.run_id)

    await seal(run)

    assert await state(run) == "sealed"


@pytest.mark.parametrize("before", ["a skip before the verdict", "a skip of a compensation", "a refused skip",
                                    "another order", "a skip of an earlier round", "nothing"])  # fmt: skip
async def test_no_other_order_opens_the_seal(before: str, run: Run) -> None:
    match before:
        case "a skip before the verdict":
            await ordered(run, "skip", 1)
            await judged(run, 1, passed=False)
        case "a skip of a compensation":
            await judged(run, 1, passed=False)
            run.lease = await lease.raise_epoch(run.target, run.run_id)
            await ordered(run, "skip", 1)
        case "a refused skip" | "another order":
            await judged(run, 1, passed=False)
            await ordered(run, "skip" if before == "a refused skip" else "retry", 1, accepted=before == "another order")
        case "a skip of an earlier round":
            await judged(run, 1, passed=False)
            await ordered(run, "skip", 1)
            await judged(run, 2, passed=False)
        case _:
            await judged(run, 1, passed=False)

    with pytest.raises(ApplicationError, match="did not pass, and nobody has accepted it since") as refused:
        await seal(run)

    assert (refused.value.type, refused.value.non_retryable) == ("DataError", True)
    assert await state(run) != "sealed"
