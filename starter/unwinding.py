"""Taking a run back without Temporal: finding it, making sure that nobody still runs it, and asking."""

from collections.abc import Callable
from dataclasses import dataclass

import click

from knarr.errors import KnarrError
from knarr.postgres import runs
from knarr.postgres.session import Connection, connect
from knarr.postgres.unwind import Unwound, unwind
from knarr.settings import Connections, Settings
from starter.connect import connect as connect_to_temporal
from starter.exits import Exit
from starter.failures import StarterError
from starter.output import Output
from starter.service_checkup import fate


@dataclass(frozen=True)
class Lost:
    """A run as its target knows it."""

    run_id: str
    plan: str
    source: str
    target: str
    state: str


async def find(connections: Connections, run_id: str, alias: str | None) -> Lost:
    """Looks for the run in the named target, or wherever an alias leads.

    Raises:
        StarterError: exit 3, no database that answers knows it.
    """
    asked: list[str] = []
    for name in [alias] if alias else connections.aliases:
        try:
            connection = await connect(connections.resolve(name), application_name="knarr doctor", read_only=True)
        except KnarrError as error:
            asked.append(f"{name} ({connections.redact(error.message)})")
            continue
        try:
            asked.append(name)
            if await runs.is_known(connection, run_id):
                record = await runs.load_run(connection, run_id)
                return Lost(run_id, record.plan.name, record.plan.source, name, record.state)
        finally:
            await connection.close()
    raise StarterError(
        Exit.NOT_FOUND,
        f"no database knows a run {run_id!r}; asked: {', '.join(asked) or 'none'}",
        hint="name the target: --target ALIAS; `knarr doctor` lists the runs that hold tables",
    )


async def still_running(settings: Settings, run_id: str) -> str:
    """Why the run may still be at work, in a sentence; empty when Temporal says that it is not."""
    try:
        service = await connect_to_temporal(settings)
    except StarterError as error:
        return f"Temporal can't be asked whether {run_id} still runs: {error.message}"
    if await fate(service.client, run_id) == "running":
        return f"the workflow of {run_id} still runs at {service.address}; it takes itself back: knarr abort {run_id}"
    return ""


def confirm(output: Output, lost: Lost, doubt: str, *, force: bool, yes: bool, typed: str) -> None:
    """Asks before anything is taken back; with doubts only a typed run id will do.

    Raises:
        StarterError: exit 5, there are doubts and no --force; exit 6, not confirmed.
    """
    if doubt and not force:
        raise StarterError(
            Exit.REFUSED,
            doubt,
            hint="if you are sure that nobody runs it any more: --force, and type the run's id (--yes --confirm RUN)",
        )
    question = f"Take back everything that {lost.run_id} did to {lost.target}, from the ledger there?"
    if not output.interactive:
        if not yes or (doubt and typed != lost.run_id):
            needed = f"--yes --confirm {lost.run_id}" if doubt else "--yes"
            raise StarterError(
                Exit.UNCONFIRMED, f"{question} There is no terminal to ask on.", hint=f"say {needed} if that is so"
            )
        return
    if doubt:
        output.say(f"warning: {doubt}")
        if typed != lost.run_id and click.prompt(f"{question}\nType the run's id", err=True) != lost.run_id:
            raise StarterError(Exit.UNCONFIRMED, "that is not the run's id; nothing was done")
    elif not yes and not click.confirm(question, err=True):
        raise StarterError(Exit.UNCONFIRMED, "not confirmed; nothing was done")


async def take_back(
    connections: Connections, lost: Lost, *, actor: str, reason: str, on_step: Callable[[str], None]
) -> Unwound:
    """Unwinds the run on connections of its own.

    Raises:
        KnarrError: as `knarr.postgres.unwind.unwind`.
    """
    name = "knarr doctor --unwind"
    target = await connect(connections.resolve(lost.target), application_name=name)
    try:
        source = await _source(connections, lost, name)
        try:
            return await unwind(target, source, lost.run_id, actor=actor, reason=reason, on_step=on_step)
        finally:
            await source.close()
    finally:
        await target.close()


async def _source(connections: Connections, lost: Lost, name: str) -> Connection:
    return await connect(connections.resolve(lost.source), application_name=name, read_only=True)
