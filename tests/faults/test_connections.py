"""Connections that are cut, slow, half-open, reset after a COMMIT, ended by the server, or not to be had."""

import asyncio
import random
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from temporalio.client import WorkflowHandle

from tests.faults import oracle
from tests.faults.proxy import BOTH_WAYS, Proxy, Way
from tests.faults.record import recorded
from tests.faults.shop import PLAN
from tests.faults.stage import Side, Stage, Theatre, play

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

COMPLETE: Final = "the run goes on by itself; target complete and equal, each partition once"
BACK: Final = "the target equals its dump before"
HELD: Final = "in the middle of COPY"

COPYING: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'COPY%' AND state <> 'idle' AND pid <> pg_backend_pid()
"""
TOO_MANY: Final = (asyncpg.TooManyConnectionsError, asyncpg.CannotConnectNowError)


@pytest.mark.parametrize("side", [pytest.param("source", marks=pytest.mark.slow), "target"])
async def test_a_connection_cut_in_mid_copy(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    with recorded(f"connections to the {side} reset in mid COPY", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.dsn(side)) as proxy:

                async def cut(handle: WorkflowHandle[Any, Any]) -> None:
                    worker = stage.worker(HELD, "hold", by=(side, proxy.port))
                    await worker.until_reached()
                    proxy.cut()
                    worker.go()

                case.violations += await play(stage, act=cut)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["source", "target"])
async def test_connections_cut_after_every_few_kilobytes(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    seed = random.SystemRandom().randrange(2**31)
    chance = random.Random(seed)
    with recorded(f"connections to the {side} reset after random bytes, again and again", COMPLETE, seed=seed) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.dsn(side)) as proxy:

                async def cut(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker(by=(side, proxy.port))
                    cuts = 0
                    while cuts < 12 and await stage.running(handle):
                        proxy.cut_after = chance.randrange(200, 90_000)
                        while proxy.cut_after and await stage.running(handle):
                            await asyncio.sleep(0.05)
                        cuts += 1
                    proxy.cut_after = 0
                    case.tried = cuts

                case.violations += await play(stage, act=cut)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_slow_network_is_slower_and_not_wrong(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    with recorded(f"each packet to and from the {side} delayed", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.dsn(side), delay=0.01) as proxy:

                async def slow(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker(by=(side, proxy.port))

                case.violations += await play(stage, act=slow)


async def half_open(stage: Stage, side: Side, *, abort: bool) -> list[str]:
    """Open connections fall silent in mid COPY and stay open; new ones work. Then the run is aborted, or goes on."""
    with Proxy(stage.dsn(side)) as proxy:

        async def fall_silent(handle: WorkflowHandle[Any, Any]) -> None:
            worker = stage.worker(HELD, "hold", by=(side, proxy.port))
            await worker.until_reached()
            proxy.silence()
            worker.go()
            await asyncio.sleep(6)
            if abort:
                await stage.scene.order(handle, "abort")
                outcome, _ = await stage.ended(handle, 60)
                assert outcome == "aborted"
                # A real network's silence ends by keepalives within 11 s (M6); this machine's kernel answers them.
                proxy.cut()
            else:
                proxy.speak()

        return await play(stage, act=fall_silent, wanted="aborted" if abort else "completed")


@pytest.mark.parametrize("side", [pytest.param("source", marks=pytest.mark.slow), "target"])
async def test_a_half_open_connection_that_wakes_up(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    with recorded(f"connections to the {side} silent for 6 s in mid COPY (half-open), then alive", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            case.violations += await half_open(stage, side, abort=False)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["source", "target"])
async def test_an_abort_over_a_half_open_connection(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    must = f"an abort ends within 60 s although the connection never speaks again; {BACK}"
    with recorded(f"connections to the {side} half-open for good in mid COPY, then abort", must) as case:
        async with theatre.stage(tmp_path) as stage:
            case.violations += await half_open(stage, side, abort=True)


@pytest.mark.parametrize("side", [pytest.param("source", marks=pytest.mark.slow), "target"])
async def test_a_black_hole_that_closes(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    fault = f"all bytes to and from the {side} lost for 6 s in mid COPY, on open and new connections (black hole)"
    with recorded(fault, COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.dsn(side)) as proxy:

                async def lose(handle: WorkflowHandle[Any, Any]) -> None:
                    worker = stage.worker(HELD, "hold", by=(side, proxy.port))
                    await worker.until_reached()
                    proxy.swallow()
                    worker.go()
                    await asyncio.sleep(6)
                    proxy.release()

                case.violations += await play(stage, act=lose)
                case.note = f"{proxy.swallowed:,} bytes lost"
                assert proxy.swallowed, "nothing was lost: the case proves nothing"


@pytest.mark.slow
@pytest.mark.parametrize("ways", [frozenset({"there"}), frozenset({"back"}), BOTH_WAYS], ids=["there", "back", "both"])
@pytest.mark.parametrize("side", ["source", "target"])
async def test_an_abort_over_a_black_hole(theatre: Theatre, tmp_path: Path, side: Side, ways: frozenset[Way]) -> None:
    must = f"an abort ends within 60 s although the open connections stay as good as dead; {BACK}"
    with recorded(f"bytes to or from the {side} lost for good in mid COPY (black hole), then abort", must) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.dsn(side)) as proxy:

                async def lose(handle: WorkflowHandle[Any, Any]) -> None:
                    worker = stage.worker(HELD, "hold", by=(side, proxy.port))
                    await worker.until_reached()
                    proxy.swallow(ways, new_ones=False)
                    worker.go()
                    await asyncio.sleep(2)
                    await stage.scene.order(handle, "abort")
                    outcome, _ = await stage.ended(handle, 60)
                    assert outcome == "aborted"
                    proxy.release()

                case.violations += await play(stage, act=lose, wanted="aborted")
                case.note = f"lost on the way {' and '.join(sorted(ways))}"
                assert proxy.swallowed, "nothing was lost: the case proves nothing"


async def test_a_reset_just_after_each_commit_went_through(theatre: Theatre, tmp_path: Path) -> None:
    must = "the ledger is asked, nothing is guessed; each partition once"
    with recorded("connection reset just after COMMIT was forwarded", must) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.scene.target_dsn, resets_left=1000) as proxy:

                async def start(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker(by=("target", proxy.port))

                case.violations += await play(stage, act=start)
                case.tried = proxy.resets_done
                case.note = f"{proxy.resets_done} ambiguous commits"
                if not proxy.resets_done:
                    case.violations.append("no commit was reset: the case proves nothing")


@pytest.mark.parametrize("side", ["source", pytest.param("target", marks=pytest.mark.slow)])
async def test_backends_are_terminated_in_mid_copy(theatre: Theatre, tmp_path: Path, side: Side) -> None:
    with recorded(f"pg_terminate_backend of the {side}'s backends in mid COPY", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            dsn = stage.dsn(side)

            async def end_backends(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker(HELD, "hold")
                await worker.until_reached()
                ended = await oracle.column(dsn, COPYING)
                case.note = f"{len(ended)} backends ended"
                assert ended, "nothing was copying: the case proves nothing"
                worker.go()

            case.violations += await play(stage, act=end_backends)


@pytest.mark.slow
async def test_backends_are_terminated_at_random_all_the_time(theatre: Theatre, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**31)
    chance = random.Random(seed)
    anyone = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'knarr%'"
    with recorded("pg_terminate_backend of any backend of the run, at random", COMPLETE, seed=seed) as case:
        async with theatre.stage(tmp_path) as stage:

            async def end_backends(handle: WorkflowHandle[Any, Any]) -> None:
                stage.worker()
                ended = 0
                while ended < 40 and await stage.running(handle):
                    dsn = chance.choice([stage.scene.source_dsn, stage.scene.target_dsn])
                    if pids := await oracle.column(dsn, anyone):
                        await oracle.one_value(dsn, f"SELECT pg_terminate_backend({chance.choice(pids)})")
                        ended += 1
                    await asyncio.sleep(chance.uniform(0.0, 0.4))
                case.tried = ended

            case.violations += await play(stage, act=end_backends)


async def test_no_connection_is_to_be_had_for_a_while(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("the target's connection slots exhausted for 5 s in mid run", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:

            async def fill(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker("before build_keys", "hold")
                await worker.until_reached()
                # The worker's connections go, and others take their seats.
                await oracle.column(
                    stage.scene.target_dsn,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'knarr%'",
                )
                taken: list[asyncpg.Connection[asyncpg.Record]] = []
                try:
                    while len(taken) < 60:
                        taken.append(await asyncpg.connect(stage.scene.target_dsn))
                except TOO_MANY:
                    case.note = f"{len(taken)} seats taken"
                assert len(taken) < 60, "the server never refused: the case proves nothing"
                worker.go()
                await asyncio.sleep(5)
                for connection in taken:
                    await connection.close()

            case.violations += await play(stage, act=fill)


@pytest.mark.slow
async def test_a_worker_can_reach_neither_database_at_first(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("target refuses every connection for 3 s from the start", COMPLETE) as case:
        async with theatre.stage(tmp_path) as stage:
            with Proxy(stage.scene.target_dsn, refusing=True) as proxy:

                async def refuse(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker(by=("target", proxy.port))
                    await asyncio.sleep(3)
                    proxy.refusing = False

                case.violations += await play(stage, act=refuse, plan=PLAN)
