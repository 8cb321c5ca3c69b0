"""Giving an order to a run: as an update that answers, or, with no worker there, as a signal that is kept."""

import getpass
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from temporalio.client import (
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from starter.exits import Exit
from starter.failures import StarterError
from starter.runs import RunHandle
from workflows.controls import how_far
from workflows.messages import SIGNALS, Accepted, Order, RollbackOrder, Status

ANSWER_WITHIN: Final = timedelta(seconds=20)


@dataclass(frozen=True)
class Answer:
    """What became of an order."""

    state: str
    message: str
    delivered: Literal["answered", "left for a worker"]


async def give(handle: RunHandle, action: str, order: Order) -> Answer:
    """Give the order and return the run's answer.

    Raises:
        StarterError: exit 5, the run refused it and says why; exit 4, no worker answers and it can't be left for one.
    """
    try:
        accepted = await handle.execute_update(action, order, result_type=Accepted, rpc_timeout=ANSWER_WITHIN)
    except WorkflowUpdateFailedError as error:
        reason = error.cause.message if isinstance(error.cause, ApplicationError) else str(error.cause)
        raise StarterError(Exit.REFUSED, f"{action} is refused: {reason}", hint=f"knarr status {handle.id}") from error
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        return await _leave(handle, action, order, error)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise StarterError(
                Exit.REFUSED, f"{action} is refused: the run has ended", hint=f"knarr status {handle.id}"
            ) from error
        if error.status in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
            return await _leave(handle, action, order, error)
        raise
    return Answer(accepted.state, accepted.message, "answered")


async def destination(handle: RunHandle) -> str:
    """Where a rollback that names no checkpoint leads, as the run is now; empty when no worker tells."""
    try:
        status = await handle.query("status", result_type=Status, rpc_timeout=ANSWER_WITHIN)
    except (WorkflowQueryFailedError, RPCError):
        return ""  # the order itself says what is wrong; unnamed, the run decides
    return how_far(RollbackOrder(actor="-"), status.state, status.checkpoints)


async def _leave(handle: RunHandle, action: str, order: Order, error: Exception) -> Answer:
    if action not in SIGNALS:
        raise StarterError(
            Exit.UNREACHABLE,
            f"no worker answered within {ANSWER_WITHIN.total_seconds():.0f} s, so {action} was not given",
            hint="start a worker (knarr worker) and say it again",
        ) from error
    await handle.signal(action, order)
    return Answer(
        "unknown", f"no worker answers; {action} is kept and done when one comes (knarr worker)", "left for a worker"
    )


def this_person() -> str:
    """Who gives the order, for the audit trail: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose uid has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
