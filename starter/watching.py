"""Watching a run to its end: on a terminal or line by line, then the verdict; Ctrl-C detaches and never cancels."""

import asyncio
from collections.abc import Callable
from typing import Final

from pydantic import JsonValue

from knarr.settings import Settings
from starter.changes import stored_changes
from starter.connect import Service
from starter.exits import Exit
from starter.following import WAITS, Ending, Snapshot, how_it_ended, kept_open, snapshots, waiting
from starter.lost import as_recorded
from starter.output import Output
from starter.runs import RunHandle
from starter.screen import Lines, Screen
from starter.verdicts import show_verdict, stored_verdict
from workflows.messages import State

STANDS: Final[frozenset[State]] = frozenset({"kept open", "completed"})

Enough = Callable[[Snapshot], Ending | None]


async def watch(
    output: Output,
    settings: Settings,
    service: Service,
    handle: RunHandle,
    *,
    goodbye: str,
    failed: "asyncio.Future[None] | None" = None,
    enough: Enough | None = None,
    hints: bool = True,
) -> Exit:
    """Follow a run, then print how it ended, its verdict and what to look at next.

    Args:
        goodbye: what to say to whoever leaves by Ctrl-C.
        failed: ends the watch by its exception: a worker of ours that can't be kept alive.
        enough: when to stop before the run's end; by default when it is kept open, or needs a person and none is here.

    Raises:
        KnarrError: `failed` did.
    """
    following = asyncio.create_task(follow(output, service, handle, enough or until_somebody_is_needed(output)))
    either: set[asyncio.Task[Ending] | asyncio.Future[None]] = {following} | ({failed} if failed else set())
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _let_go(following)
        output.say(f"\n{goodbye}")
        output.document("detached", {"run_id": handle.id, "exit_code": int(Exit.DETACHED)})
        return Exit.DETACHED
    if not following.done() and failed is not None:
        await _let_go(following)
        failed.result()
    ending = await as_recorded(settings, handle, following.result())
    await conclude(output, settings, service, handle.id, ending, hints=hints)
    return ending.exit_code


async def _let_go(following: "asyncio.Task[Ending]") -> None:
    following.cancel()
    await asyncio.wait({following})


async def follow(output: Output, service: Service, handle: RunHandle, enough: Enough) -> Ending:
    """Show a run until `enough` says so or it has ended; says nothing about the end."""
    display = Screen(output.err, service.link(handle.id)) if output.err.is_terminal else Lines(output.say)
    with display:
        async for seen in snapshots(service.client, handle):
            display.show(seen)
            if seen.running and (ending := enough(seen)):
                return ending
    return await how_it_ended(handle, seen)


def until_somebody_is_needed(output: Output) -> Enough:
    """When watching ends although the run goes on: it is kept open, or needs a person and none is here."""

    def enough(seen: Snapshot) -> Ending | None:
        if seen.progress is None:
            return None  # what it waits for is not known
        if seen.state == "kept open":
            return kept_open(seen)
        if seen.state in WAITS and not output.interactive:
            return waiting(seen)
        return None

    return enough


async def conclude(
    output: Output, settings: Settings, service: Service, run_id: str, ending: Ending, *, hints: bool = True
) -> None:
    """Print how a run ended: the verdict as a table, what became of rows that were there, the message, what is next.

    Args:
        hints: whether to say what to look at next.
    """
    summary = ending.status.verdict if ending.status else None
    stored = await stored_verdict(settings, run_id, ending.status.target) if ending.status and summary else None
    verdict = stored.verdict if stored else None
    show_verdict(output, verdict, summary, withdrawn=bool(stored and stored.withdrawn))
    stands = ending.status is not None and ending.status.state in STANDS
    changes = await stored_changes(settings, run_id, ending.status.target) if ending.status and stands else []
    for name, changed in changes:
        output.result(f"{name}: {changed}")
    output.result(f"\n{ending.message}")
    link = service.link(run_id)
    if hints:
        output.result(f"\nreport:  knarr report {run_id}\naudit:   knarr audit {run_id}")
        output.result(f"Web UI:  {link}" if link else "")
    body: dict[str, JsonValue] = {
        "run_id": run_id,
        "exit_code": int(ending.exit_code),
        "exit_meaning": ending.exit_code.meaning,
        "message": ending.message,
        "web_ui": link,
        "status": ending.status.model_dump(mode="json") if ending.status else None,
        # Without the statements behind it: those are in the report.
        "changes": [{"mapping": name, **changed.model_dump(mode="json")} for name, changed in changes],
        "verdict": verdict.model_dump(mode="json", exclude={"checks": {"__all__": {"sql"}}}) if verdict else None,
    }
    output.document("run", body)
