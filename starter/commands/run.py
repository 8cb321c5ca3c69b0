"""`knarr run`: a plan on one machine, from nothing to the verdict; killed and said again, it goes on."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from starter.command import common, plan_argument
from starter.exits import Exit
from starter.output import Output

if TYPE_CHECKING:
    from knarr.plan.load import LoadedPlan
    from starter import watching
    from starter.connect import Service
    from starter.following import Ending, Snapshot
    from starter.runs import RunHandle

# The server of this command ends with it; what it names after that needs it up again.
FIRST: Final = "knarr up --worker, in another terminal of this folder"


@click.command()
@plan_argument
@click.option("--pause-before", multiple=True, metavar="STEP", help="Pause before a step: copy, verify, seal, ...")
@common
async def run(output: Output, plan: str, pause_before: tuple[str, ...]) -> Exit:
    """Run PLAN on this machine, from nothing to the verdict.

    It has a Temporal server and a worker of its own, their state in .knarr/ (KNARR_STATE_DIR).
    If it is killed, the same command goes on where it was.
    """
    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from starter import local, watching
    from starter.aliases import load_connections
    from starter.runs import check_steps
    from starter.trails import found_run, write_report

    steps = check_steps(pause_before)
    settings = Settings()
    loaded = load_plan(Path(plan))
    connections = load_connections(settings)
    for alias in (loaded.plan.source, loaded.plan.target):
        connections.resolve(alias)
    with local.temporal_server(settings.state_dir) as servers:
        service = await local.service_of(servers)
        output.say(f"Temporal: {service.address}   Web UI: {service.web_ui}   state: {settings.state_dir}")
        async with local.local_worker(settings, servers, Path(plan).absolute().parent) as worker:
            handle = await _start_or_go_on(output, service, loaded, steps)
            goodbye = f"stopped; the run is kept in {settings.state_dir} and goes on with: knarr run {plan}"
            exit_code = await watching.watch(
                output,
                settings,
                service,
                handle,
                goodbye=goodbye,
                failed=worker.failed,
                enough=_with_the_server_first(output),
                hints=False,
            )
            if exit_code in {Exit.DONE, Exit.ROLLED_BACK, Exit.ABORTED}:
                # Now, while Temporal is up to witness it: it ends with this command.
                found = await found_run(service, handle)
                data = await write_report(settings, found, found.file("html"))
                for doubt in data.doubts:
                    output.result(f"✗ {doubt}")
                output.result(f"report: {found.file('html')}\nlook again: {FIRST}; then knarr audit {handle.id}")
            return exit_code


def _with_the_server_first(output: Output) -> "watching.Enough":
    """What ends the watch, with the command in it without which those that it names would find no server."""
    from dataclasses import replace

    from starter import watching

    enough = watching.until_somebody_is_needed(output)

    def told(seen: "Snapshot") -> "Ending | None":
        if (ending := enough(seen)) is None:
            return None
        # The orders are the last line of what it waits for, or all that follows on the first of a run that is kept.
        parts = ending.message.rpartition("\n") if ending.exit_code is Exit.WAITING else ending.message.partition("\n")
        lines = [parts[0], f"  first:        {FIRST}", parts[2]]
        return replace(ending, message="\n".join(line for line in lines if line))

    return told


async def _start_or_go_on(output: Output, service: "Service", loaded: "LoadedPlan", steps: list[str]) -> "RunHandle":
    from datetime import UTC, datetime

    from starter import runs
    from starter.ordering import this_person

    name = loaded.plan.name
    found = await runs.find_open(service.client, name)
    if found is None:
        handle = await runs.start(
            service.client,
            loaded,
            task_queue=service.task_queue,
            actor=this_person(),
            pause_before=steps,
            now=datetime.now(UTC),
        )
        output.say(f"started {handle.id}")
        return handle
    handle = await runs.find(service.client, found.run_id)
    output.say(f"going on with {handle.id}, started {found.started_at:%Y-%m-%d %H:%M:%S} UTC")
    memo = await (await handle.describe()).memo()
    if memo.get("plan_hash") != loaded.digest:
        output.say("note: the plan file has changed since; the run goes on with the plan that it was started with")
    return handle
