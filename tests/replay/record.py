"""Makes the stored histories anew, on real servers: `python -m tests.replay.record`.

Run it when a change of the workflows is meant to break replay (and then only after versioning what old runs need), or
to add a scenario. Each history is one gzipped JSON file, as Temporal's own tools read it.
"""

import asyncio
import gzip
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from temporalio.client import Client, WorkflowExecution, WorkflowFailureError, WorkflowHandle

from knarr.process import run_and_exit
from tests.saga.scene import PLAN, SHOP, Scene, connect, run_script
from tests.servers import start_cluster, start_temporal, stop_cluster, stop_temporal
from workflows.messages import RollbackOrder

HISTORIES: Final = Path(__file__).parent / "histories"

Play = Callable[[Scene], Awaitable[WorkflowHandle[Any, Any]]]


async def completed(scene: Scene) -> WorkflowHandle[Any, Any]:
    """A run that is paused and resumed on its way, kept open, and completed by an operator."""
    plan = PLAN | {"rollback": {"on": ["verification", "deadline 6h"], "keep_for": "7d"}}
    handle = await scene.start(plan, pause_before=["verify"])
    await scene.until(handle, "paused")
    await scene.order(handle, "resume")
    await scene.until(handle, "kept open")
    await scene.order(handle, "complete")
    await handle.result()
    return handle


async def continued(scene: Scene) -> WorkflowHandle[Any, Any]:
    """Many small partitions, one mapping after the other: on a hasty server parent and children continue as new."""
    many = {"limits": {"partition_size": "64KiB"}, "parallelism": {"mappings": 1, "partitions": 2}}
    handle = await scene.start(PLAN | many)
    await handle.result()
    return handle


async def phased(scene: Scene) -> WorkflowHandle[Any, Any]:
    """A canary that soaks and is approved, then everyone."""
    canary = {"shop.customer": "c.c_id % 10 = 0"}
    rollout = [{"phase": "canary", "where": canary, "soak": "1s", "approve": "manual"}, {"phase": "everyone"}]
    handle = await scene.start(PLAN | {"rollout": rollout})
    await scene.until(handle, "waiting for approval")
    await scene.order(handle, "approve")
    await handle.result()
    return handle


async def returned(scene: Scene) -> WorkflowHandle[Any, Any]:
    """Back to the canary and forward again; then all of it, with a person who is asked about a row of others."""
    canary = {"phase": "canary", "where": {"shop.customer": "c.c_id % 10 = 0"}}
    rollout = [canary, {"phase": "everyone", "approve": "manual"}]
    handle = await scene.start(PLAN | {"rollout": rollout, "rollback": {"keep_for": "7d"}})
    await scene.until(handle, "waiting for approval")
    back = RollbackOrder(actor="tester", reason="once more", to="canary")
    await handle.execute_update("rollback", back)
    await scene.until(handle, "at checkpoint")
    await scene.order(handle, "resume")
    await scene.until(handle, "waiting for approval")
    await scene.order(handle, "approve")
    await scene.until(handle, "kept open")
    await run_script(scene.target_dsn, "INSERT INTO shop.customer (id, name, balance) VALUES (900001, 'a guest', 0)")
    await handle.execute_update("rollback", back.model_copy(update={"to": "start"}))
    await scene.until(handle, "waiting for a person")
    decision = f"SELECT knarr.decide('{handle.id}', 'shop.customer', 'restore ours', 'ann', 'agreed')"
    await run_script(scene.target_dsn, decision)
    await scene.order(handle, "retry")
    return await failed(handle)


async def halted(scene: Scene) -> WorkflowHandle[Any, Any]:
    """Back to the canary while everyone is copied, so that children are cancelled under a deadline; then forward."""
    canary = {"shop.customer": "c.c_id % 10 = 0", "shop.order": "o.o_customer % 10 = 0"}
    changed = {
        "rollout": [{"phase": "canary", "where": canary}, {"phase": "everyone"}],
        "rollback": {"on": ["verification", "deadline 6h"]},
        "limits": {"partition_size": "8KiB"},
    }
    handle = await scene.start(PLAN | changed)
    status = await scene.until(handle, "running")
    while not (status.phase == "everyone" and status.rows > 2_200):
        status = await scene.until(handle, "running")
    await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="a second thought", to="canary"))
    await scene.until(handle, "at checkpoint")
    await scene.order(handle, "resume")
    await handle.result()
    return handle


