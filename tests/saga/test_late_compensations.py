"""A compensation that wakes late, when the run has long gone forward again from a checkpoint, takes nothing back."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.copy import remove_rows
from activities.models import CompensationInput
from knarr.postgres.session import Pools
from knarr.settings import Connections
from tests.saga.scene import Scene
from tests.saga.test_checkpoints import PHASED
from workflows.messages import RollbackOrder

pytestmark = pytest.mark.saga

KEPT = PHASED | {"rollback": {"keep_for": "7d"}}


async def test_a_compensation_of_before_the_checkpoint_takes_nothing_back_after_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene.worker():
        handle = await scene.start(KEPT)
        await scene.until(handle, "kept open")
        await handle.execute_update("rollback", RollbackOrder(actor="tester", reason="back", to="canary"))
        await scene.until(handle, "at checkpoint")
        await scene.order(handle, "resume")
        await scene.until(handle, "kept open")
        late: list[CompensationInput] = []
        async for event in handle.fetch_history_events():
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == "remove_rows":
                late += await scene.client.data_converter.decode(list(scheduled.input.payloads), [CompensationInput])
    assert [item.phase for item in late] == ["everyone", "everyone"]

    aliases = {"legacy": SecretStr(scene.source_dsn), "shop": SecretStr(scene.target_dsn)}
    pools = Pools(Connections(aliases, Path("knarr.toml")), application_name="late")
    monkeypatch.setattr("activities.context._pools", pools)
    try:
        for item in late:
            with pytest.raises(ApplicationError, match="lost lease"):
                await ActivityEnvironment().run(remove_rows, item)
    finally:
        await pools.close()
    assert await scene.in_target('SELECT count(*) FROM shop."order"') == 20_000
