"""`knarr doctor` finds a run whose workflow is gone, says so, and takes it back from the ledger."""

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from knarr.postgres.session import connect
from knarr.postgres.unwind import Unwound, unwind
from starter.exits import Exit
from starter.runs import find_open
from tests.endtoend.command import Knarr
from tests.saga import test_merge_run as occupied
from tests.saga.scene import PLAN, Scene, run_script
from tests.saga.test_checkpoints import CANARY, FILLED
from tests.saga.test_whole_run import dump
from workflows.messages import RollbackOrder, Status

pytestmark = pytest.mark.saga

PLAN_FILE = """
name: shop-v2
source: legacy
target: shop
mappings:
  - {target: shop.customer, source: public.customer c, key: {id: c.c_id}, columns: {name: c.c_name}}
"""
NOBODY = {"TEMPORAL_ADDRESS": "127.0.0.1:1"}
OTHER = [{"target": "shop.other", "source": "public.customer c", "key": {"id": "c.c_id"}, "columns": {}}]
PHASED = PLAN | {
    "rollout": [{"phase": "canary", "where": CANARY}, {"phase": "everyone", "soak": "60s"}],
    "rollback": {"keep_for": "7d"},
}


@pytest.fixture
def knarr(scene: Scene, temporal: TemporalServer, tmp_path: Path) -> Iterator[Knarr]:
    connections = {"legacy": scene.source_dsn, "shop": scene.target_dsn}
    environment = {"TEMPORAL_ADDRESS": temporal.address, "KNARR_TASK_QUEUE": scene.task_queue}
    (tmp_path / "shop.yaml").write_text(PLAN_FILE)
    yield Knarr(tmp_path, connections, environment)


async def said(knarr: Knarr, *arguments: str) -> tuple[int, str]:
    """Exit code and all that was printed; in a thread, since the worker needs this one."""
    done = await asyncio.to_thread(knarr, *arguments)
    return done.returncode, done.stdout + done.stderr


async def terminated(handle: WorkflowHandle[Any, Status]) -> None:
    """Gone, in a way that no compensation sees."""
    await handle.terminate("a test pulls the rug")


async def test_all_is_well_with_a_worker_and_a_run_under_way(scene: Scene, knarr: Knarr) -> None:
    async with scene.worker():
        handle = await scene.start(pause_before=["verify"])
        await scene.until(handle, "paused")
        code, text = await said(knarr, "doctor", "shop.yaml")
        assert code == Exit.DONE, text
        assert f"ok    shop: lease of {scene.run_id}" in text
        assert "its workflow is running" in text
        assert "ok    workers: 1 on task queue" in text
        assert "ok    legacy: privileges: role postgres may read what the plan names" in text
        document = await asyncio.to_thread(knarr.document, "doctor")
        assert document["passed"] is True
        assert {check["outcome"] for check in document["checks"]} == {"ok"}

        code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--yes")
        assert code == Exit.REFUSED
        assert f"knarr abort {scene.run_id}" in text
        code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--force", "--yes", "--confirm", "shop-v2")
        assert code == Exit.UNCONFIRMED
        await scene.order(handle, "resume")
        assert (await handle.result()).state == "completed"
    code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--yes")
    assert code == Exit.REFUSED
    assert "has completed" in text


async def test_what_is_not_well_is_named_with_what_to_do(scene: Scene, knarr: Knarr) -> None:
    await run_script(scene.source_dsn, "DROP TABLE public.customer CASCADE")
    weak = scene.target_dsn.split("@", 1)[1]
    await run_script(scene.target_dsn, "DROP ROLE IF EXISTS nobody; CREATE ROLE nobody LOGIN PASSWORD 'nobody'")
    poor = Knarr(
        knarr.folder,
        {"legacy": scene.source_dsn, "shop": f"postgresql://nobody:nobody@{weak}"},
        NOBODY,
    )
    code, text = await said(poor, "doctor", "shop.yaml")
    assert code == Exit.UNREACHABLE
    assert "FAIL  Temporal: no Temporal server answers at 127.0.0.1:1" in text
    assert "next: start one: knarr up" in text
    assert "FAIL  legacy: privileges: no such table: public.customer" in text
    assert "FAIL  shop: privileges: role nobody may not make schema shop, knarr" in text
    assert "next: GRANT CREATE ON DATABASE" in text
    assert "nobody:nobody" not in text
    code, text = await said(Knarr(knarr.folder, {"legacy": scene.source_dsn}, NOBODY), "doctor", "shop.yaml")
    assert code == Exit.UNREACHABLE
    assert "KNARR_CONNECTION_SHOP" in text


