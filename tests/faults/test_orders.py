"""Many starts at once, and storms of orders: one winner, and every order applied or refused, none lost."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from tests.faults import oracle
from tests.faults.record import LONG, recorded
from tests.faults.shop import PLAN
from tests.faults.stage import Stage, Theatre
from tests.faults.test_kills import FORWARD
from tests.saga.scene import replayer
from workflows.messages import REFUSED, Order, RollbackOrder

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

STARTS: Final = 20
MESSAGES: Final = 400 if LONG else 60
TRAIL: Final = "SELECT body FROM knarr.audit WHERE kind IN ('operator', 'decision') ORDER BY position"


async def test_twenty_starts_at_once_have_one_winner(theatre: Theatre, tmp_path: Path) -> None:
    must = "one claim; nineteen are refused with the holder's name and write nothing"
    with recorded("20 runs start at once on the same tables", must) as case:
        async with theatre.stage(tmp_path) as stage:
            ids = [f"{stage.run_id}/{number}" for number in range(STARTS)]
            handles = await asyncio.gather(
                *[stage.scene.start(PLAN, run_id=run_id, pause_before=["copy"]) for run_id in ids]
            )
            stage.worker()
            stage.worker()
            refused: dict[str, str] = {}
            async with asyncio.timeout(120):
                while len(refused) < STARTS - 1:
                    for run_id, handle in zip(ids, handles, strict=True):
                        if run_id not in refused and not await stage.running(handle):
                            outcome, message = await stage.ended(handle)
                            assert outcome == "ClaimRefused", (outcome, message)
                            refused[run_id] = message
                    await asyncio.sleep(0.1)
            [winner] = set(ids) - set(refused)
            case.violations += [f"no holder's name: {text}" for text in refused.values() if winner not in text]
            handle = handles[ids.index(winner)]
            await stage.scene.until(handle, "paused")
            await stage.scene.order(handle, "resume")
            outcome, _ = await stage.ended(handle)
            case.violations += await stage.judge(outcome, "completed", run_id=winner)


@pytest.mark.slow
async def test_one_run_id_can_be_started_once(theatre: Theatre, tmp_path: Path) -> None:
    with recorded("20 starts at once with the same run id", "one runs, the others are told so") as case:
        async with theatre.stage(tmp_path) as stage:
            starts = [stage.scene.start(PLAN) for _ in range(STARTS)]
            results = await asyncio.gather(*starts, return_exceptions=True)
            kinds = Counter(type(result) for result in results)
            if kinds[WorkflowAlreadyStartedError] != STARTS - 1:
                case.violations.append(f"started: {kinds}")
            stage.worker()
            [handle] = [result for result in results if isinstance(result, WorkflowHandle)]
            outcome, _ = await stage.ended(handle)
            case.violations += await stage.judge(outcome, "completed")


async def say(handle: WorkflowHandle[Any, Any], action: str, reason: str, *, update: bool) -> str:
    """Gives one order; returns `accepted`, `refused`, or `sent` for a signal, whose answer is in the trail."""
    order = Order(actor="storm", reason=reason)
    if action == "rollback":
        order = RollbackOrder(actor="storm", reason=reason, to="start")
    if not update:
        await handle.signal(action, order)
        return "sent"
    try:
        await handle.execute_update(action, order, id=reason.replace(" ", "-"))
    except WorkflowUpdateFailedError as failed:
        refused = isinstance(failed.cause, ApplicationError) and failed.cause.type == REFUSED
        return "refused" if refused else f"lost: {failed.cause}"
    return "accepted"


async def storm(handle: WorkflowHandle[Any, Any], chance: random.Random) -> dict[str, tuple[str, str]]:
    """Orders from five people at once, sensible or not; returns what each was told, by the order's reason."""
    told: dict[str, tuple[str, str]] = {}
    todo = iter(range(MESSAGES))

    async def person() -> None:
        for number in todo:
            update = chance.random() < 0.6
            known = ["pause", "resume", "approve", "complete", "retry", "skip"] if update else ["pause", "resume"]
            action = chance.choice([*known, "pause", "resume"])
            reason = f"message {number} {action}"
            try:
                told[reason] = (action, await say(handle, action, reason, update=update))
            except RPCError as error:
                told[reason] = (action, "limited" if "limit" in str(error).lower() else f"lost: {error}")

    await asyncio.gather(*[person() for _ in range(5)])
    return told


async def weathered(stage: Stage, told: dict[str, tuple[str, str]]) -> list[str]:
    """Holds what people were told against the trail, and the trail against a model of one switch."""
    entries = [json.loads(body) for body in await oracle.column(stage.scene.target_dsn, TRAIL)]
    by_reason = {entry["reason"]: entry for entry in entries if entry.get("actor") == "storm"}
    found, paused = [], False
    for reason, (_, answer) in told.items():
        entry = by_reason.get(reason)
        if answer == "accepted" and (entry is None or not entry["accepted"]):
            found.append(f"accepted and not in the trail: {reason}")
        if answer == "refused" and entry is not None and entry["accepted"]:
            found.append(f"refused and yet applied: {reason}")
        if answer == "sent" and entry is None:
            found.append(f"sent and lost: {reason}")
        if answer.startswith("lost"):
            found.append(f"{reason}: {answer}")
    for entry in entries:
        if entry.get("action") not in ("pause", "resume") or not entry["accepted"]:
            continue
        # Where a run was asked at its start to pause, it pauses whether somebody has paused it already or not.
        if (entry["action"] == "pause") == paused and entry["actor"] == "storm":
            found.append(f"{entry['action']} applied although paused is {paused}: {entry['reason']}")
        paused = entry["action"] == "pause"
    return found


