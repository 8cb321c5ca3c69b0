"""`knarr check`: a plan held against both databases before anything is written."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from starter.command import common, plan_argument
from starter.exits import Exit
from starter.output import Output

if TYPE_CHECKING:
    from rich.table import Table

    from knarr.plan.resolved import Survey

PLURALS: Final = {"index": "indexes", "unique": "unique"}


@click.command()
@plan_argument
@click.option("--sql", is_flag=True, help="Also print the statements that the run would make objects with.")
@common
async def check(output: Output, plan: str, sql: bool) -> Exit:
    """Hold PLAN against both databases; writes nothing.

    Every problem is in the one report, not the first alone.
    """
    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from knarr.wording import counted
    from starter.foretold import foretold, standing_rows
    from starter.places import Places
    from starter.surveys import survey_plan

    loaded = load_plan(Path(plan))
    settings = Settings()
    survey = await survey_plan(settings, loaded.plan, loaded.path.parent)
    if survey.mappings:
        output.result(_table(survey))
    for line in foretold(survey.mappings, await standing_rows(settings, loaded.plan, survey)):
        output.result(line)
    places = Places(loaded.path)
    for problem in survey.problems:
        parts = [f"{problem.severity}: {places.found(problem.where)}: found {problem.found}"]
        parts += [f", expected {problem.expected}"] if problem.expected else []
        parts += [f"\n  next: {problem.hint}"] if problem.hint else []
        parts += [f"\n  such as: {problem.examples}"] if problem.examples else []
        output.result("".join(parts))
    if sql:
        output.result("\n".join(f"{statement};" for statement in _statements(survey)))
    errors = len(survey.errors)
    warnings = len(survey.problems) - errors
    output.result(
        f"\n{plan}: {counted(errors, 'error')}, {counted(warnings, 'warning')}. "
        + ("It would be refused; nothing was written." if errors else f"Next: knarr run {plan}")
    )
    exit_code = Exit.REFUSED if errors else Exit.DONE
    output.document(
        "check",
        {
            "plan": loaded.plan.name,
            "plan_hash": loaded.digest,
            "exit_code": int(exit_code),
            "passed": not errors,
            "survey": survey.model_dump(mode="json"),
        },
    )
    return exit_code


def _table(survey: "Survey") -> "Table":
    from rich.table import Table

    from knarr.wording import counted
    from starter.output import plain
    from starter.units import spoken_bytes

    title = f"source: PostgreSQL {survey.source_version}   target: PostgreSQL {survey.target_version}"
    table = Table(title=title, title_justify="left")
    table.add_column("target table")
    table.add_column("from")
    table.add_column("mode")
    table.add_column("about rows", justify="right")
    table.add_column("about size", justify="right")
    table.add_column("columns", justify="right")
    table.add_column("makes")
    for mapping in survey.mappings:
        kinds = [item.kind for item in mapping.objects if item.kind not in {"table", "comment"}]
        made = ", ".join(counted(kinds.count(kind), kind, PLURALS.get(kind, "")) for kind in dict.fromkeys(kinds))
        through = f" through {mapping.transform}" if mapping.transform else ""
        table.add_row(
            plain(mapping.name),
            plain(f"{mapping.source_table}{through}"),
            mapping.mode + (", deletes" if mapping.delete_missing else ""),
            f"{mapping.estimated_rows:,}",
            spoken_bytes(mapping.estimated_bytes),
            f"{len(mapping.columns)}",
            made or "nothing",
        )
    return table


def _statements(survey: "Survey") -> list[str]:
    from knarr.plan.resolved import STAGES

    objects = [*survey.objects, *(item for mapping in survey.mappings for item in mapping.objects)]
    return [item.create for stage in STAGES for item in objects if item.stage == stage]
