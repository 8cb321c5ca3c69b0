"""A run whose workflow was ended from outside, and so could not end the run: what its target says, and who goes on."""

from dataclasses import replace
from typing import Final

from temporalio.client import WorkflowExecutionDescription

from knarr.errors import KnarrError
from knarr.postgres import runs as records
from knarr.postgres.session import connect
from knarr.settings import Settings
from starter.aliases import load_connections
from starter.evidence import target_of
from starter.exits import Exit
from starter.failures import StarterError
from starter.following import Ending
from starter.runs import RunHandle, is_lost, state_of, ways_out

# What the target's record says of a run that somebody has ended since, and how a watch of it ends.
ENDED_SINCE: Final = {"rolled back": Exit.ROLLED_BACK, "aborted": Exit.ABORTED, "completed": Exit.DONE}


async def as_recorded(settings: Settings, handle: RunHandle, ending: Ending) -> Ending:
    """The ending as it is, but where the workflow was lost and the target says that the run has been ended without it.

    A machine that can't reach the target knows no more than Temporal does.
    """
    if not ending.lost:
        return ending
    try:
        target = ending.status.target if ending.status else await target_of(handle)
        dsn = load_connections(settings).resolve(target)
        connection = await connect(dsn, application_name="knarr status", read_only=True)
    except (KnarrError, StarterError):
        return ending
    try:
        known = await records.is_known(connection, handle.id)
        state = (await records.load_run(connection, handle.id)).state if known else ""
    finally:
        await connection.close()
    first = ending.message.partition("\n")[0]
    if not known:
        return replace(
            ending,
            message=f"{first}\n{target} knows nothing of the run: it had claimed nothing, its knarr schema is gone, "
            "or the alias leads elsewhere",
        )
    if state in ENDED_SINCE:
        since = f"it has been ended without its workflow since, by knarr doctor: {state}"
        return replace(ending, exit_code=ENDED_SINCE[state], message=f"{first}\n{since}")
    return ending


async def refusal(
    handle: RunHandle, action: str, description: WorkflowExecutionDescription | None = None
) -> StarterError:
    """Why a run whose workflow is closed takes no order, and what to say instead."""
    description = description or await handle.describe()
    state = state_of(description)
    if not is_lost(description):
        return StarterError(
            Exit.REFUSED, f"{action} is refused: the run has ended: {state}", hint=f"knarr status {handle.id}"
        )
    return StarterError(
        Exit.REFUSED,
        f"{action} is refused: the workflow of {handle.id} is gone ({state}), so nobody takes orders for the run; what "
        "it did stands, and it holds its tables",
        hint=ways_out(handle.id, first="complete" if action == "complete" else "unwind"),
    )
