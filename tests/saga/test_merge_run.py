"""Runs that write to tables which have rows already: what is merged, what is taken back, what stays other people's."""

from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError

from knarr.local.cluster import Cluster
from tests.saga.scene import Scene, run_script
from workflows.messages import Status

pytestmark = pytest.mark.saga

# Customers 1001 to 3000: the source has half of them, under other names; orders that the source does not have.
SHOP: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.customer (
    id integer PRIMARY KEY, name text NOT NULL, phone text, balance numeric(12,2), points integer DEFAULT 7,
    initial text GENERATED ALWAYS AS (left(name, 1)) STORED);
CREATE TABLE shop."order" (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id integer NOT NULL REFERENCES shop.customer,
    total numeric(12,2), placed_on date);
CREATE INDEX ON shop."order" (customer_id);
INSERT INTO shop.customer (id, name, phone, points)
SELECT n, 'Customer ' || n, NULL, n FROM generate_series(1001, 3000) n;
INSERT INTO shop."order" (id, customer_id, total) OVERRIDING SYSTEM VALUE
SELECT n, 1001 + n % 2000, 1 FROM generate_series(30001, 31000) n;
SELECT setval('shop.order_id_seq', 31000);
"""
PLAN: Final[dict[str, Any]] = {
    "name": "shop-v2",
    "source": "legacy",
    "target": "shop",
    "mappings": [
        {
            "target": "shop.order",
            "source": "public.orders o",
            "mode": "append",
            "key": {"id": "o.o_id"},
            "columns": {"customer_id": "o.o_customer", "total": "o.o_total", "placed_on": "o.o_date"},
        },
        {
            "target": "shop.customer",
            "source": "public.customer c",
            "mode": "merge",
            "key": {"id": "c.c_id"},
            "columns": {"name": "trim(c.c_name)", "phone": "c.c_phone", "balance": "c.c_balance"},
            "rules": {"name is present": "name <> ''"},
        },
    ],
    "limits": {"partition_size": "256KiB"},
}
KEPT: Final = PLAN | {"rollback": {"keep_for": "7d"}}


@pytest.fixture
async def shop(scene: Scene) -> Scene:
    """The stage, with a target that has rows."""
    await run_script(scene.target_dsn, SHOP)
    return scene


def dump(cluster: Cluster, scene: Scene) -> list[str]:
    """Everything in the target but Knarr's own schema, in whatever order the rows lie."""
    database = urlsplit(scene.target_dsn).path.lstrip("/")
    return sorted(cluster.pg_dump(database, "--exclude-schema=knarr").splitlines())


async def test_rows_are_merged_and_other_peoples_stay(shop: Scene) -> None:
    async with shop.worker():
        handle = await shop.start(PLAN)
        status = await handle.result()

    assert status.state == "completed"
    assert status.verdict is not None
    assert status.verdict.passed
    assert status.rows == 22_000
    customers = "SELECT array_agg(name || ' ' || coalesce(points::text, '-') ORDER BY id) FROM shop.customer"
    assert await shop.in_target(f"{customers} WHERE id IN (5, 1005, 2005)") == [
        "customer 5 7",
        "customer 1005 1005",
        "Customer 2005 2005",
    ]
    assert await shop.in_target('SELECT count(*) FROM shop."order"') == 21_000
    assert await shop.in_target("SELECT (sum(inserted), sum(updated), sum(deleted))::text FROM knarr.ledger") == (
        "(21000,1000,0)"
    )


async def test_the_undo_log_is_dropped_by_a_step_of_its_own(shop: Scene) -> None:
    async with shop.worker():
        handle = await shop.start(KEPT)
        await shop.until(handle, "kept open")
        assert await shop.in_target("SELECT count(*) FROM knarr.undo") == 22_000
        await shop.order(handle, "complete")
        assert (await handle.result()).state == "completed"
        with pytest.raises(RPCError, match="completed"):
            await shop.order(handle, "rollback")

    assert await shop.in_target("SELECT count(*) FROM knarr.undo") == 0
    dropped = "SELECT body FROM knarr.audit WHERE kind = 'step' AND body LIKE '%\"step\":\"undo log\"%'"
    assert "22,000 entries dropped" in await shop.in_target(dropped)
    assert await shop.in_target("SELECT kind FROM knarr.audit ORDER BY position DESC LIMIT 1") == "run ended"


async def test_a_difference_takes_the_merge_back_and_the_target_is_as_before(
    shop: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, shop)
    async with shop.worker():
        handle = await shop.start(PLAN | {"rollback": {"changed_since": "restore ours"}}, pause_before=["verify"])
        await shop.until(handle, "paused")
        await run_script(shop.target_dsn, 'UPDATE shop."order" SET total = total + 1 WHERE id = 4711')
        await shop.order(handle, "resume")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()

    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "MigrationRolledBack"
    assert "first: shop.order: 1 changed in total" in cause.message and "4711" not in cause.message
    named = '{"checks": [{"findings": [{"key": {"id": "4711"}, "column": "total"}]}]}'
    assert await shop.in_target(f"SELECT document @> '{named}' FROM knarr.verdict")
    assert dump(second_cluster, shop) == before
    assert await shop.in_target("SELECT count(*) FROM knarr.undo") == 0


