"""Where a rollback of a run can stop, as an operator reads it: names, and the command that takes something back."""

import shlex
from collections.abc import Sequence
from typing import Final

from workflows.messages import Progress

SHOWN: Final = 8
LAST_MAPPINGS: Final = 3  # shown of more than that


def knows_its_mappings(progress: Progress) -> bool:
    """Whether the names of its checkpoints hold: right after continuing as new a run knows its mappings by number."""
    return bool(progress.mappings) or not any("/" in name for name in progress.status.checkpoints)


def stops(progress: Progress) -> str:
    """The lines for `knarr status`; empty where there is no checkpoint, or where going back can't be asked for."""
    status = progress.status
    if not status.checkpoints or status.state == "unwinding":
        return ""
    if not knows_its_mappings(progress):
        return "checkpoints: the run is still recalling what its mappings are called; look again in a moment"
    # Nothing came after the newest when the run was taken back to it, nor when it is kept open.
    stands_at_newest = status.state in {"at checkpoint", "kept open"}
    to = "start" if stands_at_newest else status.checkpoints[-1]
    command = shlex.join(["knarr", "rollback", status.run_id, "--to", to])
    lead = "take everything back" if stands_at_newest else "back to the newest"
    return f"checkpoints: {_listed(status.checkpoints, status.run_id)}\n  {lead}: {command} --reason ..."


def _listed(names: Sequence[str], run_id: str) -> str:
    if len(names) <= SHOWN:
        return ", ".join(names)
    mappings = [name for name in names if "/" in name]  # which no phase's name has
    shown = mappings[-LAST_MAPPINGS:]
    left_out = len(mappings) - len(shown)
    words = ", ".join(name for name in names if name in shown or "/" not in name)
    return words + (f" and {left_out:,} more (knarr status {run_id} --json)" if left_out else "")