@pytest.mark.parametrize("ending", ["completed", pytest.param("aborted", marks=pytest.mark.slow)])
async def test_a_storm_of_orders(theatre: Theatre, tmp_path: Path, ending: oracle.Outcome) -> None:
    seed = random.SystemRandom().randrange(2**31)
    must = "each is applied or refused with a reason, none is lost; the run ends as the last order says"
    with recorded("storm of pause, resume, approve, complete, retry, skip", must, seed=seed) as case:
        case.tried = MESSAGES
        case.note = f"{MESSAGES} orders by 5 people at once, run {ending}"
        async with theatre.stage(tmp_path) as stage:
            handle = await stage.scene.start(PLAN, pause_before=["copy"])
            stage.worker()
            await stage.scene.until_shown(handle, "paused")
            # Whoever resumes lets it go on; it must not have ended before the storm.
            other = await asyncpg.connect(stage.scene.target_dsn)
            async with other.transaction():
                await other.execute("LOCK TABLE shop.note IN ACCESS EXCLUSIVE MODE")
                told = await storm(handle, random.Random(seed))
            await other.close()
            if ending == "aborted":
                await say(handle, "abort", "the end", update=False)
            while await stage.running(handle):
                status = await stage.scene.until(handle, "paused", "completed", "aborted", "running", "unwinding")
                if status.state == "paused":
                    await say(handle, "resume", "the storm is over", update=False)
                await asyncio.sleep(0.2)
            outcome, _ = await stage.ended(handle)
            for worker in stage.workers:
                worker.kill()
            case.violations += await weathered(stage, told)
            case.violations += await stage.judge(outcome, ending)


GATES: Final = ["claim", "survey", "create", "copy", "next mapping", "build", "foreign keys", "verify", "seal"]
# How the last order ends the run.
FINALLY: Final[dict[oracle.Outcome, str]] = {"completed": "resume", "aborted": "abort", "rolled back": "rollback"}


@pytest.mark.parametrize(
    "ending", ["aborted", *(pytest.param(one, marks=pytest.mark.slow) for one in FINALLY for _ in range(5))]
)
async def test_each_order_is_the_first_thing_that_a_new_worker_hears(
    theatre: Theatre, tmp_path: Path, ending: oracle.Outcome
) -> None:
    seed = random.SystemRandom().randrange(2**31)
    must = "each is carried out, and the run replays from its history, event for event"
    with recorded("worker SIGKILLed while the run is paused, an order, the next worker", must, seed=seed) as case:
        chance = random.Random(seed)
        last = len(GATES) if ending == "completed" else chance.randint(5, len(GATES)) if LONG else 5
        case.note = f"resumed at {last - 1} gates, then {ending}"
        async with theatre.stage(tmp_path) as stage:
            handle = await stage.scene.start(PLAN, pause_before=[*GATES])
            worker = stage.worker()
            for number in range(1, last + 1):
                await stage.scene.until_shown(handle, "paused")
                await asyncio.sleep(chance.random() * 0.4)
                worker.kill()
                action = FINALLY[ending] if number == last else "resume"
                given = asyncio.create_task(say(handle, action, f"order {number}", update=True))
                worker = stage.worker()
                if await given != "accepted":
                    case.violations.append(f"{action} at gate {number} was refused")
            outcome, _ = await stage.ended(handle)
            case.violations += await replayed(stage)
            case.violations += await stage.judge(outcome, ending)


async def replayed(stage: Stage) -> list[str]:
    """Which of the run's workflows do not replay."""
    found = []
    async for each in stage.scene.client.list_workflows(f'TaskQueue = "{stage.scene.task_queue}"'):
        history = await stage.scene.client.get_workflow_handle(each.id, run_id=each.run_id).fetch_history()
        result = await replayer().replay_workflow(history, raise_on_replay_failure=False)
        if result.replay_failure:
            found.append(f"{each.id} does not replay: {result.replay_failure}")
    return found


REPORTED_LATE: Final = [
    "after claim_target",
    "after survey_databases",
    "after create_tables",
    "after copy_partitions",
    "after build_keys",
    "after verify_partitions",
    "after conclude_verification",
    "after record_checkpoint",
]


@pytest.mark.parametrize(
    "place",
    [pytest.param(one, marks=() if number == 0 else pytest.mark.slow) for number, one in enumerate(REPORTED_LATE)],
)
async def test_an_abort_comes_when_a_step_is_done_and_not_yet_reported(
    theatre: Theatre, tmp_path: Path, place: str
) -> None:
    must = "no further step forward is begun; the target equals its dump before"
    with recorded("abort when a step is done and its result is on the way", must) as case:
        case.note = place
        async with theatre.stage(tmp_path) as stage:
            handle = await stage.scene.start(PLAN)
            worker = stage.worker(place, "hold")
            await worker.until_reached()
            await stage.scene.order(handle, "abort")
            worker.go()
            outcome, _ = await stage.ended(handle, 40)
            begun = await begun_after_the_abort(handle)
            case.violations += [f"begun after the abort: {begun}"] if begun else []
            case.violations += await stage.judge(outcome, "aborted")


async def begun_after_the_abort(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """Names of the steps forward that the run's history has after the abort was answered."""
    begun: list[str] = []
    accepted, aborted = 0, False
    async for event in handle.fetch_history_events():
        if event.workflow_execution_update_accepted_event_attributes.accepted_request.input.name == "abort":
            accepted = event.event_id
        answered = event.workflow_execution_update_completed_event_attributes.accepted_event_id
        aborted = aborted or (bool(answered) and answered == accepted)
        scheduled = event.activity_task_scheduled_event_attributes.activity_type.name
        started = event.start_child_workflow_execution_initiated_event_attributes.workflow_type.name
        if aborted and (started or scheduled in FORWARD):
            begun.append(started or scheduled)
    return begun
