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
    from rich.table import Table

    from knarr.settings import Settings
    from starter import runs
    from starter.connect import connect

    service = await connect(Settings())
    found = await runs.listed(service.client, plan=plan_name)
    table = Table("run", "state", "phase", "from", "to", "started", "ended")
    for run in found:
        ended = f"{run.ended_at:%Y-%m-%d %H:%M:%S}" if run.ended_at else ""
        table.add_row(
            run.run_id, run.state, run.phase, run.source, run.target, f"{run.started_at:%Y-%m-%d %H:%M:%S}", ended
        )
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
