"""A verdict on the terminal: its checks as a table, its findings one by one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from knarr.errors import KnarrError
from knarr.postgres.session import connect
from knarr.settings import Settings
from knarr.verify.models import CheckSummary, Finding, Verdict
from knarr.verify.results import load_verdict, newest_verdict
from knarr.wording import counted
from starter.aliases import load_connections
from starter.output import Output, plain

if TYPE_CHECKING:
    from activities.models import VerdictSummary

FINDINGS_SHOWN: Final = 10

# Temporal holds no row, so a summary has none.
ELSEWHERE: Final = "keys and values are in the target's knarr schema: knarr report shows them where it can be reached"


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict as the target keeps it, and whether what it speaks of has been taken back since."""

    verdict: Verdict
    withdrawn: bool


async def stored_verdict(settings: Settings, run_id: str, target: str) -> StoredVerdict | None:
    """The run's last verdict; None when this machine can't reach the target or there is none.

    Raises:
        DataError: it is not what was written.
    """
    try:
        dsn = load_connections(settings).resolve(target)
        connection = await connect(dsn, application_name="knarr watch", read_only=True)
    except KnarrError:
        return None  # a machine that only talks to Temporal; the summary, without keys and values, stands in
    try:
        newest = await newest_verdict(connection, run_id)
        verdict = await load_verdict(connection, run_id, newest.phase, newest.round) if newest else None
        return StoredVerdict(verdict, newest.withdrawn) if newest and verdict else None
    finally:
        await connection.close()


def show_verdict(
    output: Output,
    verdict: Verdict | None,
    summary: "VerdictSummary | None" = None,
    *,
    withdrawn: bool = False,
    reported: bool = True,
) -> None:
    """Print the verdict as a table; without the document, what its summary says.

    Args:
        withdrawn: what it speaks of has been taken back since.
        reported: it is a run's, whose report has all findings that are kept.
    """
    if verdict is None:
        if summary is not None:
            word = "PASSED" if summary.passed else "DIFFERS"
            output.result(
                f"verdict: {word} · {summary.checks:,} checks · {summary.rows:,} rows · {summary.findings:,} findings"
            )
            for line in summary.first_findings:
                output.result(f"  {line}")
            if summary.findings:
                output.result(f"  {ELSEWHERE}")
        return
    output.result(table_of(verdict, "verdict, before all was taken back: " if withdrawn else "verdict: "))
    findings = [finding for check in verdict.checks for finding in check.findings]
    for finding in findings[:FINDINGS_SHOWN]:
        output.result(f"  {told(finding)}")
    if more := verdict.findings_total - min(len(findings), FINDINGS_SHOWN):
        # Without a run there is no report; the document holds what a check keeps of its findings.
        kept = f"; --json shows {len(findings):,} of all" if len(findings) > FINDINGS_SHOWN else ""
        where = " in the report" if reported else kept
        output.result(f"  and {counted(more, 'more finding')}{where}")
    for check in verdict.checks:
        if check.outcome == "could not run":
            output.result(f"  {check.kind} check {check.name!r} could not run: {check.message}")


def table_of(verdict: Verdict, title: str) -> Table:
    """A line a mapping with all that was checked of it, then a line for each check across both databases."""
    mark = Text("PASSED ✓", style="bold green") if verdict.passed else Text("DIFFERS ✗", style="bold red")
    table = Table(title=Text.assemble(title, mark), title_justify="left")
    table.add_column("checked")
    for column in ("source rows", "target rows"):
        table.add_column(column, justify="right")
    for column in ("every row", "integrity", "rules"):
        table.add_column(column)
    table.add_column("findings", justify="right")
    for number in dict.fromkeys(check.mapping for check in verdict.checks if check.mapping >= 0):
        own = [check for check in verdict.checks if check.mapping == number]
        parity = [check for check in own if check.kind == "parity"]
        others = [check for check in own if check.kind in {"integrity", "rule"}]
        table.add_row(
            plain(next((check.name for check in [*parity, *others] if check.kind != "rule"), f"mapping {number}")),
            _rows(parity[0].source_rows) if parity else "?",
            _rows(parity[0].target_rows) if parity else "?",
            _outcome(parity),
            _outcome([check for check in others if check.kind == "integrity"]),
            _outcome([check for check in others if check.kind == "rule"]),
            f"{sum(check.findings_total for check in own):,}",
        )
    table.add_section()
    for check in verdict.checks:
        if check.mapping < 0:
            table.add_row(plain(check.name), "", "", _outcome([check]), "", "", f"{check.findings_total:,}")
    return table


def _rows(rows: int | None) -> str:
    return "?" if rows is None else f"{rows:,}"


def _outcome(checks: list[CheckSummary]) -> Text:
    """All of a kind of check in one word, and how many there were if there were several."""
    if not checks:
        return Text("")
    count = f" {len(checks)}" if len(checks) > 1 else ""
    outcomes = [check.outcome for check in checks]
    if "could not run" in outcomes:
        return Text(f"✗{count} could not run", style="red")
    if "failed" in outcomes:
        failed = f" {outcomes.count('failed')} of {len(checks)}" if len(checks) > 1 else ""
        return Text(f"✗{failed} differs", style="red")
    return Text(f"✓{count}", style="green")


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
