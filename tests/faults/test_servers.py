"""Servers die and come back while a run goes on: the source, the target, Temporal."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from knarr.local.cluster import RestartMode
from knarr.local.temporal import TemporalServer
from tests.faults import oracle
from tests.faults.record import LONG, recorded
from tests.faults.shop import KEPT_OPEN, PLAN
from tests.faults.stage import Side, Theatre, play
from tests.saga.scene import connect
from tests.servers import start_temporal, stop_temporal

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TRAIL: Final = "SELECT body FROM knarr.audit WHERE kind = 'operator'"
COMPLETE: Final = "the run goes on by itself; target complete and equal, each partition once"
BACK: Final = "the undoing goes on by itself; the target equals its dump before"

ONLY_LONG: Final = pytest.mark.slow
RESTARTS: Final = [
    pytest.param("source", "fast", marks=ONLY_LONG),
    pytest.param("source", "immediate", marks=ONLY_LONG),
    pytest.param("source", "kill", marks=ONLY_LONG),
    pytest.param("target", "fast", marks=ONLY_LONG),
    pytest.param("target", "immediate", marks=ONLY_LONG),
    pytest.param("target", "kill"),
]


@pytest.mark.parametrize(("side", "mode"), RESTARTS)
async def test_a_server_restarts_in_mid_copy(theatre: Theatre, tmp_path: Path, side: Side, mode: RestartMode) -> None:
    with recorded(f"{side} restarted in mid COPY ({mode})", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            server = theatre.source if side == "source" else theatre.target

            async def restart(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker("in the middle of COPY", "hold", 2)
                await worker.until_reached()
                await asyncio.to_thread(server.restart, mode)
                worker.go()

            # Crash recovery may leave a gap in the source's transaction ids; its rows are compared all the same.
            case.violations += await play(stage, act=restart, source_is_quiet=side == "target")


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=ONLY_LONG), pytest.param("kill", marks=ONLY_LONG)])
@pytest.mark.parametrize("place", ["before remove_rows", "audited drop", "before release_target"])
async def test_the_target_restarts_while_the_run_is_taken_back(
    theatre: Theatre, tmp_path: Path, place: str, mode: RestartMode
) -> None:
    with recorded(f"target restarted while undoing ({mode})", BACK) as case:
        case.note = place
        async with theatre.stage(tmp_path) as stage:

            async def restart(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker(place, "hold")
                await stage.scene.until(handle, "kept open")
                await stage.scene.order(handle, "abort")
                await worker.until_reached()
                await asyncio.to_thread(theatre.target.restart, mode)
                worker.go()

            case.violations += await play(stage, plan=KEPT_OPEN, act=restart, wanted="aborted")


@pytest.mark.slow
async def test_both_servers_are_killed_at_random_again_and_again(theatre: Theatre, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**31)
    chance = random.Random(seed)
    with recorded("source or target killed at random moments, again and again", COMPLETE, seed=seed) as case:
        async with theatre.stage(tmp_path) as stage:

            async def restart(handle: WorkflowHandle[Any, Any]) -> None:
                stage.worker()
                case.tried = 0
                while case.tried < 8 and await stage.running(handle):
                    server = chance.choice([theatre.source, theatre.target])
                    await asyncio.sleep(chance.uniform(0.3, 2.0))
                    await asyncio.to_thread(server.restart, "kill")
                    case.tried += 1

            case.violations += await play(stage, act=restart, source_is_quiet=False)


@pytest.fixture
async def own_temporal() -> AsyncIterator[TemporalServer]:
    """A Temporal server that keeps its state in a file, for tests that kill it."""
    server = start_temporal(persistent=True)
    yield server
    stop_temporal(server)


async def insistently(handle: WorkflowHandle[Any, Any], signals: int, chance: random.Random) -> list[str]:
    """Sends pairs of pause and resume; returns the reason of each that the server acknowledged."""
    acknowledged: list[str] = []
    for number in range(signals):
        for action in ("pause", "resume"):
            reason = f"{action} {number}"
            try:
                await handle.signal(action, {"actor": "storm", "reason": reason}, rpc_timeout=None)
            except (RPCError, RuntimeError):
                continue
            acknowledged.append(reason)
        await asyncio.sleep(chance.uniform(0.0, 0.2))
    return acknowledged


async def test_temporal_is_killed_and_comes_back_on_its_file(
    theatre: Theatre, tmp_path: Path, own_temporal: TemporalServer
) -> None:
    seed = random.SystemRandom().randrange(2**31)
    chance, kills = random.Random(seed), 8 if LONG else 2
    must = "every acknowledged order is in the trail; the run completes, target equal"
    with recorded("Temporal server SIGKILLed at random, restarted on its file", must, seed=seed) as case:
        client: Client = await connect(own_temporal.address)
        async with theatre.stage(tmp_path, client=client) as stage:
            handle = await stage.scene.start(PLAN)
            stage.worker()
            storm = asyncio.create_task(insistently(handle, 15, chance))
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.3, 1.5))
                await asyncio.to_thread(own_temporal.kill)
                await asyncio.to_thread(own_temporal.restart)
            case.tried = kills
            acknowledged = await storm
            outcome = await patient_end(handle)
            for worker in stage.workers:
                worker.kill()
            case.violations += await stage.judge(outcome, "completed")
            case.note = f"{len(acknowledged)} orders acknowledged"
            trail = "".join(await oracle.column(stage.scene.target_dsn, TRAIL))
            lost = [reason for reason in acknowledged if f'"{reason}"' not in trail]
            case.violations += [f"acknowledged and not in the trail: {lost}"] if lost else []


async def patient_end(handle: WorkflowHandle[Any, Any]) -> str:
    """The run's end, over a client whose server may just be coming back; a run that was left paused is resumed."""
    async with asyncio.timeout(120):
        while True:
            try:
                described = await handle.describe()
                if described.status is not None and described.status.name != "RUNNING":
                    return "completed" if described.status.name == "COMPLETED" else described.status.name
                status = await handle.query("status", rpc_timeout=None)
                if status["state"] == "paused":
                    await handle.signal("resume", {"actor": "storm", "reason": "the storm is over"})
            except (RPCError, RuntimeError):
                pass
            await asyncio.sleep(0.3)
