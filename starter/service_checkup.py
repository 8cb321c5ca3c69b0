"""What `knarr doctor` looks at in Temporal: server, namespace, search attributes, workers, and runs gone astray."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from knarr.local.temporal import SEARCH_ATTRIBUTES
from knarr.postgres.health import HeldLease
from knarr.postgres.runs import GONE
from knarr.wording import counted
from starter.checkup import Line
from starter.connect import Service
from starter.exits import Exit
from starter.runs import open_on
from workflows.controls import ENDED

# A worker asks for work again after at most a minute; the server remembers it for five.
POLLED_WITHIN_SECONDS: Final = 75.0


async def look_at_service(service: Service) -> list[Line]:
    """The server, the namespace, what a run writes there, and who works.

    Raises:
        RPCError: the server stopped answering.
    """
    client = service.client
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    whose = f", which keeps its runs in {service.folder}" if service.folder else ""
    lines = [Line("ok", "Temporal", f"server {info.server_version} at {service.address}{whose}")]
    try:
        described = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        fix = f"temporal operator namespace create -n {client.namespace}; or set TEMPORAL_NAMESPACE"
        return [*lines, Line("fail", "namespace", f"there is no namespace {client.namespace}", fix, Exit.UNREACHABLE)]
    kept = described.config.workflow_execution_retention_ttl.ToTimedelta()
    lines.append(Line("ok", "namespace", f"{client.namespace}, keeps histories for {kept.total_seconds() / 3600:g} h"))
    return [*lines, await _search_attributes(client), await _workers(client, service.task_queue)]


async def _search_attributes(client: Client) -> Line:
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = sorted(SEARCH_ATTRIBUTES.keys() - known.custom_attributes.keys())
    if not missing:
        return Line("ok", "search attributes", ", ".join(sorted(SEARCH_ATTRIBUTES)))
    names = " ".join(f"--name {name} --type Keyword" for name in missing)
    fix = f"knarr start adds them if it may, else: temporal operator search-attribute create {names}"
    return Line("warn", "search attributes", f"missing: {', '.join(missing)}", fix)


async def _workers(client: Client, task_queue: str) -> Line:
    now = datetime.now(UTC)
    recent: set[str] = set()
    for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
        queue = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
            )
        )
        recent |= {
            poller.identity
            for poller in queue.pollers
            if (now - poller.last_access_time.ToDatetime(UTC)).total_seconds() < POLLED_WITHIN_SECONDS
        }
    if recent:
        return Line("ok", "workers", f"{len(recent):,} on task queue {task_queue}: {', '.join(sorted(recent)[:3])}")
    found = f"nobody has asked task queue {task_queue} for work within {POLLED_WITHIN_SECONDS:.0f} s"
    return Line("warn", "workers", found, "knarr worker; or set KNARR_TASK_QUEUE to the workers' queue")


async def fate(client: Client, run_id: str) -> str:
    """What Temporal says of a run: `running`, how it ended, or `not known`."""
    try:
        description = await client.get_workflow_handle(run_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return "not known"
        raise
    if description.status is None or description.status is WorkflowExecutionStatus.RUNNING:
        return "running"
    return description.status.name.lower().replace("_", " ")


def may_be_elsewhere(service: Service) -> str:
    """Why a run that this server does not know may be alive all the same; empty where that would be far-fetched."""
    if service.folder is None:
        return ""
    return f"{service.address} is the server of another folder, {service.folder}: this run may be kept in its own"


async def look_for_records(service: Service, alias: str, held: Sequence[HeldLease], plan: str | None) -> list[Line]:
    """Runs that are open here and have written to the alias, and of which the database behind it knows nothing.

    Args:
        plan: the plan that was asked about; a run of another may write to a database that is called the same elsewhere.
    """
    known = {each.run_id for each in held}
    return [
        Line(
            "fail" if run.plan == plan else "warn",
            f"{alias}: record of {run.run_id}",
            f"its workflow is open ({run.state}), and there is no record of it here",
            f"does {alias} lead to the database that the run has written to? If it does, and {GONE}",
            Exit.WAITING if run.plan == plan else Exit.DONE,
        )
        for run in await open_on(service.client, alias)
        # What has no phase yet may have claimed nothing; one that is unwinding may let go at this moment.
        if run.run_id not in known and run.phase != "-" and run.state not in {"unwinding", *ENDED}
    ]


async def look_at_lease(service: Service | None, alias: str, held: HeldLease) -> Line:
    """One run that holds tables: is anybody there who will let go of them?"""
    subject = f"{alias}: lease of {held.run_id}"
    what = (
        f"{counted(len(held.tables), 'table')}, {counted(held.rows, 'row')}, {counted(held.objects, 'object')}, "
        f"since {held.started_at:%Y-%m-%d %H:%M}"
    )
    if service is None:
        return Line("warn", subject, f"{what} UTC; Temporal can't be asked about it", "let Temporal answer first")
    client = service.client
    found = await fate(client, held.run_id)
    if found == "running":
        return Line("ok", subject, f"{what} UTC; its workflow is running")
    fix = f"knarr doctor --unwind {held.run_id} --target {alias} takes it back from the ledger"
    if held.state == "sealed":
        fix += f"; it was proved and sealed, so --complete {held.run_id} may let it stand instead"
    if found != "not known":
        why = f"its workflow has ended ({found}) and did not let go"
        return Line("fail", subject, f"orphaned: {what} UTC; {why}", fix, Exit.WAITING)
    there = f"the Temporal at {service.address} (namespace {client.namespace}) does not know its workflow"
    ask = (
        "ask where it was started: in that folder `knarr up --worker` or `knarr run PLAN`, or with its TEMPORAL_ADDRESS"
    )
    if doubt := may_be_elsewhere(service):
        return Line("warn", subject, f"{what} UTC; {there}: {doubt}", ask)
    why = f"{there}: deleted, lost, or elsewhere"
    return Line("fail", subject, f"orphaned: {what} UTC; {why}", f"{ask}. If it is gone: {fix}", Exit.WAITING)
