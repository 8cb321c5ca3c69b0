"""Giving an order to a run: as an update that answers, or, with no worker there, as a signal that is kept."""

import asyncio
import getpass
import socket
import time
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

from starter.checkpoints import knows_its_mappings
from starter.exits import Exit
from starter.failures import StarterError
from starter.lost import refusal
from starter.runs import RunHandle
from workflows.messages import REFUSED, SIGNALS, Accepted, Order, Progress, RollbackOrder

ANSWER_WITHIN: Final = timedelta(seconds=20)
NAMES_WITHIN_SECONDS: Final = 15.0
LOOK_AGAIN_SECONDS: Final = 0.3


@dataclass(frozen=True)
class Answer:
    """What became of an order."""

    state: str
    message: str
    delivered: Literal["answered", "left for a worker"]


async def give(handle: RunHandle, action: str, order: Order) -> Answer:
    """Give the order and return the run's answer.

    Raises:
        StarterError: exit 5, the run refused it and says why, or ended before it, or does not know yet what its
            mappings are called; exit 4, no worker answers and it can't be left for one, though it may still be done.
    """
    if isinstance(order, RollbackOrder) and "/" in order.to:
        await until_named(handle)
    try:
        accepted = await handle.execute_update(action, order, result_type=Accepted, rpc_timeout=ANSWER_WITHIN)
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        reason = cause.message if isinstance(cause, ApplicationError) else str(cause)
        refused = isinstance(cause, ApplicationError) and cause.type == REFUSED
        what = "is refused" if refused else "was not carried out"
        raise StarterError(Exit.REFUSED, f"{action} {what}: {reason}", hint=f"knarr status {handle.id}") from error
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        return await _leave(handle, action, order, error)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise await refusal(handle, action) from error
        if error.status in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
            return await _leave(handle, action, order, error)
        raise
    return Answer(accepted.state, accepted.message, "answered")


async def until_named(handle: RunHandle) -> None:
    """Waits for a run that has just continued as new: until it has recalled its survey it knows no mapping by name.

    Raises:
        StarterError: exit 5, it has not recalled it in time.
    """
    give_up_at = time.monotonic() + NAMES_WITHIN_SECONDS
    while True:
        try:
            progress = await handle.query("progress", result_type=Progress, rpc_timeout=ANSWER_WITHIN)
        except (WorkflowQueryFailedError, RPCError):
            return  # the order itself says what is wrong
        if knows_its_mappings(progress):
            return
        if time.monotonic() > give_up_at:
            raise StarterError(
                Exit.REFUSED,
                "rollback is refused: the run is still recalling its survey, and does not know its mappings by name",
                hint="try again in a moment",
            )
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def _leave(handle: RunHandle, action: str, order: Order, error: Exception) -> Answer:
    if action not in SIGNALS:
        raise StarterError(
            Exit.UNREACHABLE,
            f"no worker answered within {ANSWER_WITHIN.total_seconds():.0f} s; {action} may still be carried out "
            "when one comes",
            hint=f"start a worker (knarr worker), then look before you say it again: knarr status {handle.id}",
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
