"""The target is short of something: time, a lock, room on its disk."""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from temporalio.client import WorkflowHandle

from tests.faults import oracle
from tests.faults.disk import small_disk, until_full
from tests.faults.record import not_possible, recorded
from tests.faults.shop import PLAN
from tests.faults.stage import Stage, Theatre, play

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

COMPLETE: Final = "retried until it works; target complete and equal, each partition once"
BACK: Final = "the target equals its dump before"
WAITING_FOR: Final = """
SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
 WHERE NOT l.granted AND c.relname = '{}'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
SCHEMA: Final = Path(__file__).parents[2] / "knarr" / "postgres" / "schema.sql"


async def until_waiting(stage: Stage, table: str) -> None:
    """Waits until somebody waits for a lock of the table."""
    async with asyncio.timeout(60):
        while not await oracle.one_value(stage.scene.target_dsn, WAITING_FOR.format(table)):
            await asyncio.sleep(0.05)


async def test_a_statement_timeout_that_is_too_small_for_a_while(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("statement_timeout of 2 ms on the target's database for 4 s", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            setting = f"ALTER DATABASE {stage.database}"

            async def squeeze(handle: WorkflowHandle[Any, Any]) -> None:
                theatre.target.psql(f"{setting} SET statement_timeout = '2ms';")
                stage.worker()
                await asyncio.sleep(4)
                theatre.target.psql(f"{setting} RESET statement_timeout;")

            case.violations += await play(stage, act=squeeze)


@pytest.mark.slow
async def test_a_lock_is_held_for_longer_than_the_plan_waits(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("table locked by another session for 5 s, lock_timeout 1 s", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:

            async def lock(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker("before copy_partitions", "hold")
                await worker.until_reached()
                other = await asyncpg.connect(stage.scene.target_dsn)
                async with other.transaction():
                    await other.execute('LOCK TABLE shop."order" IN ACCESS EXCLUSIVE MODE')
                    worker.go()
                    await until_waiting(stage, "order")
                    await asyncio.sleep(5)
                await other.close()

            limits = {"partition_size": "96KiB", "lock_timeout": "1s"}
            case.violations += await play(stage, plan=PLAN | {"limits": limits}, act=lock)


async def test_an_abort_while_the_run_waits_for_a_lock(theatre: Theatre, tmp_path: Path) -> None:
    must = f"the undoing starts within 10 s; once the lock is free, {BACK}"
    with recorded("abort while a statement waits for a lock of another session", must) as case:
        async with theatre.stage(tmp_path) as stage:

            async def lock(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker("before build_keys", "hold")
                await worker.until_reached()
                other = await asyncpg.connect(stage.scene.target_dsn)
                async with other.transaction():
                    await other.execute('LOCK TABLE shop."order", shop.customer IN ACCESS SHARE MODE')
                    worker.go()
                    await until_waiting(stage, "customer")
                    await stage.scene.order(handle, "abort")
                    async with asyncio.timeout(10):
                        await stage.scene.until(handle, "unwinding")
                    await asyncio.sleep(3)
                await other.close()

            case.violations += await play(stage, act=lock, wanted="aborted")


@pytest.mark.slow
async def test_a_deadlock_with_another_session(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("deadlock with another session, ours is the victim", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            theatre.target.psql(f"ALTER DATABASE {stage.database} SET deadlock_timeout = '3s';")

            async def cross(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker("before add_foreign_keys", "hold")
                await worker.until_reached()
                other = await asyncpg.connect(stage.scene.target_dsn, server_settings={"deadlock_timeout": "60s"})
                async with other.transaction():
                    await other.execute("LOCK TABLE shop.customer IN ROW EXCLUSIVE MODE")
                    worker.go()
                    await until_waiting(stage, "customer")
                    # Granted only because the server has ended our transaction as the deadlock's victim.
                    await other.execute('LOCK TABLE shop."order" IN ROW EXCLUSIVE MODE', timeout=30)
                await other.close()

            case.violations += await play(stage, act=cross)
            said = theatre.target.log.read_text(errors="replace")
            if "deadlock detected" not in said:
                case.violations.append("the server saw no deadlock: the case proves nothing")


@pytest.mark.slow
async def test_the_disk_is_full_while_copying_and_then_is_not(theatre: Theatre, tmp_path: Path) -> None:
    fault = "ENOSPC on the target's tablespace while copying, room made after 4 s"
    with small_disk(theatre.target, "small_copying", "256k") as disk:
        if isinstance(disk, str):
            not_possible(fault, COMPLETE, disk)
        with recorded(fault, COMPLETE) as case:
            async with theatre.stage(tmp_path) as stage:
                theatre.target.psql(SCHEMA, stage.database)
                disk.use(stage.database)

                async def fill(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker()
                    await until_full(theatre.target)
                    await asyncio.sleep(4)
                    assert await stage.running(handle), "the run did not wait for room"
                    disk.grow("64m")

                case.violations += await play(stage, act=fill)


async def test_an_abort_on_a_full_disk_needs_no_room(theatre: Theatre, tmp_path: Path) -> None:
    fault = "ENOSPC on the target's tablespace while copying, then abort with no byte free"
    must = f"undone without room; {BACK}"
    with small_disk(theatre.target, "small_undoing", "256k") as disk:
        if isinstance(disk, str):
            not_possible(fault, must, disk)
        with recorded(fault, must) as case:
            async with theatre.stage(tmp_path) as stage:
                theatre.target.psql(SCHEMA, stage.database)
                disk.use(stage.database)

                async def fill(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker()
                    await until_full(theatre.target)
                    disk.fill()
                    await stage.scene.order(handle, "abort")

                case.violations += await play(stage, act=fill, wanted="aborted")


@pytest.mark.slow
async def test_a_disk_too_full_for_the_trail_waits_for_a_person(theatre: Theatre, tmp_path: Path) -> None:
    fault = "ENOSPC also under the knarr schema while undoing, room made, then retry"
    must = f"asks a person with the server's words; after retry {BACK}"
    with small_disk(theatre.target, "small_trail", "4m") as disk:
        if isinstance(disk, str):
            not_possible(fault, must, disk)
        with recorded(fault, must) as case:
            async with theatre.stage(tmp_path) as stage:
                disk.use(stage.database)

                async def fill(handle: WorkflowHandle[Any, Any]) -> None:
                    worker = stage.worker("before build_keys", "hold")
                    await worker.until_reached()
                    disk.fill()
                    worker.go()
                    await stage.scene.order(handle, "abort")
                    states = ("waiting for a person", "aborted")
                    status = await stage.scene.until(handle, *states)
                    case.note = "it asked" if status.state == states[0] else "there was room in half-filled pages"
                    disk.empty()
                    if status.state == states[0]:
                        assert "space" in status.message, status.message
                        await stage.scene.order(handle, "retry")

                case.violations += await play(stage, act=fill, wanted="aborted")
