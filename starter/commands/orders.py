"""What an operator says to a run: pause, resume, approve, abort, rollback, complete, retry, skip."""

import click

from starter.command import common, confirmed, run_argument
from starter.exits import Exit
from starter.output import Output

WHY = "Why; it stands in the audit trail."

reason_option = click.option("--reason", default="", help=WHY)
needed_reason_option = click.option("--reason", required=True, help=WHY)
actor_option = click.option(
    "--actor", envvar="KNARR_ACTOR", default=None, help="Who says so; default: user@host of this machine."
)
stop_option = click.option(
    "--stop",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="The stop that this answers, by its number in `knarr status`.  [default: the one that stands now]",
)
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


def _order(
    action: str, says: str, *, question: str = "", needs_reason: bool = False, answers: bool = False
) -> click.Command:
    """The command for an order that has a reason and nothing else, or one that answers a stop.

    Args:
        question: asked first; empty: nothing is.
    """

    @common
    async def give(
        output: Output, run: str, reason: str, actor: str | None, yes: bool = False, stop: int | None = None
    ) -> Exit:
        return await _give(output, action, run, reason, actor, question=question, yes=yes, answers=answers, stop=stop)

    options = [run_argument, needed_reason_option if needs_reason else reason_option, actor_option]
    options += [stop_option] if answers else []
    options += [yes_option] if question else []
    for option in reversed(options):
        give = option(give)
    return click.command(action, help=says)(give)


pause = _order("pause", "Start no new partition; those under way end.")
resume = _order("resume", "Go on after a pause.")
approve = _order("approve", "Release the phase that waits for approval.")
abort = _order(
    "abort",
    "Stop, and take everything back; the run ends as aborted.",
    question="Take back everything that {run} has moved?",
)
complete = _order(
    "complete",
    "End a run that is kept open; it can't be taken back then.",
    question="End {run}? It can't be taken back then.",
)
retry = _order("retry", "Try again what the run waits with.", answers=True)
skip = _order(
    "skip",
    "Leave out what the run waits with; the report says so.",
    question="Leave out what {run} waits with? If it is a compensation, its effects stay on the target.",
    needs_reason=True,
    answers=True,
)


@click.command()
@run_argument
@click.option(
    "--to",
    default="",
    help="A checkpoint, PHASE or PHASE/MAPPING, or start.  [default: the last phase that was verified]",
)
@reason_option
@actor_option
@yes_option
@common
async def rollback(output: Output, run: str, to: str, reason: str, actor: str | None, yes: bool) -> Exit:
    """Take the run back to a checkpoint, or to the start.

    Without --to: to the last phase that was verified, and `knarr resume` goes forward from there; to the start when
    there is none, or when the run has moved everything and is kept open. What came later is taken back. A run that
    stands at that checkpoint already needs --to start.

    With --to PHASE/MAPPING the rows of that mapping stay, and of those proved before it in the phase; `knarr resume`
    copies the others again.
    """
    question = "Take {run} back to {to}? What came later is taken back."
    return await _give(output, "rollback", run, reason, actor, question=question, yes=yes, to=to)


async def _give(
    output: Output,
    action: str,
    run: str,
    reason: str,
    actor: str | None,
    *,
    question: str,
    yes: bool,
    to: str | None = None,
    answers: bool = False,
    stop: int | None = None,
) -> Exit:
    from knarr.settings import Settings
    from starter import runs
    from starter.connect import connect
    from starter.foreseen import foreseen, waits_with
    from starter.ordering import give, this_person
    from workflows.messages import AnswerOrder, Order, RollbackOrder

    service = await connect(Settings())
    handle = await runs.find(service.client, run)
    who = actor or this_person()
    order = Order(actor=who, reason=reason) if to is None else RollbackOrder(actor=who, reason=reason, to=to)
    if answers and stop is None:
        status = await waits_with(handle, action)
        stop = status.stop  # 0 from a worker of before, which numbers no stop
        output.say(f"{handle.id} waits{f' at stop {stop}' if stop else ''}: {status.message}")
    if stop:
        order = AnswerOrder(actor=who, reason=reason, stop=stop)
    if question:
        order = await foreseen(handle, action, order)
        to = order.to if isinstance(order, RollbackOrder) else ""
        where = {"": "its last verified phase", "start": "the start"}.get(to, f"checkpoint {to}")
        confirmed(output, question.format(run=handle.id, to=where), yes=yes)
    answer = await give(handle, action, order)
    output.result(f"{handle.id}: {answer.message}")
    output.document(
        "order",
        {
            "run_id": handle.id,
            "order": action,
            **({"stop": stop} if answers else {}),
            "actor": who,
            "reason": reason,
            "state": answer.state,
            "message": answer.message,
            "delivered": answer.delivered,
        },
    )
    return Exit.DONE
