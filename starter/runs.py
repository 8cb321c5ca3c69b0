"""Runs as Temporal knows them: ids, starting, finding by id or by the plan's name, listing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.models import PlanDocument
from knarr.plan.load import LoadedPlan
from knarr.wording import counted
from starter.connect import ensure_search_attributes
from starter.exits import Exit
from starter.failures import StarterError
from workflows.controls import ENDED
from workflows.messages import MigrationInput, Status

WORKFLOW: Final = "Migration"
PLAN: Final = SearchAttributeKey.for_keyword("KnarrPlan")
PHASE: Final = SearchAttributeKey.for_keyword("KnarrPhase")
STATE: Final = SearchAttributeKey.for_keyword("KnarrState")
SOURCE: Final = SearchAttributeKey.for_keyword("KnarrSource")
TARGET: Final = SearchAttributeKey.for_keyword("KnarrTarget")

PLAN_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
RUN_ID: Final = re.compile(r"^(?P<plan>[a-z0-9][a-z0-9-]{0,62})/\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ$")

# How a workflow ends that could not end its run.
OUTSIDE: Final = frozenset({WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT})

# Steps that a run can be told to pause before, as workflows/ names its gates.
STEPS: Final = ("survey", "copy", "build", "foreign keys", "verify", "checkpoint", "seal")

# What the Web UI shows of every run, to be copied: the commands that somebody on duty needs first.
COMMANDS: Final = ("watch {}", "pause {} --reason ...", "abort {} --reason ...", "report {}")

RunHandle = WorkflowHandle[Any, Status]


@dataclass(frozen=True)
class Run:
    """A run in the list."""

    run_id: str
    plan: str
    source: str
    target: str
    state: str
    phase: str
    started_at: datetime
    ended_at: datetime | None


def new_run_id(plan: str, now: datetime) -> str:
    """`shop-v2/2026-11-23T10-15-02Z`: reads in every list, sorts by time, and two starts in one second collide."""
    return f"{plan}/{now.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}"


def check_steps(steps: Iterable[str]) -> list[str]:
    """Steps to pause before.

    Raises:
        StarterError: exit 2, there is no such step.
    """
    for step in (wanted := list(steps)):
        if step not in STEPS:
            raise StarterError(Exit.USAGE, f"there is no step {step!r} to pause before", hint=", ".join(STEPS))
    return wanted


async def start(
    client: Client, plan: LoadedPlan, *, task_queue: str, actor: str, pause_before: list[str], now: datetime
) -> RunHandle:
    """Start a run of `plan`.

    Raises:
        StarterError: exit 5, a run of this plan is open; the message names it.
    """
    await ensure_search_attributes(client)
    if open_run := await find_open(client, plan.plan.name):
        raise _already_open(open_run.run_id)
    name, source, target = plan.plan.name, plan.plan.source, plan.plan.target
    run_id = new_run_id(name, now)
    try:
        return await client.start_workflow(
            WORKFLOW,
            MigrationInput(
                plan_name=name,
                source=source,
                target=target,
                plan=PlanDocument(canonical=plan.canonical, digest=plan.digest),
                pause_before=pause_before,
            ),
            id=run_id,
            task_queue=task_queue,
            result_type=Status,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(PLAN, name),
                    SearchAttributePair(SOURCE, source),
                    SearchAttributePair(TARGET, target),
                    SearchAttributePair(STATE, "starting"),
                    SearchAttributePair(PHASE, "-"),
                ]
            ),
            memo={"plan": name, "plan_hash": plan.digest, "source": source, "target": target, "started_by": actor},
            static_summary=f"{name}: {source} to {target}",
            static_details=_details(plan, actor, run_id),
        )
    except WorkflowAlreadyStartedError as error:
        raise _already_open(run_id) from error


def _already_open(run_id: str) -> StarterError:
    return StarterError(
        Exit.REFUSED,
        f"a run of this plan is open already: {run_id}",
        hint=f"watch it: knarr watch {run_id}   or take it back first: knarr abort {run_id} --reason ...",
    )


def _details(plan: LoadedPlan, actor: str, run_id: str) -> str:
    """What the Web UI shows of a run, whatever happens to it. Aliases only: this is readable by everybody."""
    lines = [
        f"**{plan.plan.source} to {plan.plan.target}** · plan `{plan.plan.name}` · "
        f"{counted(len(plan.plan.mappings), 'mapping')} · started by {actor}",
        plan.plan.description,
        "\n".join(["```", *(f"knarr {command.format(run_id)}" for command in COMMANDS), "```"]),
        f"the plan's SHA-256: `{plan.digest}`",
    ]
    return "\n\n".join(line for line in lines if line)


async def find_open(client: Client, plan: str) -> Run | None:
    """The open run of a plan, or None."""
    return next(iter(await _query(client, f'{PLAN.name} = "{plan}" AND ExecutionStatus = "Running"')), None)


async def open_on(client: Client, target: str) -> list[Run]:
    """The open runs that write to a target, by its alias."""
    return await _query(client, f'{TARGET.name} = "{target}" AND ExecutionStatus = "Running"')


async def listed(client: Client, *, plan: str | None = None) -> list[Run]:
    """Runs, newest first; of one plan if it is named."""
    return await _query(client, f'{PLAN.name} = "{plan}"' if plan else "")


async def _query(client: Client, condition: str) -> list[Run]:
    query = f'WorkflowType = "{WORKFLOW}"' + (f" AND {condition}" if condition else "")
    found: dict[str, Run] = {}
    for run in sorted([_run(each) async for each in client.list_workflows(query)], key=lambda run: run.started_at):
        # A run that continued as new is several executions: it began with the first, and is what the last says.
        found[run.run_id] = replace(run, started_at=found.get(run.run_id, run).started_at)
    return sorted(found.values(), key=lambda run: run.started_at, reverse=True)


def state_of(execution: WorkflowExecution) -> str:
    """What a run last told the server of itself; how it was ended, where that came from outside and it could not."""
    state = execution.typed_search_attributes.get(STATE, "unknown")
    if execution.status in {None, WorkflowExecutionStatus.RUNNING} or state in ENDED:
        return state
    return execution.status.name.lower().replace("_", " ") if execution.status else state


def is_lost(execution: WorkflowExecution) -> bool:
    """Whether its workflow was ended from outside, as by `temporal workflow terminate`: the run was not ended by it."""
    return execution.status in OUTSIDE and state_of(execution) not in ENDED


def ways_out(run_id: str, *, first: Literal["unwind", "complete"] = "unwind") -> str:
    """The commands that end a run without its workflow; `complete` tells itself what it refuses."""
    says = {
        "unwind": f"take it back: knarr doctor --unwind {run_id} --reason ...",
        "complete": f"let it stand, if it was sealed: knarr doctor --complete {run_id} --reason ...",
    }
    other: Final = "complete" if first == "unwind" else "unwind"
    return f"{says[first]}   or {says[other]}"


def _run(execution: WorkflowExecution) -> Run:
    attributes = execution.typed_search_attributes
    return Run(
        run_id=execution.id,
        plan=attributes.get(PLAN, execution.id.split("/")[0]),
        source=attributes.get(SOURCE, ""),
        target=attributes.get(TARGET, ""),
        state=state_of(execution),
        phase=attributes.get(PHASE, "-"),
        started_at=execution.start_time,
        ended_at=execution.close_time,
    )


async def find(client: Client, name: str) -> RunHandle:
    """A run by its id, or the newest run of a plan by the plan's name (an open one before those that ended).

    Raises:
        StarterError: exit 3, there is none.
    """
    if "/" in name:
        handle: RunHandle = client.get_workflow_handle(name, result_type=Status)
        try:
            await handle.describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise _unknown(name, known_elsewhere=True) from error
            raise
        return handle
    if not PLAN_NAME.match(name):
        raise _unknown(name)
    runs = sorted(await listed(client, plan=name), key=lambda run: run.ended_at is None, reverse=True)
    if not runs:
        raise _unknown(name)
    return client.get_workflow_handle(runs[0].run_id, result_type=Status)


def _unknown(name: str, *, known_elsewhere: bool = False) -> StarterError:
    lost = f"; if its workflow was deleted, its target may know it still: knarr doctor --unwind {name}"
    return StarterError(
        Exit.NOT_FOUND,
        f"there is no run {name!r}: neither a run's id nor the name of a plan that was run",
        hint="see what there is: knarr list" + (lost if known_elsewhere else ""),
    )
