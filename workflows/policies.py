"""Timeouts and retries of every activity, in one place: what may take how long, and what is tried again."""

from dataclasses import replace
from datetime import timedelta
from typing import Final, TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType

# Classes that no retry can help; the others (TransientError, an activity that timed out) are retried without end,
# since an operator can abort at any time. Names are those of knarr.errors.
FINAL_ERRORS: Final = ["PlanError", "SurveyRefused", "ClaimRefused", "DataError", "LostLease", "Unexpected"]

# A worker that died is noticed after this; the worker sends heartbeats every two seconds.
HEARTBEAT_TIMEOUT: Final = timedelta(seconds=15)

COMPENSATION_ATTEMPTS: Final = 8


class ActivityOptions(TypedDict):
    """The options that `workflow.execute_activity` takes from here."""

    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType


def _options(
    longest: timedelta,
    retry: RetryPolicy,
    # The workflow does not wait for a cancelled activity: the epoch is raised before anything is undone,
    # which ends the activity's backends and fences what they might still send.
    cancellation: ActivityCancellationType = ActivityCancellationType.TRY_CANCEL,
) -> ActivityOptions:
    return ActivityOptions(
        start_to_close_timeout=longest,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=retry,
        cancellation_type=cancellation,
    )


_UNTIL_IT_WORKS: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=30),
    non_retryable_error_types=FINAL_ERRORS,
)

# Short statements on small tables of the knarr schema.
BRIEF: Final = _options(timedelta(minutes=5), _UNTIL_IT_WORKS)

# Before there is a lease nothing is fenced, so a run that turns back waits for its claim to have ended.
CLAIM: Final = _options(timedelta(minutes=5), _UNTIL_IT_WORKS, ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)

# Reads both catalogues and counts keys; builds an index; counts a table.
LONG: Final = _options(timedelta(hours=12), _UNTIL_IT_WORKS)

# One run of partitions.
COPY: Final = _options(timedelta(hours=12), _UNTIL_IT_WORKS)
VERIFY: Final = _options(timedelta(hours=12), _UNTIL_IT_WORKS)

# Watching guards; the activity itself decides how long an error of a server may last.
GUARD: Final = _options(timedelta(hours=12), _UNTIL_IT_WORKS)


def copy_options(errors_allowed: int | None) -> ActivityOptions:
    """Options for copying; with the plan's criterion `errors N` one partition is tried N + 1 times and no more."""
    if errors_allowed is None:
        return COPY
    return ActivityOptions(
        start_to_close_timeout=COPY["start_to_close_timeout"],
        heartbeat_timeout=COPY["heartbeat_timeout"],
        retry_policy=replace(COPY["retry_policy"], maximum_attempts=errors_allowed + 1),
        cancellation_type=COPY["cancellation_type"],
    )


# Bounded: after these attempts a person is asked. Unexpected errors are tried again too: nothing is given up lightly.
COMPENSATION: Final = _options(
    timedelta(hours=12),
    RetryPolicy(
        initial_interval=timedelta(seconds=1),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=30),
        maximum_attempts=COMPENSATION_ATTEMPTS,
    ),
)