async def test_a_key_that_is_there_already_takes_the_whole_run_back(shop: Scene, second_cluster: Cluster) -> None:
    await run_script(
        shop.target_dsn,
        'INSERT INTO shop."order" (id, customer_id) OVERRIDING SYSTEM VALUE VALUES (9, 1500), (10, 1500), (11, 1500)',
    )
    before = dump(second_cluster, shop)
    async with shop.worker():
        handle = await shop.start(PLAN)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()

    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert "3 keys to append are in shop.order already" in cause.message and "(9)" not in cause.message
    assert dump(second_cluster, shop) == before


async def test_an_abort_takes_back_what_was_merged(shop: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, shop)
    async with shop.worker():
        handle = await shop.start(PLAN, pause_before=["build"])
        await shop.until(handle, "paused")
        await shop.order(handle, "abort")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()

    assert isinstance(failed.value.cause, CancelledError)
    assert dump(second_cluster, shop) == before
    assert await shop.in_target("SELECT state FROM knarr.run") == "aborted"
    assert await shop.in_target("SELECT count(*) FROM knarr.undo") == 0


async def test_a_merge_that_is_kept_open_can_still_be_taken_back(shop: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, shop)
    async with shop.worker():
        handle = await shop.start(KEPT)
        await shop.until(handle, "kept open")
        await shop.order(handle, "rollback", "the shop's people changed their minds")
        with pytest.raises(WorkflowFailureError):
            await handle.result()

    assert dump(second_cluster, shop) == before


async def test_what_others_keep_is_said_at_the_end_and_the_target_is_not_said_to_be_what_it_was(shop: Scene) -> None:
    async with shop.worker():
        handle = await shop.start(KEPT | {"rollback": {"keep_for": "7d", "changed_since": "keep theirs"}})
        await shop.until(handle, "kept open")
        await run_script(shop.target_dsn, "UPDATE shop.customer SET points = 0 WHERE id = 1500")
        await shop.order(handle, "rollback")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
        status = await handle.query("status", result_type=Status)

    for said in (str(failed.value.cause), status.message):
        assert (
            "Not as it was before: 1 row of shop.customer that others have written stays. The source was only" in said
        )
        assert "The target is what it was before" not in said
    assert await shop.in_target("SELECT name || points FROM shop.customer WHERE id = 1500") == "customer 15000"


async def test_a_row_that_was_changed_since_waits_for_a_person_who_decides(
    shop: Scene, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, shop)
    async with shop.worker():
        handle = await shop.start(KEPT)
        await shop.until(handle, "kept open")
        await run_script(shop.target_dsn, "UPDATE shop.customer SET points = 0 WHERE id = 1500")
        await shop.order(handle, "rollback")
        status = await shop.until(handle, "waiting for a person")
        assert "1 row of shop.customer was changed by somebody else since the run wrote them." in status.message
        assert "(1500)" not in status.message
        decision = f"SELECT knarr.decide('{shop.run_id}', NULL, 'restore ours', 'ann', 'agreed')"
        await run_script(shop.target_dsn, decision)
        await shop.order(handle, "retry")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()

    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    assert dump(second_cluster, shop) == before


async def test_a_checkpoint_keeps_the_canary_and_the_rest_is_merged_again(shop: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, shop)
    canary = {"shop.customer": "c.c_id % 10 = 0"}
    plan = KEPT | {"rollout": [{"phase": "canary", "where": canary}, {"phase": "everyone"}]}
    names = "SELECT count(*) FROM shop.customer WHERE name LIKE 'customer %'"
    async with shop.worker():
        handle = await shop.start(plan)
        await shop.until(handle, "kept open")
        await handle.execute_update("rollback", {"actor": "tester", "reason": "once more", "to": "canary"})
        await shop.until(handle, "at checkpoint")
        assert await shop.in_target(names) == 200
        await shop.order(handle, "resume")
        await shop.until(handle, "kept open")
        assert await shop.in_target(names) == 2000
        await handle.execute_update("rollback", {"actor": "tester", "reason": "all of it", "to": "start"})
        with pytest.raises(WorkflowFailureError):
            await handle.result()

    assert dump(second_cluster, shop) == before


async def test_a_repaired_merge_is_sealed_and_can_still_be_taken_back(shop: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, shop)
    async with shop.worker():
        handle = await shop.start(KEPT | {"verification": {"on_difference": "repair"}}, pause_before=["verify"])
        await shop.until(handle, "paused")
        await run_script(
            shop.target_dsn,
            'UPDATE shop."order" SET total = total + 1 WHERE id IN (4711, 12000);'
            'DELETE FROM shop."order" WHERE id = 15000;'
            "UPDATE shop.customer SET name = 'somebody' WHERE id IN (5, 1005)",
        )
        await shop.order(handle, "resume")
        status = await shop.until(handle, "kept open")
        assert status.verdict is not None
        assert status.verdict.passed
        assert await shop.in_target("SELECT array_agg(passed::text ORDER BY round) FROM knarr.verdict") == [
            "false",
            "true",
        ]
        names = "SELECT array_agg(name ORDER BY id) FROM shop.customer WHERE id IN (5, 1005)"
        assert await shop.in_target(names) == ["customer 5", "customer 1005"]
        assert await shop.in_target("SELECT count(*) FROM knarr.undo") == 22_000
        await shop.order(handle, "rollback", "the shop's people changed their minds")
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()

    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    assert dump(second_cluster, shop) == before
    assert await shop.in_target("SELECT count(*) FROM knarr.undo") == 0
