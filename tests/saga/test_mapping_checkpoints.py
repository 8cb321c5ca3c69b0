"""Mappings as checkpoints: one that is proved can stay while the rest of its phase is taken back and done again."""

from typing import Any, Final

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError

from knarr.local.cluster import Cluster
from knarr.postgres.session import connect
from tests.saga.scene import PLAN, Scene, run_script
from tests.saga.test_checkpoints import EXPECTED, ORDERS
from tests.saga.test_whole_run import dump
from workflows.messages import Progress, RollbackOrder, Status

pytestmark = pytest.mark.saga

ONE_BY_ONE: Final = {"parallelism": {"mappings": 2, "partitions": 2, "verify": 1}}
APPROVED: Final = PLAN | ONE_BY_ONE | {"rollout": [{"phase": "everyone", "approve": "manual"}]}
KEPT: Final = APPROVED | {"rollback": {"keep_for": "7d"}}
ASKING: Final = APPROVED | {"verification": {"on_difference": "wait"}}

# Tables that are there, with a key in force: orders can't stay when their customers are taken back.
WITH_KEYS: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE shop."order" (id integer PRIMARY KEY, customer_id integer REFERENCES shop.customer, total numeric);
"""
FILL: Final = ASKING | {
    "types": {},
    "checks": [],
    "mappings": [
        {
            "target": "shop.order",
            "source": "public.orders o",
            "mode": "fill",
            "key": {"id": "o.o_id"},
            "columns": {"customer_id": {"from": "o.o_customer"}, "total": {"from": "o.o_total"}},
        },
        {
            "target": "shop.customer",
            "source": "public.customer c",
            "mode": "fill",
            "key": {"id": "c.c_id"},
            "columns": {"name": {"from": "trim(c.c_name)"}},
        },
    ],
}
ONE_TABLE: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE shop.total (id integer PRIMARY KEY, total numeric NOT NULL);
INSERT INTO shop.total VALUES (0, 0.5);
"""
CHECKPOINTS: Final = "SELECT string_agg(name, ', ' ORDER BY reached_at) FROM knarr.checkpoint"
IN_THE_TRAIL: Final = """
SELECT string_agg(body::jsonb ->> 'name', ', ' ORDER BY position) FROM knarr.audit WHERE kind = 'checkpoint'
"""
COPIES: Final = """
SELECT string_agg(mapping || ' ' || copies, ', ' ORDER BY mapping)
  FROM (SELECT body::jsonb ->> 'mapping' AS mapping, count(*) AS copies FROM knarr.audit WHERE kind = 'copy' GROUP BY 1)
       AS counted
"""
KEYS: Final = """
SELECT string_agg(c.conrelid::regclass || ' ' || c.contype::text, ', ' ORDER BY c.conrelid::regclass::text, c.contype)
  FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
 WHERE n.nspname = 'shop' AND c.contype IN ('p', 'f', 'c')
"""


def lines(cluster: Cluster, scene: Scene) -> list[str]:
    """The target's dump, whatever the order in which rows were written: partitions are copied side by side."""
    return sorted(dump(cluster, scene.target_dsn).splitlines())


async def go_back(scene: Scene, handle: WorkflowHandle[Any, Status], to: str) -> Status:
    await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="a second thought", to=to))
    return await scene.until(handle, "at checkpoint")


async def only_orders_are_proved(scene: Scene) -> WorkflowHandle[Any, Status]:
    """A run that asks a person, since a customer differs; its orders are a checkpoint."""
    handle = await scene.start(ASKING, pause_before=["verify"])
    await scene.until(handle, "paused")
    await run_script(scene.target_dsn, "UPDATE shop.customer SET balance = balance + 1 WHERE id = 7")
    await scene.order(handle, "resume")
    held = await scene.until(handle, "waiting for a person")
    assert held.checkpoints == ["everyone/shop.order"]
    return handle


