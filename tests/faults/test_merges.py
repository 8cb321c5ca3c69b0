"""A run that merges into a target with rows, and is taken back, while workers, servers and connections die."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import WorkflowHandle

from knarr.local.cluster import RestartMode
from tests.faults import occupied, oracle
from tests.faults.proxy import Proxy
from tests.faults.record import LONG, recorded
from tests.faults.shop import KEEPING
from tests.faults.stage import Side, Stage, Theatre, play
from tests.faults.test_kills import Kill, killed_at_each, killed_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SLOW: Final = pytest.mark.slow
KEPT_OPEN: Final = occupied.PLAN | KEEPING
COMPLETE: Final = "the run goes on by itself; each row merged once, other people's rows as they were"
BACK: Final = "each change is taken back once; the target equals its dump before"

KILLS: Final = [
    Kill("after create_tables"),
    Kill("ledger row entered", 2),
    Kill("in the middle of COPY", 2),
    Kill("rows staged", 1),
    Kill("rows staged", 3),
    Kill("rows merged", 1),
    Kill("rows merged", 3),
    Kill("audited copy", 2),
    Kill("after COMMIT", 1),
    Kill("after COMMIT", 3),
    Kill("after copy_partitions", 2),
    Kill("before drop_undo_log"),
    Kill("after drop_undo_log"),
    Kill("before remove_rows", 2, "aborted"),
    Kill("undo batch begun", 1, "aborted"),
    Kill("undo batch begun", 4, "aborted"),
    Kill("undo batch planned", 2, "aborted"),
    Kill("undo batch planned", 6, "aborted"),
    Kill("undo batch done", 1, "aborted"),
    Kill("undo batch done", 3, "aborted"),
    Kill("undo batch done", 8, "aborted"),
    Kill("undo log empty", 1, "aborted"),
    Kill("undo log empty", 3, "aborted"),
    Kill("audited remove", 1, "aborted"),
    Kill("audited remove", 2, "aborted"),
    Kill("audited compensation copy", 2, "aborted"),
    Kill("after remove_rows", 1, "aborted"),
    Kill("after reset_sequences", 1, "aborted"),
]
SHORT: Final = [Kill("rows merged", 3), Kill("undo batch done", 3, "aborted")]

# What the run's own transactions on one side are doing; asked for while the worker is held in the middle of one.
END_TRANSACTIONS: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'knarr%' AND xact_start IS NOT NULL
"""
ANYONE: Final = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'knarr%'"
UNDOING: Final = b"pg_temp.knarr_planned"

Act = Callable[[WorkflowHandle[Any, Any]], Coroutine[Any, Any, None]]


@asynccontextmanager
async def occupied_stage(theatre: Theatre, folder: Path) -> AsyncIterator[Stage]:
    """A stage whose target has rows."""
    async with theatre.stage(folder, target=occupied.TARGET, template=False, rows_may_move=True) as stage:
        yield stage


async def merged(stage: Stage, act: Act, wanted: oracle.Outcome) -> list[str]:
    """A merge with `act` in its course; one that is to be aborted is kept open, for `act` to give the order."""
    plan = occupied.PLAN if wanted == "completed" else KEPT_OPEN
    found = await play(stage, plan=plan, wanted=wanted, expected=occupied.EXPECTED, act=act, shop=False)
    return found + await miscounted(stage, wanted)


async def miscounted(stage: Stage, wanted: oracle.Outcome) -> list[str]:
    """What the ledger says was inserted, updated and deleted, where it is not what the two scripts make of it."""
    if wanted != "completed":
        return []
    counts = await oracle.one_value(stage.scene.target_dsn, occupied.CHANGES_SQL, stage.run_id)
    return [] if tuple(counts) == occupied.CHANGES else [f"changes are {occupied.CHANGES}, the ledger says {counts}"]


async def test_a_worker_killed_at_any_moment_of_a_merge_or_its_undoing(theatre: Theatre, tmp_path: Path) -> None:
    def fault(kill: Kill) -> str:
        return f"worker SIGKILL, {'merging' if kill.wanted == 'completed' else 'taking a merge back'}"

    async def play_one(kill: Kill) -> list[str]:
        async with occupied_stage(theatre, tmp_path) as stage:
            found = await killed_once(stage, kill, occupied.PLAN, expected=occupied.EXPECTED, shop=False)
            return found + await miscounted(stage, kill.wanted)

    failed = await killed_at_each(KILLS if LONG else SHORT, fault, play_one)
    assert not failed, "\n".join(failed)


async def hold_while_undoing(stage: Stage, handle: WorkflowHandle[Any, Any], place: str, which: int) -> Any:
    """The whole merge, then the order to abort; returns the worker, held at a place of the undoing."""
    worker = stage.worker(place, "hold", which)
    await stage.scene.until(handle, "kept open")
    await stage.scene.order(handle, "abort")
    await worker.until_reached()
    return worker


@SLOW
@pytest.mark.parametrize("mode", ["immediate", "kill"])
@pytest.mark.parametrize(("place", "which"), [("undo batch planned", 2), ("undo batch done", 3), ("undo log empty", 1)])
async def test_the_target_restarts_while_a_merge_is_taken_back(
    theatre: Theatre, tmp_path: Path, place: str, which: int, mode: RestartMode
) -> None:
    with recorded(f"target restarted while taking a merge back ({mode})", BACK) as case:
        case.note = f"{place}, {which}"
        async with occupied_stage(theatre, tmp_path) as stage:

            async def restart(handle: WorkflowHandle[Any, Any]) -> None:
                worker = await hold_while_undoing(stage, handle, place, which)
                await asyncio.to_thread(theatre.target.restart, mode)
                worker.go()

            case.violations += await merged(stage, restart, "aborted")


