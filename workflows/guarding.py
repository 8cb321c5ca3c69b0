"""Guards: figures that are watched beside a part of the saga; a breach turns the run back or pauses it."""

import asyncio
from collections.abc import Coroutine
from typing import Final, Literal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.guard import check_guards
    from activities.models import Breach, GuardInput, GuardResult
    from workflows.conduct import Conduct
    from workflows.policies import GUARD

# One activity watches for this long, so that a soak of days costs a few hundred events and not a hundred thousand.
WATCH_SECONDS: Final = 1_800.0


class GuardBreachedError(Exception):
    """A guard's figure is out of bounds, and the plan says to roll back."""


async def guarded(
    conduct: Conduct, phase: str, during: Literal["copy", "soak", "always"], work: Coroutine[None, None, None]
) -> None:
    """Does the work while the plan's guards for it are watched, and asks each once more when it is done.

    Without guards this is the work alone. Raises what the work raises, or GuardBreachedError; the work has ended then.
    """
    watched = [guard.name for guard in conduct.settings.guards if guard.during == during]
    if not watched:
        await work
        return
    task = asyncio.create_task(work)
    try:
        while watched and not task.done():
            breaches = await _watch(conduct, phase, watched, task)
            watched = await _answer(conduct, watched, breaches)
        await task
        if watched:
            await _answer(conduct, watched, await _watch(conduct, phase, watched, None))
    except (Exception, asyncio.CancelledError):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _watch(conduct: Conduct, phase: str, watched: list[str], task: "asyncio.Task[None] | None") -> list[Breach]:
    """The breaches met while the task runs, or now when there is none; an empty list when time or task was over."""
    asking = workflow.start_activity(
        check_guards,
        GuardInput(run=conduct.run, phase=phase, guards=watched, seconds=WATCH_SECONDS if task else 0),
        summary=f"guards · {', '.join(watched)}",
        **GUARD,
    )
    try:
        await workflow.wait([asking, task] if task else [asking], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:  # and no GeneratorExit: a run that a worker drops can await nothing
        await _until_over(asking)
        raise
    if asking.done():
        return asking.result().breaches
    await _until_over(asking)
    return []


async def _until_over(asking: workflow.ActivityHandle[GuardResult]) -> None:
    if not asking.done():
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _answer(conduct: Conduct, watched: list[str], breaches: list[Breach]) -> list[str]:
    """Turns back or pauses because of breaches; returns the guards that are still watched.

    Who resumes has accepted the breach, so that guard rests for this phase; else it would pause the run again at once.
    """
    if not breaches:
        return watched
    view, controls = conduct.view, conduct.controls
    reason = "; ".join(breach.reason for breach in breaches)
    if conduct.settings.roll_back_on_breach:
        raise GuardBreachedError(reason)
    before = "running" if view.state == "paused" else view.state
    controls.paused = True
    controls.note("decision", "pause", "plan", reason, "paused; resuming accepts this breach for the phase")
    view.message = reason
    view.show("paused", waiting_for=f"`knarr resume {conduct.run.run_id} --reason ...` (a guard was breached)")
    await workflow.wait_condition(lambda: not controls.paused)
    view.message = ""
    if view.state == "paused":
        view.show(before)
    return [name for name in watched if name not in {breach.guard for breach in breaches}]
