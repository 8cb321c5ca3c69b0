"""`knarr up`: a Temporal server with its Web UI on this machine, in the foreground."""

import click

from starter.command import common
from starter.exits import Exit
from starter.output import Output


@click.command()
@click.option("--worker", is_flag=True, help="Run a worker beside it; a plan's transforms are looked up here.")
@common
async def up(output: Output, worker: bool) -> Exit:
    """Start a Temporal server with its Web UI, until Ctrl-C.

    Its state is in .knarr/ (KNARR_STATE_DIR). Other commands in this folder find it by themselves.
    """
    import asyncio
    import contextlib
    from pathlib import Path

    from knarr.local.state import running
    from knarr.settings import Settings
    from starter import local
    from starter.failures import StarterError

    settings = Settings()
    if found := running(settings.state_dir):
        raise StarterError(
            Exit.REFUSED,
            f"it is up already, by process {found.owner_pid}: Temporal {found.temporal_address}, "
            f"Web UI {found.temporal_ui_url}",
            hint="use it, or end that process first",
        )
    with local.temporal_server(settings.state_dir) as servers:
        async with contextlib.AsyncExitStack() as stack:
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            pid = None
            if worker:
                process = await stack.enter_async_context(local.local_worker(settings, servers, Path.cwd()))
                failed, pid = process.failed, process.pid
            output.result(f"Temporal:    {servers.temporal_address}\nWeb UI:      {servers.temporal_ui_url}")
            output.result(f"task queue:  {servers.task_queue} (elsewhere than in this folder: KNARR_TASK_QUEUE)")
            output.result(f"worker:      {f'process {pid}' if pid else 'none; start one with: knarr worker'}")
            output.say("Ctrl-C ends it")
            output.document(
                "up",
                {
                    "temporal": servers.temporal_address,
                    "web_ui": servers.temporal_ui_url,
                    "task_queue": servers.task_queue,
                    "worker_pid": pid,
                },
            )
            try:
                await failed
            except asyncio.CancelledError:
                output.say("\nstopping")
    return Exit.DONE
