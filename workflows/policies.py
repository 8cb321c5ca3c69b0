"""Timeouts and retries of every activity, in one place: what may take how long, and what is tried again."""

from dataclasses import replace
from datetime import timedelta
from typing import Final, TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType

# Classes that no retry can help. The others are retried without end, since an operator can abort at any time: a
# TransientError, an attempt that timed out. An error that Knarr does not know is tried a few times and then final: its
# activity says when (activities.context.UNEXPECTED_ATTEMPTS). Names are those of knarr.errors.
FINAL_ERRORS: Final = ["PlanError", "SurveyRefused", "ClaimRefused", "DataError", "LostLease"]

# A worker that died is noticed after this; the worker sends heartbeats every two seconds.
HEARTBEAT_TIMEOUT: Final = timedelta(seconds=15)

# The last bound of an attempt that hangs in our own code while its heartbeats go on (a Python transform that never
# returns). What hangs elsewhere has ended long before: a statement after `limits.statement_timeout`, which is 6 h by
# default, a wait for a lock after `limits.lock_timeout`, a connection whose peer is gone by its keepalives. It must be
# longer than the longest attempt that is well, or that one would begin again for ever. That is two statements, one
# after the other, as a merge stages a partition and then merges it; a keyless table is one partition, however large.
# A timed-out attempt loses one partition or one index: what was committed before is found in the ledger.
LONGEST_ATTEMPT: Final = timedelta(hours=12)

# Watching lasts half an hour by itself (guarding.WATCH_SECONDS), and a guard is asked for thirty seconds at most.
LONGEST_WATCH: Final = timedelta(hours=1)

COMPENSATION_ATTEMPTS: Final = 8

# Between attempts that a workflow makes by itself once those of an activity are used up. Each is a dozen events, and
# the server ends a workflow of 51,200: one that tried every minute would not see its second week.
FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(hours=1)


def pause(failures: int) -> timedelta:
    """How long to wait after so many failures in a row, one or more: soon at first, then ever more seldom."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(failures - 1, 20)))


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

# Short statements on small tables of the knarr schema; five minutes outlast a lock that is waited for and a restart.
BRIEF: Final = _options(timedelta(minutes=5), _UNTIL_IT_WORKS)

# Before there is a lease nothing is fenced, so a run that turns back waits for its claim to have ended.
CLAIM: Final = _options(timedelta(minutes=5), _UNTIL_IT_WORKS, ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)

# Reads both catalogues and counts keys; builds a mapping's indexes, each committed by itself; repairs; seals.
LONG: Final = _options(LONGEST_ATTEMPT, _UNTIL_IT_WORKS)

# One partition.
COPY: Final = _options(LONGEST_ATTEMPT, _UNTIL_IT_WORKS)

# One partition, or one check; `verification.pause_while` may hold it back while the servers are busy.
VERIFY: Final = _options(LONGEST_ATTEMPT, _UNTIL_IT_WORKS)

# The activity itself decides how long an error of a server may last.
GUARD: Final = _options(LONGEST_WATCH, _UNTIL_IT_WORKS)


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


# Bounded: after these attempts a person is asked, at once after an error that no retry can help. To take rows back is
# one statement, or batches that are not taken back twice.
COMPENSATION: Final = _options(
    LONGEST_ATTEMPT,
    RetryPolicy(
        initial_interval=timedelta(seconds=1),
        backoff_coefficient=2.0,
        maximum_interval=timedelta(seconds=30),
        maximum_attempts=COMPENSATION_ATTEMPTS,
    ),
)
