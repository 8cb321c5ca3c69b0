"""What a run would make of an order, found out before the order is given and before anybody is asked to confirm it."""

from temporalio.client import WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError

from starter.exits import Exit
from starter.failures import StarterError
from starter.lost import refusal
from starter.ordering import ANSWER_WITHIN, until_named
from starter.runs import RunHandle
from workflows.controls import Controls, how_far
from workflows.messages import Order, RollbackOrder, Status


async def foreseen(handle: RunHandle, action: str, order: Order) -> Order:
    """The order as the run would take it now: a rollback that names no checkpoint says where it leads.

    It stays as it is when no worker tells.

    Raises:
        StarterError: exit 5, the run has ended, or would refuse the order, or stands already where it leads.
    """
    await _refuse_if_ended(handle, action)
    if isinstance(order, RollbackOrder) and "/" in order.to:
        await until_named(handle)
    try:
        status = await handle.query("status", result_type=Status, rpc_timeout=ANSWER_WITHIN)
    except (WorkflowQueryFailedError, RPCError):
        return order  # the run itself says what is wrong; unnamed, it decides
    return held_against(status, action, order)


async def waits_with(handle: RunHandle, action: str) -> Status:
    """The stop that an answer would reach now, and its problem.

    Raises:
        StarterError: exit 5, the run has ended, or waits for nobody; exit 4, no worker says what it waits with.
    """
    await _refuse_if_ended(handle, action)
    try:
        status: Status = await handle.query("status", result_type=Status, rpc_timeout=ANSWER_WITHIN)
    except (WorkflowQueryFailedError, RPCError) as error:
        raise StarterError(
            Exit.UNREACHABLE,
            f"no worker says what the run waits with, so {action} was not given",
            hint="start a worker (knarr worker) and say it again",
        ) from error
    if status.state != "waiting for a person":
        raise _refused(handle.id, action, f"the run is {status.state}, it does not wait for a person")
    return status


def held_against(status: Status, action: str, order: Order) -> Order:
    """The same, from where the run stands. Raises as `foreseen`."""
    controls = Controls(paused=status.state == "paused", decided=0, stops=max(0, status.stop - 1))
    if status.state == "waiting for a person":
        controls.ask(status.message)
    if refusal := controls.refusal(action, order, status.state, status.checkpoints):
        raise _refused(status.run_id, action, refusal)
    if not isinstance(order, RollbackOrder):
        return order
    where = how_far(order, status.state, status.checkpoints)
    # What is held at is always the newest checkpoint: going back to it has withdrawn those that came later.
    if status.state == "at checkpoint" and where == status.checkpoints[-1]:
        run = status.run_id
        raise StarterError(
            Exit.REFUSED,
            f"rollback is refused: {run} stands at checkpoint {where} already, so nothing would be taken back",
            hint=f"take everything back: knarr rollback {run} --to start --reason ...   "
            f"or go forward again: knarr resume {run} --reason ...",
        )
    return order.model_copy(update={"to": where})


async def _refuse_if_ended(handle: RunHandle, action: str) -> None:
    description = await handle.describe()
    if description.status not in {None, WorkflowExecutionStatus.RUNNING}:
        raise await refusal(handle, action, description)


def _refused(run_id: str, action: str, reason: str) -> StarterError:
    return StarterError(Exit.REFUSED, f"{action} is refused: {reason}", hint=f"knarr status {run_id}")
