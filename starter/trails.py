"""Which run's trail is meant, where it lies, and what Temporal witnesses of it."""

from dataclasses import dataclass

from knarr.audit.chain import AuditHead
from knarr.settings import Settings
from starter import runs
from starter.connect import connect
from starter.evidence import target_of, witnesses


@dataclass(frozen=True)
class FoundRun:
    """A run, its target's alias, and the heads of its audit chain that Temporal's history holds."""

    run_id: str
    target: str
    witnesses: list[AuditHead]


async def found_run(settings: Settings, run: str, target: str | None) -> FoundRun:
    """The run by id or plan; with a target given, Temporal isn't asked and there are no witnesses.

    Raises:
        StarterError: exit 3, there is no such run; exit 4, Temporal does not answer.
    """
    if target is not None:
        return FoundRun(run, target, [])
    service = await connect(settings)
    handle = await runs.find(service.client, run)
    return FoundRun(handle.id, await target_of(handle), await witnesses(service.client, handle.id))
