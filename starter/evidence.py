"""What Temporal witnesses of a run: its target, and each head of the audit chain that an activity returned."""

from collections.abc import Iterator
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from knarr.audit.chain import AuditHead
from starter.exits import Exit
from starter.failures import StarterError
from starter.runs import RunHandle

_JSON: Final = TypeAdapter(JsonValue)


async def target_of(handle: RunHandle) -> str:
    """The alias of the target that a run wrote to.

    Raises:
        StarterError: exit 3, the workflow was not started by Knarr.
    """
    memo = await (await handle.describe()).memo()
    target = memo.get("target")
    if not isinstance(target, str):
        raise StarterError(
            Exit.NOT_FOUND, f"the workflow {handle.id} has no memo of its target", hint="name it: --target ALIAS"
        )
    return target


async def witnesses(client: Client, run_id: str) -> list[AuditHead]:
    """Heads that Temporal's history holds: of the run, of all it continued as, and of its children."""
    query = f'WorkflowId = "{run_id}" OR WorkflowId STARTS_WITH "{run_id}/"'
    heads: set[AuditHead] = set()
    async for execution in client.list_workflows(query):
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            if event.event_type is not EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                continue
            for value in await client.data_converter.decode(
                event.activity_task_completed_event_attributes.result.payloads
            ):
                heads.update(heads_in(_JSON.validate_python(value)))
    return sorted(heads, key=lambda head: head.position)


def heads_in(value: JsonValue) -> Iterator[AuditHead]:
    """Every audit head in an activity's result, however deep: {"position": ..., "digest": ...} under `head`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "head" and isinstance(inner, dict):
                try:
                    yield AuditHead.model_validate(inner)
                except ValidationError:
                    yield from heads_in(inner)
            else:
                yield from heads_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from heads_in(inner)
