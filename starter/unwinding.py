"""Ending a run without Temporal: finding it, making sure that nobody still runs it, asking, and doing it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import click

from knarr.errors import DataError, KnarrError, PlanError, TransientError
from knarr.postgres import runs
from knarr.postgres.lease import RAISING
from knarr.postgres.mappings import load_mappings
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey.locks import LOCK_TIMEOUT, holders_on_target, naming
from knarr.postgres.unwind import let_stand, unwind
from knarr.settings import Connections, Settings
from knarr.wording import counted
from starter.connect import connect as connect_to_temporal
from starter.exits import Exit
from starter.failures import StarterError
from starter.ordering import this_person
from starter.output import Output
from starter.service_checkup import fate, may_be_elsewhere

NAME = "knarr doctor"


@dataclass(frozen=True)
class Lost:
    """A run as its target knows it."""

    run_id: str
    source: str
    target: str
    state: str


@dataclass(frozen=True)
class Wish:
    """What somebody wants of a run, and how surely."""

    taken_back: bool
    reason: str
    actor: str | None
    force: bool
    yes: bool
    typed: str


async def find(connections: Connections, run_id: str, alias: str | None) -> Lost:
    """Looks for the run in the named target, or wherever an alias leads.

    Raises:
        StarterError: exit 3, no database that answers knows it.
    """
    asked: list[str] = []
    for name in [alias] if alias else connections.aliases:
        try:
            connection = await connect(connections.resolve(name), application_name=NAME, read_only=True)
        except KnarrError as error:
            asked.append(f"{name} ({connections.redact(error.message)})")
            continue
        try:
            asked.append(name)
            if await runs.is_known(connection, run_id):
                record = await runs.load_run(connection, run_id)
                return Lost(run_id, record.plan.source, name, record.state)
        finally:
            await connection.close()
    raise StarterError(
        Exit.NOT_FOUND,
        f"no database knows a run {run_id!r}; asked: {', '.join(asked) or 'none'}",
        hint="name the target: --target ALIAS; `knarr doctor` lists the runs that hold tables",
    )


async def end(output: Output, settings: Settings, connections: Connections, lost: Lost, wish: Wish) -> Exit:
    """Takes the run back, or lets it stand, when nobody runs it any more and the person is sure.

    Raises:
        StarterError: exit 5, it has ended or somebody still runs it; exit 6, not confirmed.
        KnarrError: as `unwind` and `let_stand`.
    """
    if wish.taken_back and lost.state == "completed":
        message = f"run {lost.run_id} has completed: it let go of {lost.target} and can't be taken back"
        raise StarterError(Exit.REFUSED, message, hint=f"what it did: knarr report {lost.run_id}")
    doubt = await _still_running(settings, lost.run_id)
    _confirm(output, lost, wish, doubt)
    told, document = await (_take_back if wish.taken_back else _let_stand)(output, connections, lost, wish)
    output.result(told)
    if doubt:
        output.result(f"next: make sure that nothing goes on with it: temporal workflow terminate -w {lost.run_id}")
    output.document("run ended", {"run_id": lost.run_id, "target": lost.target, **document})
    return Exit.DONE


async def _still_running(settings: Settings, run_id: str) -> str:
    """Why the run may still be at work, in a sentence; empty when Temporal says that it is not."""
    try:
        service = await connect_to_temporal(settings)
    except StarterError as error:
        return f"Temporal can't be asked whether {run_id} still runs: {error.message}"
    found = await fate(service.client, run_id)
    if found == "not known":
        return may_be_elsewhere(service)
    if found == "running":
        return f"the workflow of {run_id} still runs at {service.address}; it takes itself back: knarr abort {run_id}"
    return ""


def _confirm(output: Output, lost: Lost, wish: Wish, doubt: str) -> None:
    """Asks before anything is done; with doubts only a typed run id will do."""
    if doubt and not wish.force:
        raise StarterError(
            Exit.REFUSED,
            doubt,
            hint="if you are sure that nobody runs it any more: --force, and type the run's id (--yes --confirm RUN)",
        )
    question = f"Take back everything that {lost.run_id} did to {lost.target}, from the ledger there?"
    if not wish.taken_back:
        question = f"Let everything stand that {lost.run_id} did to {lost.target}? It can't be taken back then."
    if not output.interactive:
        if not wish.yes or (doubt and wish.typed != lost.run_id):
            needed = f"--yes --confirm {lost.run_id}" if doubt else "--yes"
            raise StarterError(
                Exit.UNCONFIRMED, f"{question} There is no terminal to ask on.", hint=f"say {needed} if that is so"
            )
    elif doubt:
        output.say(f"warning: {doubt}")
        typed = wish.typed or click.prompt(f"{question}\nType the run's id", err=True)
        if typed != lost.run_id:
            raise StarterError(Exit.UNCONFIRMED, "that is not the run's id; nothing was done")
    elif not wish.yes and not click.confirm(question, err=True):
        raise StarterError(Exit.UNCONFIRMED, "not confirmed; nothing was done")


async def _take_back(
    output: Output, connections: Connections, lost: Lost, wish: Wish
) -> tuple[str, dict[str, int | str]]:
    @asynccontextmanager
    async def source() -> AsyncIterator[Connection]:
        connection = await connect(connections.resolve(lost.source), application_name=NAME, read_only=True)
        try:
            yield connection
        finally:
            await connection.close()

    target = await connect(connections.resolve(lost.target), application_name=NAME)
    try:
        done = await unwind(
            target,
            source,
            lost.run_id,
            actor=wish.actor or this_person(),
            reason=wish.reason or "its workflow is gone",
            on_step=output.say,
        )
    except (DataError, PlanError) as error:
        raise _stopped(error, lost) from error
    except TransientError as error:
        if error.sqlstate != LOCK_TIMEOUT or target.is_closed() or error.message.startswith(RAISING):
            raise
        tables = [each.target for each in await load_mappings(target, lost.run_id)]
        raise naming(error, await holders_on_target(target, tables)) from error
    finally:
        await target.close()
    if lost.state in ("rolled back", "aborted"):
        told = f"{lost.run_id} has been taken back before (its record says: {lost.state}); nothing was left to do."
        return told, {"state": lost.state, **done.model_dump(mode="json")}
    changes = f"{counted(done.changes, 'change')} of the undo log, " if done.changes else ""
    told = (
        f"{lost.run_id} is taken back: {counted(done.rows, 'row')}, {changes}{counted(done.objects, 'object')}, "
        f"{counted(done.sequences, 'sequence')}, {counted(done.verdicts, 'verdict')} withdrawn. "
        + (f"Not as it was before: {'; '.join(done.left)}." if done.left else "The target is what it was before.")
    )
    return told, {"state": "rolled back", **done.model_dump(mode="json")}


def _stopped(error: KnarrError, lost: Lost) -> StarterError:
    """Why it stopped, and the command that goes on: what the engine hints at is written for a run with a workflow."""
    go_on = f"knarr doctor --unwind {lost.run_id} --reason ..."
    hint = error.hint.rstrip(".;")
    return StarterError(
        Exit.WAITING,
        f"{lost.run_id} is not taken back as a whole; it waits for a person.\n{error.detail or error.message}",
        hint=f"{hint}.\nHere nobody takes a retry or a skip; this goes on: {go_on}" if hint else go_on,
    )


async def _let_stand(
    output: Output, connections: Connections, lost: Lost, wish: Wish
) -> tuple[str, dict[str, int | str]]:
    target = await connect(connections.resolve(lost.target), application_name=NAME)
    try:
        dropped = await let_stand(
            target, lost.run_id, actor=wish.actor or this_person(), reason=wish.reason or "its workflow is gone"
        )
    finally:
        await target.close()
    entries = counted(dropped, "entry", "entries")
    told = f"{lost.run_id} stands: its tables are free, {entries} of the undo log dropped."
    return told, {"state": "completed", "undo_entries_dropped": dropped}
