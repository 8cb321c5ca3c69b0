"""`knarr runbook`: what a run of a plan will do, for the people on duty."""

from pathlib import Path

import click

from starter.command import common, plan_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@plan_argument
@click.option("-o", "--output", "file", type=click.Path(dir_okay=False), help="Write it to a file instead of stdout.")
@common
async def runbook(output: Output, plan: str, file: str | None) -> Exit:
    """Write the runbook of PLAN: what will happen, how to operate it."""
    from knarr.audit.runbook import render_runbook
    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from starter.row_statements import row_statements
    from starter.surveys import survey_plan

    loaded = load_plan(Path(plan))
    survey = await survey_plan(Settings(), loaded.plan, loaded.path.parent)
    text = render_runbook(loaded.plan, survey, {each.number: row_statements(each) for each in survey.mappings})
    if file is not None:
        Path(file).write_text(text, encoding="utf-8")
        output.result(f"runbook written to {file}")
    elif not output.as_json:
        click.echo(text, nl=False)
    output.document("runbook", {"plan": loaded.plan.name, "file": file, "markdown": text})
    return Exit.DONE
