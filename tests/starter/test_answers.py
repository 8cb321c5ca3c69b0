"""`knarr retry` and `knarr skip` answer the stop that they have shown, or the one that is named."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from knarr.local.temporal import TemporalServer
from starter import foreseen, ordering
from starter.exits import Exit
from starter.failures import StarterError
from starter.runs import RunHandle
from tests.endtoend.command import Knarr
from tests.saga.scene import connect
from tests.starter.test_ordering import continued
from workflows.messages import AnswerOrder, Order, Status, Turn

BACK: Final = Turn(kind="rollback", to="canary", actor="tester", reason="a test says so")
PROBLEM: Final = "can't go back to checkpoint canary: no survey is stored here"


async def status_at(handle: RunHandle, stop: int) -> Status:
    """The run's status once it waits at that stop."""
    async with asyncio.timeout(20):
        while True:
            status: Status = await handle.query("status", result_type=Status)
            if status.stop == stop:
                return status
            await asyncio.sleep(0.05)


async def test_the_stop_is_filled_in_from_what_has_been_shown_and_another_is_refused(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    knarr = Knarr(tmp_path, {}, {"TEMPORAL_ADDRESS": temporal.address})
    async with continued(await connect(temporal.address), asyncio.Event(), turn=BACK, stops=3) as handle:
        waiting = await status_at(handle, 4)
        assert waiting.waiting_for == f"`knarr retry {handle.id} --stop 4 --reason ...`"
        retried = await asyncio.to_thread(knarr.document, "retry", handle.id, "--reason", "it is back")
        await status_at(handle, 5)
        shown = await asyncio.to_thread(knarr, "retry", handle.id, "--reason", "it is back now")
        await status_at(handle, 6)
        late = await asyncio.to_thread(knarr, "retry", handle.id, "--reason", "it is back", "--stop", "4")
        skipped = await asyncio.to_thread(knarr, "skip", handle.id, "--reason", "do without", "--yes")
        named = await asyncio.to_thread(knarr, "retry", handle.id, "--reason", "it is back", "--stop", "6")
    assert retried["stop"] == 4
    assert retried["message"] == f"trying again (stop 4: {PROBLEM})"
    assert f"{handle.id} waits at stop 5: {PROBLEM}" in shown.stderr
    assert shown.stdout.strip() == f"{handle.id}: trying again (stop 5: {PROBLEM})"
    assert late.returncode == Exit.REFUSED
    assert f"retry is refused: it answers stop 4, and the run is at stop 6: {PROBLEM}" in late.stderr
    assert skipped.returncode == Exit.REFUSED
    assert "skip is refused: stop 6 can't be skipped: without the names of its mappings" in skipped.stderr
    assert named.returncode == 0, named.stderr


async def test_an_answer_without_a_number_is_taken_while_there_is_none(temporal: TemporalServer) -> None:
    async with continued(await connect(temporal.address), asyncio.Event(), turn=BACK) as handle:
        await status_at(handle, 1)
        # As an older client gives it, which knows no numbers.
        told = await ordering.give(handle, "retry", Order(actor="tester", reason="it is back"))
        assert told.message.startswith("trying again (stop 1: ")
        await status_at(handle, 2)
        with pytest.raises(StarterError, match="it answers stop 1, and the run is at stop 2") as refused:
            await ordering.give(handle, "retry", AnswerOrder(actor="tester", reason="it is back", stop=1))
    assert refused.value.exit_code is Exit.REFUSED


async def test_a_run_that_waits_for_nobody_is_given_no_answer(temporal: TemporalServer) -> None:
    async with continued(await connect(temporal.address), asyncio.Event(), paused=True) as handle:
        with pytest.raises(StarterError, match="it does not wait for a person") as refused:
            await foreseen.waits_with(handle, "retry")
    assert refused.value.exit_code is Exit.REFUSED


async def test_no_answer_is_given_to_what_nobody_can_name(
    temporal: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreseen, "ANSWER_WITHIN", timedelta(seconds=2))
    client = await connect(temporal.address)
    handle: RunHandle = await client.start_workflow(
        "Migration", id="shop-v2/unattended", task_queue="unattended", result_type=Status
    )
    with pytest.raises(StarterError, match="no worker says what the run waits with, so skip was not given") as refused:
        await foreseen.waits_with(handle, "skip")
    assert refused.value.exit_code is Exit.UNREACHABLE
    await handle.terminate("the test is over")
