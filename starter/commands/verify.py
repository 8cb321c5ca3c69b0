"""`knarr verify`: both sides held against each other, without a run."""

from pathlib import Path

import click

from starter.command import common, plan_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@plan_argument
@common
async def verify(output: Output, plan: str) -> Exit:
    """Compare what the target should be with what it is.

    Only reads; needs no Temporal and no run.
    """
    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from knarr.verify.alone import verify_plan
    from starter.aliases import load_connections
    from starter.verdicts import show_verdict

    loaded = load_plan(Path(plan))
    verdict = await verify_plan(load_connections(Settings()), loaded.plan)
    show_verdict(output, verdict)
    output.result(f"\n{verdict.message}")
    exit_code = Exit.DONE if verdict.passed else Exit.DIFFERS
    output.document("verdict", {"exit_code": int(exit_code), "verdict": verdict.model_dump(mode="json")})
    return exit_code
