"""The raise before every undoing, the release after it: where they find no lease, a person is told what to do."""

from collections.abc import AsyncIterator

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import context
from activities.claim import release_target
from activities.models import CompensationInput, RaiseResult, RunContext, RunInput, StepResult
from activities.undo import raise_epoch
from knarr.postgres import lease
from knarr.postgres.session import Connection, Pools, connect
from knarr.settings import Connections, Settings
from tests.postgres.specimens import Run, claimed


@pytest.fixture
async def run(source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """A claimed run, and activities that find its target as `shop`, and as `elsewhere` a database without Knarr."""
    for alias, dsn in (("LEGACY", source_dsn), ("SHOP", target_dsn), ("ELSEWHERE", source_dsn)):
        monkeypatch.setenv(f"KNARR_CONNECTION_{alias}", dsn)
    pools = Pools(Connections.load(Settings()))
    context.use(pools)
    source: Connection = await connect(source_dsn, application_name="test source")
    target: Connection = await connect(target_dsn, application_name="test target")
    yield await claimed(source, target, target_dsn)
    source.terminate()
    target.terminate()
    await pools.close()


def about(run: Run, target: str, held: bool) -> RunContext:
    return RunContext(run_id=run.run_id, plan="p", source="legacy", target=target, lease=run.lease if held else None)


async def raised(run: Run, *, target: str = "shop", held: bool = True) -> RaiseResult:
    result: RaiseResult = await ActivityEnvironment().run(raise_epoch, RunInput(run=about(run, target, held)))
    return result


async def released(run: Run, *, target: str = "shop", held: bool = True) -> int:
    given = CompensationInput(run=about(run, target, held), mapping=-1, phase="", name="aborted")
    result: StepResult = await ActivityEnvironment().run(release_target, given)
    return result.count


async def test_the_epoch_goes_up(run: Run) -> None:
    found = await raised(run)
    assert found.lease == lease.Lease(lease_id=run.lease.lease_id, epoch=run.lease.epoch + 1)


async def test_a_run_without_a_lease_has_nothing_to_raise(run: Run) -> None:
    assert (await raised(run, target="elsewhere", held=False)).lease is None


async def test_where_the_run_is_not_known_its_alias_is_doubted(run: Run) -> None:
    with pytest.raises(ApplicationError, match="does not know run run-1, which holds a lease on another") as failed:
        await raised(run, target="elsewhere")
    assert failed.value.type == "PlanError"
    assert "is the alias the run's?" in failed.value.message
    assert (await raised(run)).lease is not None, "and where it is known, it goes on"


async def test_a_run_that_somebody_has_ended_is_told_so(run: Run) -> None:
    await lease.release(run.target, run.run_id, "rolled back")
    with pytest.raises(ApplicationError, match="has been ended on shop, not by its workflow") as failed:
        await raised(run)
    assert "temporal workflow terminate -w run-1" in failed.value.message


async def test_no_run_is_closed_where_it_is_not_known(run: Run) -> None:
    with pytest.raises(ApplicationError, match="is the alias the run's"):
        await released(run, target="elsewhere")
    assert not await run.source.fetchval("SELECT to_regnamespace('knarr') IS NOT NULL"), "installed in a wrong database"
    assert await released(run) == 1
    assert await released(run) == 0, "a retry"


async def test_a_run_that_claimed_nothing_is_closed_wherever_it_is(run: Run) -> None:
    assert await released(run, target="elsewhere", held=False) == 0
