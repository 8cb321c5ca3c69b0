"""`knarr doctor`: is everything there that a run needs, and does a run hold tables that nobody will release?"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from starter.command import common
from starter.exits import Exit
from starter.output import Output

if TYPE_CHECKING:
    from knarr.plan.models import Plan
    from knarr.settings import Connections, Settings
    from starter.checkup import Line, Wanted

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command()
@click.argument("plan", metavar="[PLAN]", required=False, type=click.Path(dir_okay=False))
@click.option("--target", metavar="ALIAS", help="Look at this database for runs that hold tables.")
@click.option("--unwind", metavar="RUN", help="Take this run back from the ledger, without Temporal.")
@click.option("--complete", metavar="RUN", help="Let this run stand, which was sealed, and release its tables.")
@click.option("--reason", default="", help="Why a run is ended here; it stands in the audit trail.")
@click.option("--actor", envvar="KNARR_ACTOR", default=None, help="Who says so; default: user@host.")
@click.option("--force", is_flag=True, help="End it although its workflow runs, or Temporal can't be asked.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--confirm", metavar="RUN", default="", help="With --force --yes: the run's id once more.")
@common
async def doctor(
    output: Output,
    plan: str | None,
    target: str | None,
    unwind: str | None,
    complete: str | None,
    reason: str,
    actor: str | None,
    force: bool,
    yes: bool,
    confirm: str,
) -> Exit:
    """Look whether all is well; end a run that nobody runs any more.

    Looks at Temporal, and at every connection of PLAN, or every alias that leads somewhere. A run whose workflow was
    terminated, deleted or lost keeps its tables: it is found here, --unwind takes it back from the ledger, and
    --complete lets one stand that was proved and sealed.
    """
    from knarr.plan.load import load_plan
    from knarr.settings import Settings
    from knarr.wording import counted
    from starter.aliases import load_connections

    settings = Settings()
    connections = load_connections(settings)
    if unwind is not None and complete is not None:
        raise click.UsageError("--unwind and --complete exclude each other")
    if run := unwind or complete:
        if plan is not None:
            target = target or load_plan(Path(plan)).plan.target
        from starter import unwinding

        lost = await unwinding.find(connections, run, target)
        wish = unwinding.Wish(
            taken_back=unwind is not None, reason=reason, actor=actor, force=force, yes=yes, typed=confirm
        )
        return await unwinding.end(output, settings, connections, lost, wish)
    lines = await _look(settings, connections, load_plan(Path(plan)).plan if plan else None, target)
    for line in lines:
        output.result(f"{MARKS[line.outcome]}  {line.subject}: {line.found}" + _next(line))
    failed = [line for line in lines if line.outcome == "fail"]
    warned = sum(line.outcome == "warn" for line in lines)
    output.result(f"\n{len(lines):,} looked at: {len(failed):,} failed, {counted(warned, 'warning')}")
    exit_code = failed[0].exit_code if failed else Exit.DONE
    output.document(
        "doctor",
        {
            "exit_code": int(exit_code),
            "passed": not failed,
            "checks": [
                {"outcome": line.outcome, "subject": line.subject, "found": line.found, "next": line.next}
                for line in lines
            ],
        },
    )
    return exit_code


def _next(line: "Line") -> str:
    return f"\n        next: {line.next}" if line.next else ""


async def _look(
    settings: "Settings", connections: "Connections", plan: "Plan | None", target: str | None
) -> "list[Line]":
    import platform

    import temporalio

    from knarr import __version__
    from starter import checkup
    from starter.checkup import NOT_THERE_YET, Line
    from starter.connect import connect
    from starter.failures import StarterError
    from starter.service_checkup import look_at_lease, look_at_service, look_for_records

    versions = f"{__version__}, Python {platform.python_version()}, temporalio {temporalio.__version__}"
    lines = [Line("ok", "Knarr", versions)]
    service = None
    try:
        service = await connect(settings)
        lines += await look_at_service(service)
    except StarterError as error:
        lines.append(Line("fail", "Temporal", error.message, error.hint, error.exit_code))
    wanted = _wanted(connections, plan, target)
    if not wanted:
        lines.append(Line("warn", "connections", "no alias leads anywhere", "export KNARR_CONNECTION_<ALIAS>=..."))
    needed = checkup.SPARE_CONNECTIONS
    if plan is not None:
        needed = plan.parallelism.mappings * plan.parallelism.partitions + checkup.SPARE_CONNECTIONS
    for each in wanted:
        found, leases = await checkup.look_at(connections, each, needed=needed)
        if service is not None and not any(line.exit_code is Exit.UNREACHABLE for line in found):
            lost = await look_for_records(service, each.alias, leases, plan.name if plan else None)
            found = [line for line in found if not (lost and line.found == NOT_THERE_YET)] + lost
        lines += found
        lines += [await look_at_lease(service, each.alias, held) for held in leases]
    return lines


def _wanted(connections: "Connections", plan: "Plan | None", target: str | None) -> "list[Wanted]":
    from starter.checkup import Wanted, wanted_by

    if plan is not None:
        of_plan = wanted_by(plan)
        extra = [] if target in {None, *(each.alias for each in of_plan)} else [Wanted(target or "", is_target=True)]
        return of_plan + extra
    if target is not None:
        return [Wanted(target, is_target=True)]
    return [Wanted(alias) for alias in connections.aliases]
