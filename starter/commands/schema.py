"""`knarr schema`: the JSON Schema of plans, for editors."""

import json
from pathlib import Path

import click

from starter.command import common
from starter.exits import Exit
from starter.output import Output


@click.command()
@click.option("-o", "--output", "file", type=click.Path(dir_okay=False), help="Write it to a file instead of stdout.")
@common
async def schema(output: Output, file: str | None) -> Exit:
    """Print the JSON Schema of plans, for editors.

    The schema itself is the document: `--json` changes nothing but the errors.
    """
    from knarr.plan.schema import plan_json_schema

    text = json.dumps(plan_json_schema(), indent=2) + "\n"
    if file is None:
        click.echo(text, nl=False)
        return Exit.DONE
    Path(file).write_text(text, encoding="utf-8")
    output.result(f"written to {file}; name it in a plan's first line:\n# yaml-language-server: $schema={file}")
    output.document("schema written", {"file": file})
    return Exit.DONE
