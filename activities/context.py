"""What every activity works in: connections, heartbeats, bound logs, and errors that Temporal understands."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

import asyncpg
import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.models import Message, RunContext
from knarr.errors import KnarrError, PlanError, TransientError, raised_at
from knarr.postgres import mappings, runs, schema
from knarr.postgres.failures import classified, classify
from knarr.postgres.lease import Lease, attempt_lock
from knarr.postgres.session import Connection, Pools
from knarr.postgres.survey import locks
from knarr.telemetry import metrics
from knarr.telemetry.scrub import scrub

log = structlog.get_logger(__name__)

# Cancellation reaches an activity with the answer to a heartbeat, so this bounds how long an abort may take to land.
SECONDS_BETWEEN_BEATS: Final = 2.0

# From this attempt on an error that we do not know counts as a bug and is final: a step turns the run back, a
# compensation asks a person. Before, it is tried again: what nobody thought of may pass by itself.
UNEXPECTED_ATTEMPTS: Final = 3

LONGEST_MESSAGE: Final = 2_000

# Steps that wait for locks of Knarr's own.
WAIT_FOR_NO_TABLE: Final = ("claim", "raise epoch", "release")
HOLDERS_WITHIN_SECONDS: Final = 5.0

# History holds no row. The log of the worker that met it is the operator's own.
IN_THE_LOG: Final = "The whole of it, with the values, is in this worker's log."

_pools: Pools | None = None

# Each attempt runs in a context of its own. Its later connections must not end its earlier ones.
_older_ended: ContextVar[bool] = ContextVar("older_ended", default=False)


def use(pools: Pools) -> None:
    """Gives the activities of this process their connections. Called once, by the worker."""
    global _pools
    _pools = pools


def pools() -> Pools:
    """The worker's pools, one for each alias."""
    if _pools is None:
        raise RuntimeError("activities.context.use() has not been called: this process is not a worker")
    return _pools


@asynccontextmanager
async def source_of(run: RunContext) -> AsyncIterator[Connection]:
    """A connection to the run's source."""
    async with pools().acquire(run.source) as connection:
        yield connection


@asynccontextmanager
async def target_of(run: RunContext) -> AsyncIterator[Connection]:
    """A connection to the run's target, after ending those of this activity's older attempts, which may be frozen."""
    info = activity.info()
    async with pools().acquire(run.target) as connection:
        with classified("ending older attempts"):
            older = info.attempt > 1 and not _older_ended.get()
            await attempt_lock(connection, f"{info.workflow_run_id}/{info.activity_id}", end_others=older)
            _older_ended.set(True)
        await schema.upgrade(connection)
        yield connection


def lease_of(run: RunContext) -> Lease:
    """The lease that a writing step was given. Raises PlanError when the workflow gave none."""
    if run.lease is None:
        raise PlanError(f"run {run.run_id} holds no lease on {run.target}", hint="the claim must come first")
    return run.lease


def led_elsewhere(run: RunContext) -> PlanError:
    """The error for a target that does not know a run which holds a lease: a worker with another address, a failover to

    a server without Knarr. Nothing may be undone there, and nothing taken for undone.
    """
    return PlanError(
        f"the database that {run.target} leads to now does not know run {run.run_id}, which holds a lease on another",
        hint=f"is the alias the run's? Let {run.target} lead to the database that the run has written to, then retry; "
        f"if it does, and {runs.GONE}",
    )


@asynccontextmanager
async def working(
    step: str,
    run: RunContext,
    *,
    mapping: int = -1,
    partition: int = -1,
    undoing: bool = False,
    beat: Callable[[], Message] | None = None,
) -> AsyncIterator[None]:
    """The frame of every activity: heartbeats with `beat()` as details, bound logs, counted and classified ends.

    Raises ApplicationError whose type is the class of our error; only TransientError and, a few times, an error that
    we do not know are retryable. The cause is logged here and not sent on: server texts may quote rows.
    """
    bound = {"run": run.run_id, "step": step, "attempt": activity.info().attempt}
    if mapping >= 0:
        bound["mapping"] = mapping
    if partition >= 0:
        bound["partition"] = partition
    ended = metrics.compensation_ended if undoing else metrics.step_ended
    with structlog.contextvars.bound_contextvars(**bound):
        beating = asyncio.create_task(_beat(beat))
        try:
            yield
            ended(run.plan, step, "done")
        except asyncio.CancelledError:
            log.info("cancelled")
            ended(run.plan, step, "cancelled")
            raise
        except Exception as error:
            failed = failure(await _with_holders(error, run, step, mapping, undoing), step, undoing=undoing)
            ended(run.plan, step, failed.type or "Unexpected")
            raise failed from None
        finally:
            beating.cancel()


async def _with_holders(error: Exception, run: RunContext, step: str, mapping: int, undoing: bool) -> Exception:
    """The error as it is; that of a lock on a table of the run, with who holds it, as far as that is known."""
    if not isinstance(error, KnarrError | asyncpg.PostgresError) or str(error.sqlstate) != locks.LOCK_TIMEOUT:
        return error
    known = classify(error, step, taking_back=undoing)
    if step in WAIT_FOR_NO_TABLE or known.message.startswith(schema.INSTALLING):
        return known
    holders: list[str] = []
    try:
        async with asyncio.timeout(HOLDERS_WITHIN_SECONDS):
            async with pools().acquire(run.target) as target:
                resolved = await mappings.load_mappings(target, run.run_id)
                concerned = [each for each in resolved if mapping in (-1, each.number)]
                holders = await locks.holders_on_target(target, [each.target for each in concerned])
            async with pools().acquire(run.source) as source:
                holders += await locks.holders_on_source(source, [each.source_table for each in concerned])
    except Exception as failed:
        log.warning("not all is known of who holds the lock", error=type(failed).__name__)
    return locks.naming(known, holders)


def failure(error: Exception, step: str, *, undoing: bool = False) -> ApplicationError:
    """Our classified error as Temporal wants it: type, retryable or not, message for people, SQLSTATE as details.

    Of an error that is not ours only its class and the place are told: its words may quote anything.
    """
    if not isinstance(error, KnarrError | asyncpg.PostgresError | asyncpg.InterfaceError | OSError | TimeoutError):
        final = activity.info().attempt >= UNEXPECTED_ATTEMPTS
        log.error("unexpected error", exc_info=error, final=final)
        told = f"{step}: {type(error).__name__}{raised_at(error)}\n{IN_THE_LOG}"
        return ApplicationError(told, type="Unexpected", non_retryable=final)
    known = classify(error, step, taking_back=undoing)
    transient = isinstance(known, TransientError)
    log.warning(
        "failed",
        error=type(known).__name__,
        message=known.detail or known.message,
        sqlstate=known.sqlstate,
        retried=transient,
    )
    message = shortened(scrub(str(known)))
    if known.detail:
        message += f"\n{IN_THE_LOG}"
    return ApplicationError(message, known.sqlstate, type=type(known).__name__, non_retryable=not transient)


def shortened(message: str) -> str:
    """A message that fits into history."""
    return (
        message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]} ... ({len(message):,} characters)"
    )


async def _beat(details: Callable[[], Message] | None) -> None:
    while True:
        if details is None:
            activity.heartbeat()
        else:
            activity.heartbeat(details())
        await asyncio.sleep(SECONDS_BETWEEN_BEATS)