async def test_a_proved_mapping_stays_while_the_others_are_taken_back_and_copied_again(
    scene: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(KEPT)
        held = await scene.until(handle, "waiting for approval")
        assert held.checkpoints == ["everyone/shop.order", "everyone/shop.customer"]
        assert await scene.in_target(CHECKPOINTS) == "everyone/shop.order, everyone/shop.customer"
        undisturbed = lines(second_cluster, scene)

        held = await go_back(scene, handle, "everyone/shop.order")
        assert held.checkpoints == ["everyone/shop.order"]
        assert held.rows == 20_000
        assert held.verdict is None, "no verdict on the whole phase stands"
        assert "everyone/shop.order" in held.message
        progress = await handle.query("progress", result_type=Progress)
        assert {mapping.name: (mapping.state, mapping.rows) for mapping in progress.mappings} == {
            "shop.order": ("verified", 20_000),
            "shop.customer": ("waiting", 0),
        }
        assert await scene.in_target(ORDERS) == await scene.in_source(EXPECTED)
        assert await scene.in_target("SELECT count(*) FROM shop.customer") == 0
        assert await scene.in_target(KEYS) == 'shop."order" c, shop."order" p'
        assert await scene.in_target("SELECT count(*) FROM knarr.ledger WHERE mapping = 0") == 0
        assert await scene.in_target("SELECT bool_and(withdrawn) FROM knarr.verdict")

        await scene.order(handle, "resume")
        held = await scene.until(handle, "waiting for approval")
        assert held.checkpoints == ["everyone/shop.order", "everyone/shop.customer"]
        assert lines(second_cluster, scene) == undisturbed
        assert await scene.in_target(COPIES) == "shop.customer 2, shop.order 5", "one of them was not copied again"

        await scene.order(handle, "approve")
        held = await scene.until(handle, "kept open")
        assert held.checkpoints == ["everyone/shop.order", "everyone/shop.customer", "everyone"]
        assert await scene.in_target("SELECT count(*) FROM knarr.verdict WHERE passed AND NOT withdrawn") == 1
        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="all of it"))
        with pytest.raises(WorkflowFailureError, match="Workflow execution failed"):
            await handle.result()
    assert dump(second_cluster, scene.target_dsn) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.checkpoint") == 0


async def test_a_rollback_that_names_nothing_does_not_stop_at_a_mapping(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(APPROVED)
        await scene.until(handle, "waiting for approval")
        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="not released"))
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_mapping_that_differs_is_copied_again_beside_one_that_was_proved(scene: Scene) -> None:
    async with scene.worker():
        handle = await only_orders_are_proved(scene)
        assert await scene.in_target(IN_THE_TRAIL) == "everyone/shop.order"

        await go_back(scene, handle, "everyone/shop.order")
        await scene.order(handle, "resume")
        held = await scene.until(handle, "waiting for approval")
        assert held.verdict is not None
        assert held.verdict.passed
        await scene.order(handle, "approve")
        assert (await handle.result()).state == "completed"
    balance = "SELECT sum({})::text FROM {}"
    moved = await scene.in_target(balance.format("balance", "shop.customer"))
    assert moved == await scene.in_source(balance.format("c_balance", "public.customer"))


async def test_a_mapping_that_a_later_round_finds_unlike_is_no_checkpoint_any_more(scene: Scene) -> None:
    async with scene.worker():
        handle = await only_orders_are_proved(scene)
        await run_script(
            scene.target_dsn,
            "UPDATE shop.customer SET balance = balance - 1 WHERE id = 7;"
            'UPDATE shop."order" SET total = total + 1 WHERE id = 9',
        )
        await scene.order(handle, "retry")
        while (await scene.until(handle, "waiting for a person", "running")).checkpoints != ["everyone/shop.customer"]:
            pass
        held = await scene.until(handle, "waiting for a person")
        assert held.checkpoints == ["everyone/shop.customer"]
        assert await scene.in_target(CHECKPOINTS) == "everyone/shop.customer"
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError):
            await handle.result()


