"""Verification's activities store what they found, whatever the check has done to its connections."""

from collections.abc import AsyncIterator

import pytest
from temporalio.testing import ActivityEnvironment

from activities import context
from activities.models import RunContext, VerifyInput, VerifyResult
from activities.verify import verify_cross_check
from knarr.plan.models import Plan
from knarr.postgres import lease, schema
from knarr.postgres.session import Pools, connect
from knarr.settings import Connections, Settings
from knarr.verify import results
from knarr.verify.models import CheckKey
from tests.faults.proxy import Proxy
from tests.faults.stage import through

BROKEN = Plan.model_validate(
    {
        "name": "specimen",
        "source": "legacy",
        "target": "shop",
        "mappings": [{"target": "public.taken", "source": "public.given"}],
        "checks": [{"name": "sums", "source": "SELECT 1 / 0", "target": "SELECT 1"}],
    }
)


@pytest.fixture
async def run(source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunContext]:
    """A claimed run whose target answers late."""
    target = await connect(target_dsn, application_name="test target")
    await schema.install(target)
    held = await lease.claim(target, "run-1", BROKEN, "0" * 64, [])
    await target.close()
    with Proxy(target_dsn, delay=0.03) as proxy:
        monkeypatch.setenv("KNARR_CONNECTION_LEGACY", source_dsn)
        monkeypatch.setenv("KNARR_CONNECTION_SHOP", through(target_dsn, proxy.port))
        pools = Pools(Connections.load(Settings()))
        context.use(pools)
        yield RunContext(run_id="run-1", plan="specimen", source="legacy", target="shop", lease=held)
        await pools.close()


async def test_a_check_that_fails_on_one_side_while_the_other_begins_is_stored(
    run: RunContext, target_dsn: str
) -> None:
    given = VerifyInput(run=run, phase="everyone", round=1, check="sums")

    found: VerifyResult = await ActivityEnvironment().run(verify_cross_check, given)

    assert (found.checks, found.passed, found.findings) == (1, 0, 1)
    target = await connect(target_dsn, application_name="test target")
    stored = await results.done(target, "run-1", "everyone", 1, CheckKey(kind="cross", name="sums"))
    await target.close()
    assert stored is not None and stored.outcome == "could not run" and "division by zero" in stored.message
