"""What a run would make of an order, found out before the order is given and before anybody is asked to confirm it."""

from temporalio.client import WorkflowQueryFailedError
from temporalio.service import RPCError

from starter.exits import Exit
from starter.failures import StarterError
from starter.ordering import ANSWER_WITHIN
from starter.runs import RunHandle
from workflows.controls import how_far
from workflows.messages import RollbackOrder, Status


async def destination(handle: RunHandle, to: str) -> str:
    """Where a rollback leads, as the run is now; what was asked for when no worker tells.

    Args:
        to: a checkpoint, start, or empty for what the run takes that to mean.

    Raises:
        StarterError: exit 5, the run stands there already: nothing would be taken back.
    """
    try:
        status = await handle.query("status", result_type=Status, rpc_timeout=ANSWER_WITHIN)
    except (WorkflowQueryFailedError, RPCError):
        return to  # the order itself says what is wrong; unnamed, the run decides
    return leads_to(status, to)


def leads_to(status: Status, to: str) -> str:
    """Where a rollback leads from where the run stands. Arguments and errors: as `destination`."""
    where = how_far(RollbackOrder(actor="-", to=to), status.state, status.checkpoints)
    # What is held at is always the newest checkpoint: going back to it has withdrawn those that came later.
    if status.state == "at checkpoint" and where == status.checkpoints[-1]:
        run = status.run_id
        raise StarterError(
            Exit.REFUSED,
            f"rollback is refused: {run} stands at checkpoint {where} already, so nothing would be taken back",
            hint=f"take everything back: knarr rollback {run} --to start --reason ...   "
            f"or go forward again: knarr resume {run} --reason ...",
        )
    return where
