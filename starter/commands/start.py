"""`knarr start`: start a run at a Temporal service whose workers do the work."""

from pathlib import Path

import click

from starter.command import common, plan_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@plan_argument
@click.option("--detach", is_flag=True, help="Return once the survey has passed; don't watch.")
@click.option("--pause-before", multiple=True, metavar="STEP", help="Pause before a step: copy, verify, seal, ...")
@click.option("--actor", envvar="KNARR_ACTOR", default=None, help="Who starts it; default: user@host.")
@common
async def start(output: Output, plan: str, detach: bool, pause_before: tuple[str, ...], actor: str | None) -> Exit:
    """Start a run of PLAN at a Temporal service, and watch it.

    Ctrl-C detaches and the run goes on.
    With --detach it returns once the target is claimed and surveyed, or refused.
    """
    from datetime import UTC, datetime

    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from starter import runs, watching
    from starter.connect import connect
    from starter.following import started
    from starter.ordering import this_person

    steps = runs.check_steps(pause_before)
    settings = Settings()
    loaded = load_plan(Path(plan))
    service = await connect(settings)
    handle = await runs.start(
        service.client,
        loaded,
        task_queue=service.task_queue,
        actor=actor or this_person(),
        pause_before=steps,
        now=datetime.now(UTC),
    )
    output.say(f"started {handle.id} on task queue {service.task_queue} at {service.address}")
    if (link := service.link(handle.id)) and not output.err.is_terminal:  # the live screen shows it
        output.say(f"Web UI: {link}")
    goodbye = f"detached; the run goes on. See it: knarr watch {handle.id}"
    enough = started if detach else None
    return await watching.watch(output, settings, service, handle, goodbye=goodbye, enough=enough, hints=not detach)
