"""`knarr list`: the runs that Temporal knows."""

import click

from starter.command import common
from starter.exits import Exit
from starter.output import Output


@click.command("list")
@click.option("--plan", "plan_name", help="Runs of this plan only.")
@common
async def list_(output: Output, plan_name: str | None) -> Exit:
    """List runs, the newest first."""
    from datetime import UTC, datetime

    from rich.table import Table

    from knarr.settings import Settings
    from knarr.wording import spoken
    from starter import runs
    from starter.connect import connect

    service = await connect(Settings())
    found = await runs.listed(service.client, plan=plan_name)
    # A run's id says when it started, and it is what every other command is given: it is never cut.
    table = Table()
    table.add_column("run", no_wrap=True)
    for column in ("state", "phase", "from", "to"):
        table.add_column(column)
    table.add_column("took", no_wrap=True)
    for run in found:
        seconds = ((run.ended_at or datetime.now(UTC)) - run.started_at).total_seconds()
        took = spoken(seconds) if run.ended_at else f"{spoken(seconds)} so far"
        table.add_row(run.run_id, run.state, run.phase, run.source, run.target, took)
    output.result(table if found else f"no runs at {service.address}. Start one: knarr run PLAN")
    output.document(
        "runs",
        {
            "runs": [
                {
                    "run_id": run.run_id,
                    "plan": run.plan,
                    "source": run.source,
                    "target": run.target,
                    "state": run.state,
                    "phase": run.phase,
                    "started_at": run.started_at.isoformat(),
                    "ended_at": run.ended_at.isoformat() if run.ended_at else None,
                    "web_ui": service.link(run.run_id),
                }
                for run in found
            ]
        },
    )
    return Exit.DONE