async def test_a_terminated_run_is_found_and_taken_back(scene: Scene, knarr: Knarr, second_cluster: Cluster) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(PHASED)
        status = await scene.until(handle, "soaking")
        assert status.phase == "everyone"
        await terminated(handle)
        code, text = await said(knarr, "doctor")
        assert code == Exit.WAITING
        assert f"FAIL  shop: lease of {scene.run_id}: orphaned: 2 tables, 22,000 rows" in text
        assert "(terminated)" in text
        assert f"next: knarr doctor --unwind {scene.run_id} --target shop" in text

        code, text = await said(knarr, "doctor", "--unwind", scene.run_id)
        assert code == Exit.UNCONFIRMED
        code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--yes", "--reason", "it was terminated")
        assert code == Exit.DONE, text
        assert "22,000 rows" in text
        assert dump(second_cluster, scene.target_dsn) == before
        assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
        assert await scene.in_target("SELECT state FROM knarr.run") == "rolled back"
        assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE body LIKE '%it was terminated%'") == 1
        assert await scene.in_target("SELECT bool_and(withdrawn) FROM knarr.verdict")
        assert await scene.in_target("SELECT count(*) FROM knarr.ledger") == 0

        # Again is a no-op; the trail is whole; and the tables are free.
        code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--yes")
        assert code == Exit.DONE, text
        assert "has been taken back before (its record says: rolled back); nothing was left to do." in text
        code, text = await said(knarr, "audit", scene.run_id, "--target", "shop")
        assert code == Exit.DONE, text
        again = await scene.start(run_id=f"again/{scene.number}")
        assert (await again.result()).state == "completed"


async def test_without_temporal_it_takes_the_runs_id_typed_out(
    scene: Scene, knarr: Knarr, second_cluster: Cluster
) -> None:
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(pause_before=["checkpoint"])
        await scene.until(handle, "paused")
        await terminated(handle)
    lost = Knarr(knarr.folder, {"legacy": scene.source_dsn, "shop": scene.target_dsn}, NOBODY)
    code, text = await said(lost, "doctor", "--unwind", scene.run_id, "--yes")
    assert code == Exit.REFUSED
    assert "can't be asked" in text
    code, text = await said(lost, "doctor", "--unwind", scene.run_id, "--yes", "--force")
    assert code == Exit.UNCONFIRMED
    assert f"--confirm {scene.run_id}" in text
    code, text = await said(lost, "doctor", "--unwind", scene.run_id, "--yes", "--force", "--confirm", scene.run_id)
    assert code == Exit.DONE, text
    assert dump(second_cluster, scene.target_dsn) == before
    code, text = await said(knarr, "doctor", "--unwind", "shop-v2/nothing", "--yes")
    assert code == Exit.NOT_FOUND


class Killed(BaseException):
    """The process ends here."""