async def test_no_order_can_lead_to_a_checkpoint_that_is_being_withdrawn(scene: Scene) -> None:
    async with scene.worker():
        handle = await only_orders_are_proved(scene)
        await run_script(scene.target_dsn, 'UPDATE shop."order" SET total = total + 1 WHERE id = 9')
        locker = await connect(scene.target_dsn, application_name="locker")
        async with locker.transaction():
            await locker.execute("SELECT FROM knarr.checkpoint WHERE name = 'everyone/shop.order' FOR UPDATE")
            await scene.order(handle, "retry")
            while (await scene.until(handle, "waiting for a person", "running")).checkpoints:
                pass
            assert await scene.in_target(CHECKPOINTS) == "everyone/shop.order", "the server still has it"
            with pytest.raises(WorkflowUpdateFailedError):
                await go_back(scene, handle, "everyone/shop.order")
        await locker.close()
        await scene.until(handle, "waiting for a person")
        assert await scene.in_target(CHECKPOINTS) is None
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError):
            await handle.result()


async def test_a_mapping_is_a_checkpoint_only_after_those_that_its_rows_point_at(
    scene: Scene, second_cluster: Cluster
) -> None:
    await run_script(scene.target_dsn, WITH_KEYS)
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(FILL)
        held = await scene.until(handle, "waiting for approval")
        assert held.checkpoints == ["everyone/shop.customer", "everyone/shop.order"]
        undisturbed = lines(second_cluster, scene)
        held = await go_back(scene, handle, "everyone/shop.customer")
        assert held.rows == 2_000
        assert await scene.in_target('SELECT count(*) FROM shop."order"') == 0
        await scene.order(handle, "resume")
        await scene.until(handle, "waiting for approval")
        assert lines(second_cluster, scene) == undisturbed
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_mapping_is_no_checkpoint_while_those_that_its_rows_point_at_differ(scene: Scene) -> None:
    await run_script(scene.target_dsn, WITH_KEYS)
    async with scene.worker():
        handle = await scene.start(FILL, pause_before=["verify"])
        await scene.until(handle, "paused")
        await run_script(scene.target_dsn, "UPDATE shop.customer SET name = 'else' WHERE id = 7")
        await scene.order(handle, "resume")
        held = await scene.until(handle, "waiting for a person")
        assert held.verdict is not None
        assert held.verdict.unlike == [1]
        assert held.checkpoints == []
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError):
            await handle.result()


async def test_one_of_two_mappings_into_one_table_stays_while_the_other_is_taken_back(scene: Scene) -> None:
    await run_script(scene.target_dsn, ONE_TABLE)

    def half(number: int) -> dict[str, object]:
        return {
            "target": "shop.total",
            "source": "public.orders o",
            "mode": "append",
            "key": {"id": "o.o_id"},
            "columns": {"total": {"from": "o.o_total"}},
            "where": f"o.o_id % 2 = {number}",
            "scope": f"id % 2 = {number}",
        }

    plan = FILL | {"mappings": [FILL["mappings"][1], half(0), half(1)]}
    async with scene.worker():
        handle = await scene.start(plan)
        held = await scene.until(handle, "waiting for approval")
        assert held.rows == 22_000
        assert sorted(held.checkpoints) == [f"everyone/shop.{name}" for name in ("customer", "total #1", "total #2")]
        first = next(name for name in held.checkpoints if "total" in name)
        rows = "SELECT count(*) FILTER (WHERE id % 2 = 0) || ' ' || count(*) FILTER (WHERE id % 2 = 1) FROM shop.total"
        await go_back(scene, handle, first)
        assert await scene.in_target(rows) == {"#1": "10001 0", "#2": "1 10000"}[first[-2:]]
        await scene.order(handle, "resume")
        await scene.until(handle, "waiting for approval")
        assert await scene.in_target(rows) == "10001 10000"
        await scene.order(handle, "abort")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
