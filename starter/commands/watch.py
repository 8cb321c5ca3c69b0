"""`knarr watch`: follow a run to its end."""

import click

from starter.command import common, run_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@run_argument
@common
async def watch(output: Output, run: str) -> Exit:
    """Follow a run until it ends.

    Ctrl-C detaches and the run goes on. RUN is an id, or a plan's name (newest run).
    """
    from knarr.settings import Settings
    from starter import runs, watching
    from starter.connect import connect

    settings = Settings()
    service = await connect(settings)
    handle = await runs.find(service.client, run)
    return await watching.watch(
        output, settings, service, handle, goodbye=f"detached; the run goes on. See it again: knarr watch {handle.id}"
    )
