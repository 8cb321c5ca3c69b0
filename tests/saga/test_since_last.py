"""`knarr verify --since-last`: what can be shown not to have changed since a run's verdict is not compared again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from knarr.errors import PlanError
from knarr.plan.models import Plan
from knarr.settings import Connections
from knarr.verify.alone import verify_plan
from knarr.verify.models import CheckSummary, Verdict
from tests.saga.scene import PLAN, Scene, run_script

pytestmark = pytest.mark.saga

IN_A_SUBTRANSACTION = """
DO $$ BEGIN
    BEGIN UPDATE shop."order" SET total = 7 WHERE id = 4712; EXCEPTION WHEN division_by_zero THEN NULL; END;
END $$
"""


@pytest.fixture
async def moved(scene: Scene) -> AsyncIterator[Scene]:
    """The shop, moved by a run that is over."""
    async with scene.worker():
        assert (await (await scene.start()).result()).state == "completed"
    yield scene


async def verified(scene: Scene, plan: Plan | None = None) -> Verdict:
    connections = Connections(
        {"legacy": SecretStr(scene.source_dsn), "shop": SecretStr(scene.target_dsn)}, Path("knarr.toml")
    )
    return await verify_plan(connections, plan or Plan.model_validate(PLAN), since_last=True)


def parity(verdict: Verdict, name: str) -> CheckSummary:
    return next(check for check in verdict.checks if (check.kind, check.name) == ("parity", name))


def skipped(check: CheckSummary) -> bool:
    return any("row versions since" in line for line in check.compared)


async def test_what_has_not_changed_is_not_compared_again_and_the_verdict_says_so(moved: Scene) -> None:
    verdict = await verified(moved)
    assert verdict.passed, verdict.message
    for name, rows in (("shop.customer", 2_000), ("shop.order", 20_000)):
        assert skipped(parity(verdict, name))
        assert (parity(verdict, name).source_rows, parity(verdict, name).target_rows) == (rows, rows)


@pytest.mark.parametrize(
    ("side", "change"),
    [
        ("target", 'UPDATE shop."order" SET total = total + 1 WHERE id = 4711'),
        ("target", 'DELETE FROM shop."order" WHERE id = 4711'),
        ("target", IN_A_SUBTRANSACTION),
        ("source", "UPDATE orders SET o_total = o_total + 1 WHERE o_id = 4711"),
        ("source", "DELETE FROM orders WHERE o_id = 4711"),
        ("source", "INSERT INTO orders VALUES (30001, 1, 'O', 1, '2024-01-01')"),
        ("target", "ALTER TYPE shop.order_status RENAME VALUE 'open' TO 'opened'"),
        ("source", "DELETE FROM orders WHERE o_id = 7; INSERT INTO orders VALUES (7, 1, 'O', 1, '2024-01-01')"),
    ],
)
async def test_every_change_since_is_found(moved: Scene, side: str, change: str) -> None:
    await run_script(moved.target_dsn if side == "target" else moved.source_dsn, change)
    verdict = await verified(moved)
    assert parity(verdict, "shop.order").outcome == "failed"


async def test_only_the_partition_that_changed_is_compared_again(moved: Scene) -> None:
    await run_script(moved.source_dsn, "UPDATE orders SET o_date = o_date WHERE o_id = 20000")
    verdict = await verified(moved)
    check = parity(verdict, "shop.order")
    assert verdict.passed
    assert check.partitions > 1
    assert skipped(check)  # its first partition


async def test_rows_frozen_by_vacuum_are_still_known(moved: Scene) -> None:
    await run_script(moved.target_dsn, 'VACUUM (FREEZE, ANALYZE) shop."order"')
    assert skipped(parity(await verified(moved), "shop.order"))


async def test_without_a_verdict_of_this_very_plan_it_is_refused(moved: Scene) -> None:
    other = Plan.model_validate(PLAN | {"description": "another plan"})
    with pytest.raises(PlanError, match="the target has none of this very plan"):
        await verified(moved, other)
    await run_script(moved.target_dsn, "DROP SCHEMA knarr CASCADE")
    with pytest.raises(PlanError, match="needs a verdict that passed and stands"):
        await verified(moved)
