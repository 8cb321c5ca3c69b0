"""What a plan says about verification, in a whole run: repair, waiting, downstream checks, pace."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from knarr.local.cluster import Cluster
from tests.saga.scene import PLAN, Scene, run_script
from tests.saga.test_whole_run import dump

pytestmark = pytest.mark.saga

REPAIR = PLAN | {"verification": {"on_difference": "repair"}}
DAMAGE = (
    'UPDATE shop."order" SET total = total + 1 WHERE id IN (4711, 12000); DELETE FROM shop."order" WHERE id = 15000;'
    "UPDATE shop.customer SET name = 'somebody' WHERE id = 7"
)


async def damaged(scene: Scene, plan: dict[str, Any], damage: str = DAMAGE) -> WorkflowHandle[Any, Any]:
    """A run that goes on after somebody has changed what it had copied."""
    handle = await scene.start(plan, pause_before=["verify"])
    await scene.until(handle, "paused")
    await run_script(scene.target_dsn, damage)
    await scene.order(handle, "resume")
    return handle


async def test_unlike_rows_are_repaired_and_verified_again(scene: Scene) -> None:
    async with scene.worker():
        status = await (await damaged(scene, REPAIR)).result()
    assert status.state == "completed"
    assert [
        (row["round"], row["passed"])
        for row in json.loads(
            await scene.in_target(
                "SELECT json_agg(json_build_object('round', round, 'passed', passed) ORDER BY round) FROM knarr.verdict"
            )
        )
    ] == [(1, False), (2, True)]
    assert await scene.in_target('SELECT sum(total) FROM shop."order"') == await scene.in_source(
        "SELECT sum(o_total) FROM orders"
    )
    assert await scene.in_target("SELECT count(*) FROM shop.customer WHERE name = 'customer 7'") == 1
    assert await scene.in_target("SELECT sum(rows) FROM knarr.ledger") == 22_000
    repairs = "SELECT count(*) FROM knarr.audit WHERE kind = 'step' AND entry_key LIKE 'repair %'"
    assert await scene.in_target(repairs) >= 2
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body::json ->> 'action' = 'repair'") == 1


async def test_what_can_not_be_repaired_is_rolled_back_after_the_rounds(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    stubborn = """
    CREATE FUNCTION public.stubborn() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.total := -NEW.total; RETURN NEW; END $$;
    ALTER TABLE shop."order" DROP CONSTRAINT "total is not negative";
    CREATE TRIGGER stubborn BEFORE INSERT OR UPDATE ON shop."order" FOR EACH ROW EXECUTE FUNCTION public.stubborn();
    UPDATE shop."order" SET total = total + 1 WHERE id = 4711;
    """
    async with scene.worker():
        handle = await damaged(scene, PLAN | {"verification": {"on_difference": "repair", "rounds": 2}}, stubborn)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "MigrationRolledBack"
    assert await scene.in_target("SELECT max(round) FROM knarr.verdict") == 3
    await run_script(scene.target_dsn, "DROP FUNCTION public.stubborn")
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_repaired_run_can_still_be_rolled_back(scene: Scene, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await damaged(scene, REPAIR | {"rollback": {"keep_for": "7d"}})
        await scene.until(handle, "kept open")
        await scene.order(handle, "rollback", "the shop's people changed their minds")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert dump(second_cluster, scene.target_dsn) == before


async def test_a_difference_waits_for_a_person_if_the_plan_says_so(scene: Scene) -> None:
    async with scene.worker():
        handle = await damaged(scene, PLAN | {"verification": {"on_difference": "wait"}})
        status = await scene.until(handle, "waiting for a person")
        assert "shop.order" in status.message or "shop.customer" in status.message
        await run_script(
            scene.target_dsn,
            'UPDATE shop."order" SET total = total - 1 WHERE id IN (4711, 12000);'
            "UPDATE shop.customer SET name = 'customer 7' WHERE id = 7",
        )
        total = await scene.in_source("SELECT o_total FROM orders WHERE o_id = 15000")
        row = await scene.in_source("SELECT o_customer || '|' || o_date FROM orders WHERE o_id = 15000")
        customer, date = row.split("|")
        await run_script(
            scene.target_dsn,
            'INSERT INTO shop."order" (id, customer_id, status, total, placed_on)'
            f" VALUES (15000, {customer}, 'open', {total}, '{date}')",
        )
        await scene.order(handle, "retry")
        status = await handle.result()
    assert status.state == "completed"


@pytest.fixture
def consumer(scene: Scene) -> Iterator[str]:
    """An endpoint of somebody who lives on the data: `{"orders": 0}` twice, then what is right."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps({"orders": 20_000 if len(asked) > 2 else 0}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/stats"
    server.shutdown()
    server.server_close()


def seen_at(url: str, orders: int, within: str = "10s") -> dict[str, Any]:
    check = {"name": "the shop's page", "http": {"url": url, "pointer": "/orders", "equals": orders}}
    return check | {"within": within, "every": "1s"}


async def test_what_consumers_must_see_is_asked_until_they_see_it(scene: Scene, consumer: str) -> None:
    async with scene.worker():
        status = await (await scene.start(PLAN | {"downstream": [seen_at(consumer, 20_000)]})).result()
    assert status.state == "completed"
    found = "SELECT outcome FROM knarr.check_result WHERE kind = 'downstream' AND name = 'the shop''s page'"
    assert await scene.in_target(found) == "passed"
    assert await scene.in_target("SELECT document -> 'checks' -> -1 ->> 'kind' FROM knarr.verdict") == "downstream"


async def test_a_consumer_that_sees_something_else_takes_the_run_back(scene: Scene, consumer: str) -> None:
    async with scene.worker():
        handle = await scene.start(PLAN | {"downstream": [seen_at(consumer, 7, within="0s")]})
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert "the shop's page" in failed.value.cause.message
    assert await scene.in_target("SELECT to_regclass('shop.customer')") is None


async def test_a_consumer_that_can_not_be_asked_is_found_before_anything_is_written(scene: Scene) -> None:
    query = {"alias": "warehouse", "query": "SELECT 1", "target": "SELECT 1"}
    checks = [{"name": "as many", "query": query}, {"name": "fresh", "function": "no_such_module:fresh"}]
    async with scene.worker():
        handle = await scene.start(PLAN | {"downstream": checks})
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    told = failed.value.cause.message
    assert "the survey found 2 problems; nothing was written" in told
    assert "downstream[0].query.alias (as many): connection 'warehouse' leads nowhere" in told
    assert "downstream[1].function (fresh): function 'no_such_module:fresh': no module" in told
    assert await scene.in_target("SELECT count(*) FROM knarr.object") == 0


async def test_verification_holds_while_the_source_says_that_it_is_busy(scene: Scene) -> None:
    await run_script(scene.source_dsn, "CREATE TABLE public.busy AS SELECT true AS busy")
    busy = {"pause_while": {"query": "SELECT busy FROM public.busy", "every": "1s"}}
    async with scene.worker():
        handle = await scene.start(PLAN | {"verification": busy}, pause_before=["verify"])
        await scene.until(handle, "paused")
        await scene.order(handle, "resume")
        await run_script(scene.source_dsn, "SELECT pg_sleep(2)")
        assert await scene.in_target("SELECT count(*) FROM knarr.check_result WHERE kind = 'parity'") == 0
        await run_script(scene.source_dsn, "UPDATE public.busy SET busy = false")
        status = await handle.result()
    assert status.state == "completed"
