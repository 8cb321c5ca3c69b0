"""Taking rows back as an activity: what it needs of the two databases, and what the seal has to do with it."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import context
from activities.copy import remove_rows
from activities.models import CompensationInput, RunContext, RunInput, StepResult
from activities.seal import seal_run, unseal_run
from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.models import Plan
from knarr.postgres import lease, others, schema
from knarr.postgres.session import Connection, Pools, connect
from knarr.settings import Connections
from tests.postgres.specimens import Run, claimed
from tests.postgres.test_remove import ITEM, ORDER, copied, ids, remove

# Port 1 answers nobody.
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/nowhere"
PHASED = """
UPDATE knarr.run SET plan = (plan::jsonb || '{"rollout": [{"phase": "canary"}, {"phase": "everyone"}]}')::json
"""


@pytest.fixture
async def run(source_dsn: str, target_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """A claimed run of two phases; its activities find the target, and no source."""
    aliases = {"legacy": SecretStr(NOWHERE), "shop": SecretStr(target_dsn)}
    pools = Pools(Connections(aliases, tmp_path_factory.mktemp("settings") / "knarr.toml"))
    context.use(pools)
    source: Connection = await connect(source_dsn, application_name="test source")
    target: Connection = await connect(target_dsn, application_name="test target")
    held = await claimed(source, target, target_dsn)
    await target.execute(PHASED)
    assert len(Plan.model_validate_json(await target.fetchval("SELECT plan::text FROM knarr.run")).rollout) == 2
    yield held
    source.terminate()
    target.terminate()
    await pools.close()


def given(run: Run) -> RunContext:
    return RunContext(run_id=run.run_id, plan="specimen", source="legacy", target="shop", lease=run.lease)


async def test_a_dead_source_does_not_stop_the_rollback_of_one_of_several_phases(run: Run) -> None:
    await copied(run)
    run.lease = await lease.raise_epoch(run.target, run.run_id)

    taken = CompensationInput(run=given(run), mapping=ITEM.number, phase=ORDER[-1])
    done: StepResult = await ActivityEnvironment().run(remove_rows, taken)

    assert done.count == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


OLDER: str = """
UPDATE knarr.version SET version = 3; DROP TABLE knarr.decision;
ALTER TABLE knarr.mapping DROP table_sql, DROP table_oid;
ALTER TABLE knarr.sequence_before DROP left_value, DROP left_called;
"""


async def test_a_run_that_began_under_an_older_version_can_be_taken_back(run: Run) -> None:
    await copied(run)
    await run.target.execute(OLDER)
    run.lease = await lease.raise_epoch(run.target, run.run_id)

    for phase in reversed(ORDER):
        await ActivityEnvironment().run(
            remove_rows, CompensationInput(run=given(run), mapping=ITEM.number, phase=phase)
        )

    assert await ids(run) == []
    assert await run.target.fetchval("SELECT version FROM knarr.version") == schema.VERSION


async def judged(run: Run, *, passed: bool) -> None:
    verdict = f"'run-1', 'everyone', 1, {passed}, false, jsonb_build_object('ended_at', clock_timestamp()), ''"
    await run.target.execute(f"INSERT INTO knarr.verdict VALUES ({verdict})")
    body = {"phase": "everyone", "round": 1, "passed": passed}
    await chain.append(run.target, run.run_id, "verdict everyone round 1", "verdict", body)


@pytest.mark.parametrize("passed", [True, False], ids=["that passed", "that a person accepted"])
async def test_a_run_is_in_use_from_a_verdict_on_whatever_is_taken_back_of_it(passed: bool, run: Run) -> None:
    assert not await others.was_in_use(run.target, run.run_id)
    await judged(run, passed=passed)
    assert await others.was_in_use(run.target, run.run_id) == passed
    if not passed:
        paused = {"action": "pause", "accepted": True, "actor": "ann", "reason": "no \0 jsonb", "answer": ""}
        await chain.append(run.target, run.run_id, "decision/0", "operator", paused)
        assert not await others.was_in_use(run.target, run.run_id)
        accepted = paused | {"action": "skip"}
        await chain.append(run.target, run.run_id, "decision/1", "operator", accepted)
    assert await others.was_in_use(run.target, run.run_id)
    await ActivityEnvironment().run(seal_run, RunInput(run=given(run)))
    await ActivityEnvironment().run(unseal_run, CompensationInput(run=given(run)))
    await run.target.execute("DELETE FROM knarr.verdict")

    assert await run.target.fetchval("SELECT state FROM knarr.run") == "running"
    assert await others.was_in_use(run.target, run.run_id)


async def test_a_phase_that_soaks_is_in_use(run: Run) -> None:
    """Somebody's row in the place of one of the run's is theirs, although the table has as many rows as before."""
    await copied(run, phases=["canary"])
    await judged(run, passed=True)
    await run.target.execute("DELETE FROM public.taken WHERE id = 4; INSERT INTO public.taken VALUES (999, 'x', 'x')")

    with pytest.raises(DataError, match="1 of them show transactions that are not the run's"):
        await remove(run, "canary")

    assert 999 in await ids(run)


IMPATIENT = 'UPDATE knarr.run SET plan = (plan::jsonb || \'{"limits": {"lock_timeout": "300ms"}}\')::json'


async def test_who_holds_the_lock_that_was_waited_for_is_told(run: Run) -> None:
    await copied(run)
    run.lease = await lease.raise_epoch(run.target, run.run_id)
    await run.target.execute(IMPATIENT)
    async with run.reconnect() as somebody:
        await somebody.execute("SET application_name = 'the night job'")
        pid = await somebody.fetchval("SELECT pg_backend_pid()")
        async with somebody.transaction(), context.pools().acquire("shop") as neighbour, neighbour.transaction():
            for session in (somebody, neighbour):
                await session.execute(f"LOCK TABLE {ITEM.name} IN ROW EXCLUSIVE MODE")
            taken = CompensationInput(run=given(run), mapping=ITEM.number, phase=ORDER[-1])
            with pytest.raises(ApplicationError) as failed:
                await ActivityEnvironment().run(remove_rows, taken)

    assert failed.value.type == "TransientError"
    assert "lock timeout" in failed.value.message
    # One of the worker's own, with another step: it is not who is waited for.
    assert "knarr" not in failed.value.message.partition("; now ")[2].partition("Next: ")[0]
    held = f"{ITEM.name} is locked in RowExclusiveLock by the night job (postgres, pid {pid}, for 00:00:0"
    assert held in failed.value.message