async def rolled_back(scene: Scene) -> WorkflowHandle[Any, Any]:
    """A difference planted before verification: the run takes itself back."""
    handle = await scene.start(pause_before=["verify"])
    await scene.until(handle, "paused")
    await run_script(scene.target_dsn, "UPDATE shop.customer SET balance = balance + 1 WHERE id = 7")
    await scene.order(handle, "resume")
    return await failed(handle)


async def aborted(scene: Scene) -> WorkflowHandle[Any, Any]:
    """An abort while mappings are being built."""
    handle = await scene.start(pause_before=["build"])
    await scene.until(handle, "paused")
    await scene.order(handle, "abort")
    return await failed(handle)


async def ordered(scene: Scene) -> WorkflowHandle[Any, Any]:
    """Every order there is but those of a stop, each carried out by itself; children are held and let go on."""
    rollout = [{"phase": "canary", "where": {"shop.customer": "c.c_id % 10 = 0"}, "approve": "manual"}]
    plan = {"rollout": [*rollout, {"phase": "everyone"}], "rollback": {"keep_for": "7d"}}
    handle = await scene.start(PLAN | plan | {"limits": {"partition_size": "8KiB"}})
    await scene.until(handle, "waiting for approval")
    await scene.order(handle, "approve")
    await scene.until(handle, "running")
    await scene.order(handle, "pause")
    await scene.until(handle, "paused")
    await scene.order(handle, "resume")
    await scene.until(handle, "kept open")
    await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="once more", to="canary"))
    await scene.until(handle, "at checkpoint")
    await scene.order(handle, "abort")
    return await failed(handle)


async def refused(scene: Scene) -> WorkflowHandle[Any, Any]:
    """A survey that finds the target occupied."""
    await run_script(scene.target_dsn, "CREATE SCHEMA shop; CREATE TABLE shop.customer (id int)")
    return await failed(await scene.start())


async def failed(handle: WorkflowHandle[Any, Any]) -> WorkflowHandle[Any, Any]:
    """The handle of a run that must not succeed."""
    try:
        await handle.result()
    except WorkflowFailureError:
        return handle
    raise RuntimeError("the run succeeded")


PLAYS: Final[list[Play]] = [completed, phased, returned, halted, rolled_back, aborted, ordered, refused]


async def record(address: str, play: Play) -> None:
    """Plays one scenario on databases of its own and stores the histories of all its workflows."""
    servers = [start_cluster(), start_cluster()]
    name = play.__name__
    try:
        client = await connect(address)
        scene = Scene(servers[0].create_database("legacy"), servers[1].create_database("shop"), client)
        await run_script(scene.source_dsn, SHOP)
        async with scene.worker():
            handle = await play(scene)
        await store(client, handle.id, name)
    finally:
        for server in servers:
            stop_cluster(server)
    print(f"{name}: {len(list(HISTORIES.glob(f'{name}.*')))} histories")


async def store(client: Client, run_id: str, name: str) -> None:
    """Stores every history of a run: its own and its children's, each link of a continue-as-new chain."""
    found: list[WorkflowExecution] = []
    for _ in range(50):
        found = [each async for each in client.list_workflows(f"WorkflowId STARTS_WITH '{run_id}'")]
        if found and all(each.close_time for each in found):
            break
        await asyncio.sleep(0.2)
    for number, each in enumerate(sorted(found, key=lambda each: (each.start_time, each.id))):
        history = await client.get_workflow_handle(each.id, run_id=each.run_id).fetch_history()
        path = HISTORIES / f"{name}.{number:02d}.{each.workflow_type}.json.gz"
        path.write_bytes(gzip.compress(history.to_json().encode(), mtime=0))


async def record_all() -> int:
    """All scenarios; one of them on a server that suggests to continue as new early."""
    shutil.rmtree(HISTORIES, ignore_errors=True)
    HISTORIES.mkdir()
    server = start_temporal()
    try:
        for play in PLAYS:
            await record(server.address, play)
    finally:
        stop_temporal(server)
    hasty = start_temporal(history_suggested=40)
    try:
        await record(hasty.address, continued)
    finally:
        stop_temporal(hasty)
    return 0


if __name__ == "__main__":
    run_and_exit(lambda: asyncio.run(record_all()))
