"""`knarr status`: where a run is, in one look."""

import click

from starter.command import common, run_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@run_argument
@common
async def status(output: Output, run: str) -> Exit:
    """Show where a run is, in one look.

    RUN is an id, or a plan's name (newest run).
    """
    from knarr.settings import Settings
    from starter import runs
    from starter.checkpoints import stops
    from starter.connect import connect
    from starter.following import how_it_ended, look
    from starter.lost import as_recorded
    from starter.screen import Screen

    settings = Settings()
    service = await connect(settings)
    handle = await runs.find(service.client, run)
    seen = await look(service.client, handle)
    ending = None if seen.running else await as_recorded(settings, handle, await how_it_ended(handle, seen))
    screen = Screen(output.out, service.link(handle.id))
    output.result(screen.still(seen))
    if ending is not None:
        output.result(ending.message)
    elif seen.progress is not None and (lines := stops(seen.progress)):
        output.result(lines)
    output.document(
        "status",
        {
            "run_id": handle.id,
            "open": seen.running,
            "state": seen.state,
            "worker_answered": seen.answered,
            "ended": {"exit_code": int(ending.exit_code), "message": ending.message} if ending else None,
            "progress": seen.progress.model_dump(mode="json") if seen.progress else None,
            "web_ui": service.link(handle.id),
        },
    )
    return Exit.DONE
