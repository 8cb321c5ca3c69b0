"""Which errors are tried again, how often, and how long an attempt may take."""

import dataclasses
import uuid
from datetime import timedelta
from typing import Final

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from activities import context
from activities.models import RunContext
from knarr import errors
from knarr.local.temporal import TemporalServer
from knarr.plan.models import Limits
from knarr.plan.rules import LONGEST_STATEMENT
from knarr.plan.units import seconds
from workflows import guarding, policies

RUN: Final = RunContext(run_id="r", plan="p", source="s", target="t")
QUICK: Final = timedelta(milliseconds=50)
attempts: list[str] = []


@activity.defn
async def fail(kind: str) -> None:
    """Fails as an activity of the house does, with an error of that kind."""
    async with context.working("failing", RUN):
        attempts.append(kind)
        raise getattr(errors, kind, KeyError)("as a test wants it")


@workflow.defn(sandboxed=False)
class Trying:
    @workflow.run
    async def run(self, kind: str, name: str) -> None:
        """Calls `fail` under a policy of the house, with shorter pauses."""
        options = dict(getattr(policies, name))
        options["retry_policy"] = dataclasses.replace(options["retry_policy"], initial_interval=QUICK)
        await workflow.execute_activity(fail, kind, **options)


@pytest.mark.parametrize(
    ("kind", "policy", "expected"),
    [
        ("Unexpected", "LONG", context.UNEXPECTED_ATTEMPTS),
        ("Unexpected", "COPY", context.UNEXPECTED_ATTEMPTS),
        ("Unexpected", "COMPENSATION", context.UNEXPECTED_ATTEMPTS),
        ("DataError", "LONG", 1),
        ("PlanError", "COMPENSATION", 1),
        ("TransientError", "COMPENSATION", policies.COMPENSATION_ATTEMPTS),
    ],
)
async def test_an_error_is_tried_as_often_as_its_kind_deserves(
    kind: str, policy: str, expected: int, temporal: TemporalServer
) -> None:
    client = await Client.connect(temporal.address)
    attempts.clear()
    async with Worker(client, task_queue="policies", workflows=[Trying], activities=[fail]):
        with pytest.raises(WorkflowFailureError) as ended:
            await client.execute_workflow(
                Trying.run, args=[kind, policy], id=f"policies-{uuid.uuid4()}", task_queue="policies"
            )

    assert isinstance(ended.value.cause, ActivityError)
    assert isinstance(ended.value.cause.cause, ApplicationError)
    assert ended.value.cause.cause.type == kind
    assert len(attempts) == expected


def test_every_class_of_ours_but_the_transient_is_final() -> None:
    ours = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.KnarrError)}

    assert set(policies.FINAL_ERRORS) == ours - {"KnarrError", "TransientError"}


def test_an_attempt_outlasts_what_the_servers_end_by_themselves() -> None:
    statement = seconds(LONGEST_STATEMENT)

    assert seconds(Limits().statement_timeout) <= statement
    for options in (policies.LONG, policies.COPY, policies.VERIFY, policies.COMPENSATION):
        assert options["start_to_close_timeout"].total_seconds() >= 2 * statement
    assert policies.BRIEF["start_to_close_timeout"].total_seconds() > seconds(Limits().lock_timeout)
    assert guarding.WATCH_SECONDS < policies.GUARD["start_to_close_timeout"].total_seconds() <= 3_600


def test_a_stop_of_a_year_is_a_history_that_the_server_does_not_end() -> None:
    assert [policies.pause(failures).total_seconds() / 60 for failures in (1, 2, 3, 7, 8_000)] == [1, 2, 4, 60, 60]
    # A dozen events each, and the workflow is told to continue as new after 4,096 of the 51,200 that it may have.
    assert 12 * timedelta(days=14) / policies.LONGEST_PAUSE < 4_096


def test_a_worker_that_died_is_noticed_after_a_few_missed_beats() -> None:
    assert policies.HEARTBEAT_TIMEOUT.total_seconds() > 3 * context.SECONDS_BETWEEN_BEATS
