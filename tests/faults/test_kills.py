"""A worker is killed at every boundary of every step, forward and back; the run ends as if it never had been."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.faults import oracle
from tests.faults.record import LONG, Case, recorded
from tests.faults.shop import KEEPING, PLAN
from tests.faults.stage import Stage, Theatre

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

AT_ONCE: Final = 4
MUST: Final = "the run ends as without the kill; the target complete and equal, or equal to its dump before"


class Kill(NamedTuple):
    """One place, the n-th passing of it, and how the run ends."""

    place: str
    which: int = 1
    wanted: oracle.Outcome = "completed"


FORWARD: Final = [
    "claim_target",
    "survey_databases",
    "create_tables",
    "copy_partitions",
    "build_keys",
    "set_sequences",
    "add_foreign_keys",
    "verify_partitions",
    "verify_integrity",
    "verify_rules",
    "verify_cross_check",
    "conclude_verification",
    "record_proofs",
    "record_checkpoint",
    "seal_run",
    "end_run",
]
BACK: Final = [
    "raise_epoch",
    "unseal_run",
    "remove_checkpoint",
    "withdraw_verdict",
    "drop_foreign_keys",
    "reset_sequences",
    "drop_keys",
    "remove_rows",
    "drop_tables",
    "discard_survey",
    "release_target",
    "request_cancel",
    "record_decision",
]
WITHIN: Final = [
    Kill("audited claim"),
    Kill("audited step survey"),
    Kill("audited create", 3),
    Kill("fence passed", 2),
    Kill("ledger row entered", 2),
    Kill("in the middle of COPY", 2),
    Kill("audited copy", 2),
    Kill("after COMMIT", 2),
    Kill("sequence remembered"),
    Kill("audited step build"),
    Kill("audited step seal"),
    Kill("audited release"),
    Kill("audited raise", 1, "aborted"),
    Kill("audited drop", 1, "aborted"),
    Kill("audited drop", 5, "aborted"),
    Kill("audited remove", 1, "aborted"),
    Kill("audited remove", 2, "aborted"),
    Kill("audited compensation sequences", 1, "aborted"),
    Kill("audited compensation copy", 2, "aborted"),
    Kill("audited release", 1, "aborted"),
]
EVERY: Final = [
    *[Kill(f"{when} {name}") for name in FORWARD for when in ("before", "after")],
    *[Kill(f"{when} {name}", 2) for name in ("copy_partitions", "build_keys") for when in ("before", "after")],
    *[Kill(f"{when} {name}", 1, "aborted") for name in BACK for when in ("before", "after")],
    *[Kill(f"{when} {name}", 2, "aborted") for name in ("remove_rows", "drop_keys") for when in ("before", "after")],
    *WITHIN,
]
# As many as run at once; a merge's two are in test_merges.
SHORT: Final = [
    Kill("in the middle of COPY", 2),
    Kill("after COMMIT", 2),
    Kill("after raise_epoch", 1, "aborted"),
    Kill("audited remove", 1, "aborted"),
]


async def killed_once(stage: Stage, kill: Kill, plan: dict[str, Any] = PLAN, **judged: Any) -> list[str]:
    """A run whose worker dies at the place; another worker follows at once."""
    handle = await stage.scene.start(plan if kill.wanted == "completed" else plan | KEEPING)
    worker = stage.worker(kill.place, "kill", kill.which)
    if kill.wanted == "aborted":
        await stage.scene.until(handle, "kept open")
        await stage.scene.order(handle, "abort")
    while worker.alive and await stage.running(handle):
        await asyncio.sleep(0.05)
    if not worker.reached:
        return [f"the worker never came to {kill.place!r}: the case proves nothing"]
    stage.worker()
    outcome, _ = await stage.ended(handle)
    return await stage.judge(outcome, kill.wanted, **judged)


async def killed_at_each(
    kills: Sequence[Kill], fault: Callable[[Kill], str], play_one: Callable[[Kill], Awaitable[list[str]]]
) -> list[str]:
    """A case for each place, several at once, each recorded; tells of those that did not hold."""
    seats = asyncio.Semaphore(AT_ONCE)
    failed: list[str] = []

    async def one(kill: Kill) -> None:
        async with seats:
            try:
                with recorded(fault(kill), MUST) as case:
                    case.note = f"{kill.place}, {kill.which}"
                    case.violations += await play_one(kill)
            except Exception as error:
                failed.append(f"{kill}: {type(error).__name__}: {error}")

    await asyncio.gather(*[one(kill) for kill in kills])
    return failed


async def test_a_worker_killed_at_any_boundary_changes_nothing(theatre: Theatre, tmp_path: Path) -> None:
    def fault(kill: Kill) -> str:
        return f"worker SIGKILL, {'forward' if kill.wanted == 'completed' else 'undoing'}"

    async def play_one(kill: Kill) -> list[str]:
        async with theatre.stage(tmp_path) as stage:
            return await killed_once(stage, kill)

    failed = await killed_at_each(EVERY if LONG else SHORT, fault, play_one)
    assert not failed, "\n".join(failed)


async def test_two_workers_share_a_run_and_one_of_them_dies(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("two workers, one killed in mid COPY", MUST) as case:
        async with theatre.stage(tmp_path) as stage:
            case.violations += await shared(stage, case)


async def shared(stage: Stage, case: Case) -> list[str]:
    """Two workers from the start; the first dies in the middle of a COPY."""
    handle = await stage.scene.start(PLAN)
    first = stage.worker("in the middle of COPY", "kill")
    stage.worker()
    outcome, _ = await stage.ended(handle)
    case.note = "the killed one had work" if first.reached else "the other did all the work"
    return await stage.judge(outcome, "completed")
