"""What an operator says to a run: pause, resume, approve, abort, rollback, complete, retry, skip."""

import click

from starter.command import common, confirmed, run_argument
from starter.exits import Exit
from starter.output import Output

reason_option = click.option("--reason", default="", help="Why; it stands in the audit trail.")
needed_reason_option = click.option("--reason", required=True, help="Why; it stands in the audit trail.")
actor_option = click.option(
    "--actor", envvar="KNARR_ACTOR", default=None, help="Who says so; default: user@host of this machine."
)
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


@click.command()
@run_argument
@reason_option
@actor_option
@common
async def pause(output: Output, run: str, reason: str, actor: str | None) -> Exit:
    """Start no new partition; those under way end."""
    return await _give(output, "pause", run, reason, actor)


@click.command()
@run_argument
@reason_option
@actor_option
@common
async def resume(output: Output, run: str, reason: str, actor: str | None) -> Exit:
    """Go on after a pause."""
    return await _give(output, "resume", run, reason, actor)


@click.command()
@run_argument
@reason_option
@actor_option
@common
async def approve(output: Output, run: str, reason: str, actor: str | None) -> Exit:
    """Release the phase that waits for approval."""
    return await _give(output, "approve", run, reason, actor)


@click.command()
@run_argument
@reason_option
@actor_option
@yes_option
@common
async def abort(output: Output, run: str, reason: str, actor: str | None, yes: bool) -> Exit:
    """Stop, and take everything back; the run ends as aborted."""
    return await _give(
        output, "abort", run, reason, actor, question="Take back everything that {run} has moved?", yes=yes
    )


@click.command()
@run_argument
@click.option("--to", default="", help="A checkpoint's name, or start.  [default: the last checkpoint]")
@reason_option
@actor_option
@yes_option
@common
async def rollback(output: Output, run: str, to: str, reason: str, actor: str | None, yes: bool) -> Exit:
    """Take the run back to a checkpoint, or to the start.

    Without --to: to the last checkpoint, and `knarr resume` goes forward from there; to the start when there is none,
    or when the run has moved everything and is kept open. What came later is taken back.
    """
    question = "Take {run} back to {to}? What came later is taken back."
    return await _give(output, "rollback", run, reason, actor, question=question, yes=yes, to=to)


@click.command()
@run_argument
@reason_option
@actor_option
@yes_option
@common
async def complete(output: Output, run: str, reason: str, actor: str | None, yes: bool) -> Exit:
    """End a run that is kept open; it can't be taken back then."""
    return await _give(
        output, "complete", run, reason, actor, question="End {run}? It can't be taken back then.", yes=yes
    )


@click.command()
@run_argument
@reason_option
@actor_option
@common
async def retry(output: Output, run: str, reason: str, actor: str | None) -> Exit:
    """Try again what the run waits with."""
    return await _give(output, "retry", run, reason, actor)


@click.command()
@run_argument
@needed_reason_option
@actor_option
@yes_option
@common
async def skip(output: Output, run: str, reason: str, actor: str | None, yes: bool) -> Exit:
    """Leave out what the run waits with; the report says so."""
    question = "Leave out what {run} waits with? If it is a compensation, its effects stay on the target."
    return await _give(output, "skip", run, reason, actor, question=question, yes=yes)


async def _give(
    output: Output,
    action: str,
    run: str,
    reason: str,
    actor: str | None,
    *,
    question: str = "",
    yes: bool = True,
    to: str | None = None,
) -> Exit:
    from knarr.settings import Settings
    from starter import runs
    from starter.connect import connect
    from starter.ordering import destination, give, this_person
    from workflows.messages import Order, RollbackOrder

    service = await connect(Settings())
    handle = await runs.find(service.client, run)
    if to == "":
        to = await destination(handle)
    if question:
        where = {"": "its last checkpoint", "start": "the start"}.get(to or "", f"checkpoint {to}")
        confirmed(output, question.format(run=handle.id, to=where), yes=yes)
    who = actor or this_person()
    order = Order(actor=who, reason=reason) if to is None else RollbackOrder(actor=who, reason=reason, to=to)
    answer = await give(handle, action, order)
    output.result(f"{handle.id}: {answer.message}")
    output.document(
        "order",
        {
            "run_id": handle.id,
            "order": action,
            "actor": who,
            "reason": reason,
            "state": answer.state,
            "message": answer.message,
            "delivered": answer.delivered,
        },
    )
    return Exit.DONE
