"""Stored histories of every workflow replay on today's code; a change that breaks a run under way fails here."""

import gzip
import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory

from tests.saga.scene import replayer

pytestmark = pytest.mark.replay

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json.gz"))


def history(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.name.removesuffix(".json.gz"))
async def test_a_stored_history_replays(path: Path) -> None:
    stored = history(path)
    started = json.loads(stored)["events"][0]["workflowExecutionStartedEventAttributes"]
    # The id matters: children's ids begin with it.
    await replayer().replay_workflow(WorkflowHistory.from_json(started["workflowId"], stored))


def test_every_workflow_and_every_way_to_end_is_stored() -> None:
    types = {path.name.split(".")[2] for path in HISTORIES}
    assert types == {"Migration", "MoveMapping", "VerifyPhase"}
    texts = [history(path) for path in HISTORIES if ".Migration." in path.name]
    for ending in ("COMPLETED", "FAILED", "CANCELED", "CONTINUED_AS_NEW"):
        assert any(f"WORKFLOW_EXECUTION_{ending}" in text for text in texts), ending
