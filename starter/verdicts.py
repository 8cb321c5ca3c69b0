"""A verdict on the terminal: its checks as a table, its findings one by one."""

from itertools import groupby
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from knarr.errors import KnarrError
from knarr.postgres.session import connect
from knarr.settings import Connections, Settings
from knarr.verify.models import CheckSummary, Finding, Verdict
from starter.output import Output

if TYPE_CHECKING:
    from activities.models import VerdictSummary

FINDINGS_SHOWN: Final = 10
KINDS: Final[dict[str, str]] = {
    "parity": "every row",
    "integrity": "integrity",
    "rule": "rule",
    "cross": "both databases",
    "downstream": "downstream",
}


async def stored_verdict(settings: Settings, run_id: str, target: str) -> Verdict | None:
    """The run's last verdict as the target keeps it; None when this machine can't reach the target or there is none."""
    from knarr.verify.results import latest_verdict

    try:
        dsn = Connections.load(settings).resolve(target)
        connection = await connect(dsn, application_name="knarr watch", read_only=True)
    except KnarrError:
        return None  # a machine that only talks to Temporal; the summary in the workflow stands in
    try:
        return await latest_verdict(connection, run_id)
    finally:
        await connection.close()


def show_verdict(output: Output, verdict: Verdict | None, summary: "VerdictSummary | None") -> None:
    """Print the verdict as a table; without the document, what its summary says."""
    if verdict is None:
        if summary is not None:
            word = "PASSED" if summary.passed else "DIFFERS"
            output.result(
                f"verdict: {word} · {summary.checks} checks · {summary.rows:,} rows · {summary.findings} findings"
            )
            for line in summary.first_findings:
                output.result(f"  {line}")
        return
    output.result(table_of(verdict))
    findings = [finding for check in verdict.checks for finding in check.findings]
    for finding in findings[:FINDINGS_SHOWN]:
        output.result(f"  {told(finding)}")
    if verdict.findings_total > min(len(findings), FINDINGS_SHOWN):
        output.result(
            f"  and {verdict.findings_total - min(len(findings), FINDINGS_SHOWN):,} more findings in the report"
        )
    for check in verdict.checks:
        if check.outcome == "could not run":
            output.result(f"  {check.kind} check {check.name!r} could not run: {check.message}")


def table_of(verdict: Verdict) -> Table:
    """One line a mapping and kind of check; rules of one mapping share a line."""
    mark = Text("PASSED ✓", style="bold green") if verdict.passed else Text("DIFFERS ✗", style="bold red")
    table = Table(title=Text.assemble("verdict: ", mark), title_justify="left", pad_edge=False)
    table.add_column("check")
    table.add_column("of")
    for column in ("source rows", "target rows", "findings"):
        table.add_column(column, justify="right")
    table.add_column("outcome")
    for (kind, name), checks in groupby(verdict.checks, key=_line):
        group = list(checks)
        table.add_row(
            KINDS.get(kind, kind),
            name,
            _rows(group[0].source_rows) if kind == "parity" else "",
            _rows(group[0].target_rows) if kind == "parity" else "",
            f"{sum(check.findings_total for check in group):,}",
            _outcome(group),
        )
    return table


def _line(check: CheckSummary) -> tuple[str, str]:
    if check.kind == "rule" and check.findings:
        return check.kind, f"{check.findings[0].mapping}: {check.name}"
    return check.kind, check.name


def _rows(rows: int | None) -> str:
    return "?" if rows is None else f"{rows:,}"


def _outcome(checks: list[CheckSummary]) -> Text:
    worst = max(("passed", "failed", "could not run").index(check.outcome) for check in checks)
    return [Text("passed", style="green"), Text("differs", style="red"), Text("could not run", style="red")][worst]


def told(finding: Finding) -> str:
    """A finding on one line: where, what was expected, what was found."""
    key = ", ".join(f"{column} = {'NULL' if value is None else value}" for column, value in finding.key.items())
    where = " · ".join(part for part in (finding.mapping, key, finding.column or "") if part)
    if finding.kind == "missing":
        return f"{where} · the target lacks this row"
    if finding.kind == "extra":
        return f"{where} · the target has a row that the source does not give"
    if finding.kind == "doubled":
        return f"{where} · the target has this row more than once"
    return f"{where} · {finding.kind}: expected {_value(finding.expected)}, found {_value(finding.found)}"


def _value(value: str | None) -> str:
    return "NULL" if value is None else f"'{value}'"
