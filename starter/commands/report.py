"""`knarr report`: what happened in a run and what proves it, in one file."""

from pathlib import Path
from typing import Literal

import click

from starter.command import common, run_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@run_argument
@click.option("--format", "form", type=click.Choice(["html", "json"]), default="html", show_default=True)
@click.option("-o", "--output", "file", type=click.Path(dir_okay=False), help="Default: reports/RUN.html.")
@click.option("--target", help="The target's alias; then Temporal isn't asked, and RUN must be a run's id.")
@common
async def report(output: Output, run: str, form: Literal["html", "json"], file: str | None, target: str | None) -> Exit:
    """Write the report on a run, as one file.

    It tells what was moved, what was verified, what operators did, and holds the chain that proves it. With
    KNARR_SIGNING_KEY_FILE every verdict must be signed by that key; without it no signature is checked, and it says so.
    """
    from knarr.audit.signing import told
    from knarr.audit.standing import state_of
    from knarr.settings import Settings
    from starter.trails import named_run, write_report

    settings = Settings()
    found = await named_run(settings, run, target)
    path = Path(file) if file else found.file(form)
    data = await write_report(settings, found, path, form)
    for doubt in data.doubts:
        output.result(f"✗ {doubt}")
    output.result(f"{data.headline}\nsignatures: {told(data.signatures)}\nreport written to {path}")
    output.document(
        "report",
        {
            "run_id": found.run_id,
            "file": str(path),
            "format": form,
            "outcome": data.outcome,
            "state": state_of(data),
            "headline": data.headline,
            "doubts": list(data.doubts),
            "witnesses": len(found.witnesses),
            "signatures": data.signatures.model_dump(mode="json"),
        },
    )
    return Exit.DONE