@SLOW
@pytest.mark.parametrize("mode", ["immediate", "kill"])
@pytest.mark.parametrize("place", ["rows staged", "rows merged"])
async def test_the_target_restarts_in_mid_merge(
    theatre: Theatre, tmp_path: Path, place: str, mode: RestartMode
) -> None:
    with recorded(f"target restarted in mid merge ({mode})", COMPLETE) as case:
        case.note = place
        async with occupied_stage(theatre, tmp_path) as stage:

            async def restart(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker(place, "hold", 2)
                await worker.until_reached()
                await asyncio.to_thread(theatre.target.restart, mode)
                worker.go()

            case.violations += await merged(stage, restart, "completed")


async def end_transactions(dsn: str) -> str:
    """Ends the backends of the run that are in a transaction; what was done, for the table."""
    ended = await oracle.column(dsn, END_TRANSACTIONS)
    assert ended, "no transaction was open: the case proves nothing"
    return f"{len(ended)} backends"


# The source's part is over once the rows are staged.
IN_MID_MERGE: Final[list[tuple[Side, str]]] = [
    ("source", "in the middle of COPY"),
    ("target", "in the middle of COPY"),
    ("target", "rows staged"),
    ("target", "rows merged"),
]


@SLOW
@pytest.mark.parametrize(("side", "place"), IN_MID_MERGE)
async def test_backends_are_terminated_in_mid_merge(theatre: Theatre, tmp_path: Path, side: Side, place: str) -> None:
    with recorded(f"pg_terminate_backend of the {side}'s backends in mid merge", COMPLETE) as case:
        async with occupied_stage(theatre, tmp_path) as stage:

            async def end_backends(handle: WorkflowHandle[Any, Any]) -> None:
                worker = stage.worker(place, "hold", 2)
                await worker.until_reached()
                case.note = f"{place}: {await end_transactions(stage.dsn(side))}"
                worker.go()

            case.violations += await merged(stage, end_backends, "completed")


@SLOW
@pytest.mark.parametrize(("place", "which"), [("undo batch planned", 1), ("undo batch done", 4), ("audited remove", 2)])
async def test_backends_are_terminated_while_a_merge_is_taken_back(
    theatre: Theatre, tmp_path: Path, place: str, which: int
) -> None:
    with recorded("pg_terminate_backend while taking a merge back", BACK) as case:
        async with occupied_stage(theatre, tmp_path) as stage:

            async def end_backends(handle: WorkflowHandle[Any, Any]) -> None:
                worker = await hold_while_undoing(stage, handle, place, which)
                case.note = f"{place}, {which}: {await end_transactions(stage.scene.target_dsn)}"
                worker.go()

            case.violations += await merged(stage, end_backends, "aborted")


@SLOW
async def test_backends_are_terminated_at_random_through_a_merge_and_its_undoing(
    theatre: Theatre, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**31)
    chance = random.Random(seed)
    fault = "pg_terminate_backend of any backend at random, through a merge and its undoing"
    with recorded(fault, BACK, seed=seed) as case:
        async with occupied_stage(theatre, tmp_path) as stage:

            async def shoot(handle: WorkflowHandle[Any, Any]) -> None:
                case.tried = 0
                while await stage.running(handle):
                    dsn = chance.choice([stage.scene.source_dsn, stage.scene.target_dsn, stage.scene.target_dsn])
                    if case.tried < 40 and (pids := await oracle.column(dsn, ANYONE)):
                        await oracle.one_value(dsn, f"SELECT pg_terminate_backend({chance.choice(pids)})")
                        case.tried += 1
                    await asyncio.sleep(chance.uniform(0.0, 0.4))

            async def abort(handle: WorkflowHandle[Any, Any]) -> None:
                stage.worker()
                shooting = asyncio.create_task(shoot(handle))
                await stage.scene.until(handle, "kept open")
                await stage.scene.order(handle, "abort")
                await shooting

            case.violations += await merged(stage, abort, "aborted")


@SLOW
async def test_a_reset_just_after_each_commit_of_a_merge(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("connection reset just after the COMMIT of a merge was forwarded", COMPLETE) as case:
        async with occupied_stage(theatre, tmp_path) as stage:
            with Proxy(stage.scene.target_dsn, resets_left=1000) as proxy:

                async def start(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker(by=("target", proxy.port))

                case.violations += await merged(stage, start, "completed")
                case.tried, case.note = proxy.resets_done, f"{proxy.resets_done} ambiguous commits"
                assert proxy.resets_done, "no commit was reset: the case proves nothing"


@SLOW
async def test_a_reset_just_after_each_commit_of_the_undoing(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("connection reset just after the COMMIT of an undo batch was forwarded", BACK) as case:
        async with occupied_stage(theatre, tmp_path) as stage:
            # Not more than a compensation has attempts: after those it asks a person.
            with Proxy(stage.scene.target_dsn, resets_left=5, resets_after=UNDOING) as proxy:

                async def abort(handle: WorkflowHandle[Any, Any]) -> None:
                    stage.worker(by=("target", proxy.port))
                    await stage.scene.until(handle, "kept open")
                    await stage.scene.order(handle, "abort")

                case.violations += await merged(stage, abort, "aborted")
                case.tried, case.note = proxy.resets_done, f"{proxy.resets_done} ambiguous commits"
                assert proxy.resets_done, "no commit was reset: the case proves nothing"