async def unwound(scene: Scene, dies_at: int) -> Unwound:
    """An unwinding on connections of its own that dies when it begins its nth step."""
    target = await connect(scene.target_dsn, application_name="test unwind")
    source = await connect(scene.source_dsn, application_name="test unwind")
    steps = 0

    def on_step(step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == dies_at:
            raise Killed

    try:
        return await unwind(
            target, lambda: nullcontext(source), scene.run_id, actor="tester", reason="a test", on_step=on_step
        )
    finally:
        target.terminate()
        source.terminate()


@pytest.mark.parametrize("occupied", [False, True], ids=["tables made by the run", "tables that were there"])
async def test_an_unwinding_that_dies_at_any_step_is_begun_again_to_its_end(
    occupied: bool, scene: Scene, second_cluster: Cluster
) -> None:
    plan: dict[str, Any] = PHASED
    if occupied:
        await run_script(scene.target_dsn, FILLED)
        filled = {key: value for key, value in PLAN["mappings"][0].items() if key != "rules"} | {"mode": "fill"}
        filled["columns"] = {name: {"from": column["from"]} for name, column in filled["columns"].items()}
        plan = PHASED | {"mappings": [filled, PLAN["mappings"][1]]}
    before = dump(second_cluster, scene.target_dsn)
    async with scene.worker():
        handle = await scene.start(plan)
        assert (await scene.until(handle, "soaking")).phase == "everyone"
        await terminated(handle)
    deaths, done = 0, None
    while done is None:
        try:
            done = await unwound(scene, deaths + 1)
        except Killed:
            deaths += 1
    assert deaths > 10
    assert done.rows == 0, "the steps before had been done by those that died"
    assert dump(second_cluster, scene.target_dsn) == before
    # The first died before it wrote anything; each of the others raised the epoch and said who wanted it.
    assert await scene.in_target("SELECT count(*) FROM knarr.audit WHERE kind = 'operator'") == deaths
    heads = "SELECT count(*) - max(position) FROM knarr.audit"
    assert await scene.in_target(heads) == 0


async def test_a_sealed_run_may_be_let_stand(scene: Scene, knarr: Knarr) -> None:
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollback": {"keep_for": "7d"}})
        await scene.until(handle, "kept open")
        await terminated(handle)
        code, text = await said(knarr, "doctor", "--target", "shop")
        assert code == Exit.WAITING
        assert f"--complete {scene.run_id} may let it stand" in text
        code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--complete", scene.run_id)
        assert code == Exit.USAGE
        code, text = await said(knarr, "doctor", "--complete", scene.run_id, "--yes")
        assert code == Exit.DONE, text
        assert await scene.in_target("SELECT state FROM knarr.run") == "completed"
        assert await scene.in_target("SELECT count(*) FROM knarr.claim") == 0
        assert await scene.in_target('SELECT count(*) FROM shop."order"') == 20_000
        code, text = await said(knarr, "doctor", "--target", "shop")
        assert code == Exit.DONE, text
        code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--yes")
        assert code == Exit.REFUSED

        # One that nobody has proved may not.
        other = await scene.start(PLAN | {"mappings": OTHER}, run_id=f"other/{scene.number}", pause_before=["verify"])
        await scene.until(other, "paused")
        await terminated(other)
        code, text = await said(knarr, "doctor", "--complete", other.id, "--yes")
        assert code == Exit.USAGE
        assert "not sealed" in text


async def test_a_merge_is_taken_back_from_its_undo_log(scene: Scene, knarr: Knarr, second_cluster: Cluster) -> None:
    await run_script(scene.target_dsn, occupied.SHOP)
    before = occupied.dump(second_cluster, scene)
    async with scene.worker():
        handle = await scene.start(occupied.PLAN, pause_before=["seal"])
        await scene.until(handle, "paused")
        await terminated(handle)
    assert occupied.dump(second_cluster, scene) != before
    code, text = await said(knarr, "doctor", "--unwind", scene.run_id, "--yes")
    assert code == Exit.DONE, text
    assert "0 rows, " in text and " changes of the undo log, 0 objects" in text
    assert "dropp" not in text, "nothing is dropped, and no step says so"
    assert occupied.dump(second_cluster, scene) == before
    assert await scene.in_target("SELECT count(*) FROM knarr.undo") == 0


async def test_a_run_whose_workflow_was_terminated_is_no_dead_end(scene: Scene, knarr: Knarr) -> None:
    run = scene.run_id
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollback": {"keep_for": "7d"}})
        await scene.until(handle, "kept open")
        await terminated(handle)
        for command in ("status", "watch"):
            code, text = await said(knarr, command, run)
            assert code == (Exit.DONE if command == "status" else Exit.UNEXPECTED), text
            assert f"{run}  terminated" in text or command == "watch"
            assert f"knarr doctor --unwind {run} --reason" in text
            assert f"knarr doctor --complete {run} --reason" in text
            assert "waits for" not in text
        for order in (["rollback", "--yes"], ["complete", "--yes"], ["retry"], ["pause"]):
            code, text = await said(knarr, order[0], run, "--reason", "a test", *order[1:])
            assert code == Exit.REFUSED
            assert "is gone (terminated)" in text
            assert f"knarr doctor --unwind {run}" in text
        other = await scene.start(run_id=f"other/{scene.number}")
        with pytest.raises(WorkflowFailureError) as refused:
            await other.result()
        assert f"if its workflow is gone: knarr doctor --unwind {run}" in str(refused.value.cause)

        code, text = await said(knarr, "doctor", "--unwind", run, "--yes")
        assert code == Exit.DONE, text
        code, text = await said(knarr, "status", run)
        assert "ended without its workflow since, by knarr doctor: rolled back" in text
        assert "--unwind" not in text
        code, text = await said(knarr, "watch", run)
        assert code == Exit.ROLLED_BACK, text
    code, text = await said(knarr, "rollback", "shop-v2/deleted", "--yes")
    assert code == Exit.NOT_FOUND
    assert "knarr doctor --unwind shop-v2/deleted" in text


async def test_where_rows_of_others_stop_it_the_command_is_named_that_goes_on(scene: Scene, knarr: Knarr) -> None:
    run = scene.run_id
    async with scene.worker():
        handle = await scene.start(PLAN | {"rollback": {"keep_for": "7d"}})
        await scene.until(handle, "kept open")
        await terminated(handle)
    await run_script(scene.target_dsn, "UPDATE shop.customer SET name = 'theirs' WHERE id = 7")

    code, text = await said(knarr, "doctor", "--unwind", run, "--yes")

    assert code == Exit.WAITING, text
    assert "1 of them show transactions that are not the run's" in text
    assert f"this goes on: knarr doctor --unwind {run} --reason ..." in text
    decided = await scene.in_target(
        f"SELECT knarr.decide('{run}', 'shop.customer', 'restore ours', 'tester', 'a test')"
    )
    assert f"or knarr doctor --unwind {run} where its workflow is gone" in decided
    code, text = await said(knarr, "doctor", "--unwind", run, "--yes")
    assert code == Exit.DONE, text


async def test_a_run_whose_schema_was_dropped_is_told_from_one_that_never_was(scene: Scene, knarr: Knarr) -> None:
    (knarr.folder / "kept.yaml").write_text(f"{PLAN_FILE}rollback: {{keep_for: 7d}}\n")
    async with scene.worker():
        # As people start it: by its search attributes doctor finds what is open on an alias.
        code, text = await said(knarr, "start", "kept.yaml", "--detach")
        assert code == Exit.DONE, text
        opened = await find_open(scene.client, "shop-v2")
        assert opened is not None
        run, handle = opened.run_id, scene.client.get_workflow_handle(opened.run_id)
        await scene.until(handle, "kept open")
        await run_script(scene.target_dsn, "DROP SCHEMA knarr CASCADE")
        for command in (["report", run, "--target", "shop"], ["audit", run, "--target", "shop"]):
            code, text = await said(knarr, *command)
            assert code == Exit.NOT_FOUND, text
            assert f"shop has no knarr schema, in which the record and the trail of {run} would be" in text
            assert "does shop lead to the database that the run has written to?" in text
            assert "pg_restore --schema knarr" in text
        code, text = await said(knarr, "doctor", "kept.yaml")
        assert code == Exit.WAITING, text
        assert f"FAIL  shop: record of {run}: its workflow is open (kept open), and there is no record of it" in text
        assert "not there yet" not in text
        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="a test"))
        status = await scene.until(handle, "waiting for a person")
        assert "pg_restore --schema knarr" in status.message
        await terminated(handle)
