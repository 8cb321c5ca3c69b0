"""A worker is killed at every boundary of every step, forward and back; the run ends as if it never had been."""

import asyncio
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.faults import oracle
from tests.faults.record import LONG, Case, recorded
from tests.faults.shop import KEPT_OPEN, PLAN
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
SHORT: Final = [
    Kill("after claim_target"),
    Kill("before create_tables"),
    Kill("in the middle of COPY", 2),
    Kill("audited copy", 2),
    Kill("after COMMIT", 2),
    Kill("audited step build"),
    Kill("after conclude_verification"),
    Kill("after raise_epoch", 1, "aborted"),
    Kill("audited remove", 1, "aborted"),
    Kill("audited drop", 5, "aborted"),
    Kill("after release_target", 1, "aborted"),
]


async def killed_once(stage: Stage, kill: Kill) -> list[str]:
    """A run whose worker dies at the place; another worker follows at once."""
    handle = await stage.scene.start(PLAN if kill.wanted == "completed" else KEPT_OPEN)
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
    return await stage.judge(outcome, kill.wanted)


async def test_a_worker_killed_at_any_boundary_changes_nothing(theatre: Theatre, tmp_path: Path) -> None:
    seats = asyncio.Semaphore(AT_ONCE)
    failed: list[str] = []

    async def one(kill: Kill) -> None:
        way = "forward" if kill.wanted == "completed" else "undoing"
        async with seats:
            try:
                with recorded(f"worker SIGKILL, {way}", MUST) as case:
                    case.note = f"{kill.place}, {kill.which}"
                    async with theatre.stage(tmp_path) as stage:
                        case.violations += await killed_once(stage, kill)
            except Exception as error:
                failed.append(f"{kill}: {type(error).__name__}: {error}")

    await asyncio.gather(*[one(kill) for kill in (EVERY if LONG else SHORT)])
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
