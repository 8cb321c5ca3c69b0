"""`knarr worker`: a worker in the foreground; the same as `python worker.py`."""

import click

from starter.command import common
from starter.exits import Exit
from starter.output import Output


@click.command()
@common
async def worker(output: Output) -> Exit:
    """Run a worker until SIGTERM or Ctrl-C.

    It finishes or gives up what it does, then ends.
    Settings: KNARR_TASK_QUEUE, KNARR_METRICS_PORT, KNARR_LOG_FORMAT, KNARR_MAX_ACTIVITIES, KNARR_CONNECTION_*.
    """
    from starter.connect import connect
    from worker import WorkerSettings, work

    settings = WorkerSettings()
    service = await connect(settings)
    await work(settings.model_copy(update={"task_queue": service.task_queue}), service.client)
    output.document("worker ended", {"task_queue": service.task_queue})
    return Exit.DONE
