"""Which run's trail is meant, what Temporal witnesses of it, and the report made of both."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from temporalio.client import Client

from knarr.audit.chain import AuditHead
from knarr.audit.facts import ReportData, SaidFacts
from knarr.audit.gather import gather
from knarr.audit.report import render_report, report_json
from knarr.audit.signing import key_of_environment
from knarr.postgres.runs import GONE, has_schema
from knarr.postgres.session import Connection
from knarr.postgres.session import connect as connect_database
from knarr.settings import Settings
from knarr.wording import counted
from starter import runs
from starter.aliases import load_connections
from starter.connect import Service, connect
from starter.evidence import target_of, witnesses
from starter.exits import Exit
from starter.failures import StarterError
from starter.following import look

Form = Literal["html", "json"]


@dataclass(frozen=True)
class FoundRun:
    """A run, its target's alias, and what Temporal knows: the heads of its audit chain, and where the run stands."""

    run_id: str
    target: str
    witnesses: list[AuditHead]
    said: SaidFacts = field(default_factory=SaidFacts)

    def file(self, form: Form) -> Path:
        """Where its report goes unless somebody says otherwise."""
        return Path("reports") / f"{self.run_id.replace('/', '_')}.{form}"


async def named_run(settings: Settings, run: str, target: str | None) -> FoundRun:
    """The run by id or plan; with a target given, Temporal isn't asked and there are no witnesses.

    Raises:
        StarterError: exit 3, there is no such run; exit 4, Temporal does not answer.
    """
    if target is not None:
        return FoundRun(run, target, [])
    service = await connect(settings)
    return await found_run(service, await runs.find(service.client, run))


async def found_run(service: Service, handle: runs.RunHandle) -> FoundRun:
    """A run with what Temporal's history witnesses of it, and what it says of itself."""
    heads = await witnesses(service.client, handle.id)
    return FoundRun(handle.id, await target_of(handle), heads, await said_by(service.client, handle))


async def said_by(client: Client, handle: runs.RunHandle) -> SaidFacts:
    """What a run says of itself, or told the server last where no worker answers."""
    seen = await look(client, handle)
    if not seen.running or seen.progress is None:
        return SaidFacts(state=seen.told)
    status = seen.progress.status
    return SaidFacts(state=status.state, waiting_for=status.waiting_for, message=status.message)


async def require_record(connection: Connection, found: FoundRun) -> None:
    """There is a knarr schema where the run is said to have written.

    Raises:
        StarterError: exit 3, there is none: nothing there says what the run did.
        PlanError, TransientError: as the server says.
    """
    if await has_schema(connection):
        return
    heads = counted(len(found.witnesses), "head")
    there = f"; Temporal's history has {heads} of that trail, so it was there" if found.witnesses else ""
    raise StarterError(
        Exit.NOT_FOUND,
        f"{found.target} has no knarr schema, in which the record and the trail of {found.run_id} would be{there}",
        hint=f"does {found.target} lead to the database that the run has written to? If it does, and {GONE}",
    )


async def write_report(settings: Settings, found: FoundRun, file: Path, form: Form = "html") -> ReportData:
    """Gather everything that the target and Temporal know of a run, and write it to a file.

    With a signing key in the environment the verdicts' signatures are checked too.

    Raises:
        StarterError: exit 3, the target has no knarr schema.
        PlanError: the target knows no such run, or the signing key can't be read.
        TransientError: the target does not answer.
    """
    key = key_of_environment()
    dsn = load_connections(settings).resolve(found.target)
    connection = await connect_database(dsn, application_name="knarr report", read_only=True)
    try:
        await require_record(connection, found)
        data = await gather(connection, found.run_id, found.witnesses, key, found.said)
    finally:
        await connection.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render_report(data) if form == "html" else report_json(data), encoding="utf-8")
    return data
