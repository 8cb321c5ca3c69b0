"""`knarr verify`: both sides held against each other, without a run."""

from pathlib import Path

import click

from starter.command import common, plan_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@plan_argument
@click.option("--since-last", is_flag=True, help="Skip what can be shown not to have changed since a run's verdict.")
@common
async def verify(output: Output, plan: str, since_last: bool) -> Exit:
    """Compare what the target should be with what it is.

    Only reads; needs no Temporal and no run. With --since-last, partitions whose row versions on both sides are those
    of the last verdict that passed are not compared again; everything else is, and each check says why.
    """
    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from knarr.verify.alone import verify_plan
    from starter.aliases import load_connections
    from starter.verdicts import show_verdict

    loaded = load_plan(Path(plan))
    verdict = await verify_plan(
        load_connections(Settings()), loaded.plan, folder=loaded.path.parent, since_last=since_last
    )
    show_verdict(output, verdict, reported=False)
    if since_last:
        for check in verdict.checks:
            if check.kind == "parity":
                output.result(f"  {check.name}: {check.message}")
    output.result(f"\n{verdict.message}")
    exit_code = Exit.DONE if verdict.passed else Exit.DIFFERS
    output.document("verdict", {"exit_code": int(exit_code), "verdict": verdict.model_dump(mode="json")})
    return exit_code
