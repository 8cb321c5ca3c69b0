"""The worker process: settings, telemetry, pools, then the Temporal worker until it is told to stop."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Final, NoReturn

from pydantic import Field
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.worker import Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.registry import all_activities
from knarr.postgres.session import Pools
from knarr.process import run_and_exit
from knarr.settings import Connections, Settings
from knarr.telemetry import logging, metrics
from workflows.registry import ALL_WORKFLOWS

# What workflows import beside Temporal's own: passed through, since a copy for each workflow costs 0.3 s and memory.
PASSED_THROUGH: Final = ("pydantic", "pydantic_core", "knarr", "activities", "structlog", "asyncpg", "yaml")
# A run stays with the code it began with: its history must replay.
PINNED: Final = VersioningBehavior.PINNED
GRACE: Final = timedelta(seconds=20)


class WorkerSettings(Settings):
    """What a worker is told by its surroundings beside what every command is told."""

    max_activities: int = Field(default=16, ge=1, le=1000, description="activities at once in this process")
    deployment: str = Field(default="", description="name of a versioned worker deployment; empty: unversioned")
    build_id: str = Field(default="", description="with a deployment: which version of the code this is")
    sdk_metrics_port: int = Field(
        default=0, ge=0, le=65535, description="Temporal SDK's own metrics; 0 switches them off"
    )


async def work(settings: WorkerSettings, client: Client) -> None:
    """Poll the task queue until SIGTERM or SIGINT; then finish what can be finished within the grace and leave."""
    connections = Connections.load(settings)
    logging.configure(settings.log_level, settings.log_format, connections.redact)
    # A connection to each side for an activity, and one to ask what became of a commit whose answer was lost.
    pools = Pools(connections, application_name="knarr worker", size=3 * settings.max_activities)
    version = WorkerDeploymentVersion(deployment_name=settings.deployment, build_id=settings.build_id)
    worker = Worker(
        client,
        task_queue=settings.task_queue,
        workflows=ALL_WORKFLOWS,
        activities=all_activities(pools),
        identity=f"knarr-worker {os.getpid()}@{socket.gethostname()}",
        max_concurrent_activities=settings.max_activities,
        graceful_shutdown_timeout=GRACE,
        # After a worker's death its workflows would wait ten seconds for it by default.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=3),
        # Progress in a partition is read off heartbeats; by default they are passed on every 12 s.
        max_heartbeat_throttle_interval=timedelta(seconds=1),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
        deployment_config=WorkerDeploymentConfig(
            version=version,
            use_worker_versioning=bool(settings.deployment),
            default_versioning_behavior=VersioningBehavior.PINNED
            if settings.deployment
            else VersioningBehavior.UNSPECIFIED,
        ),
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
        ),
    )
    with ExitStack() as stack:
        if settings.metrics_port:
            ready = lambda: "" if worker.is_running else "not polling"  # noqa: E731
            stack.callback(metrics.serve(settings.metrics_port, ready=ready))
        stop = stack.enter_context(stopped_by_signals())
        await until_stopped(worker, stop)
    await pools.close()


async def until_stopped(worker: Worker, stop: asyncio.Event) -> None:
    """Polls until told to stop, and then finishes; raises what ends the worker before, so that the process ends too."""
    working, told = asyncio.create_task(worker.run()), asyncio.create_task(stop.wait())
    await asyncio.wait((working, told), return_when=asyncio.FIRST_COMPLETED)
    if told.done():
        await worker.shutdown()
    told.cancel()
    await working


@contextmanager
def stopped_by_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets, for the time of the block."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def runtime(settings: WorkerSettings) -> Runtime | None:
    """The SDK's runtime with its own metrics exposed, if a port is set."""
    if not settings.sdk_metrics_port:
        return None
    exposed = PrometheusConfig(bind_address=f"0.0.0.0:{settings.sdk_metrics_port}")
    return Runtime(telemetry=TelemetryConfig(metrics=exposed))


async def run() -> int:
    """Connect as Temporal's environment and profiles say, and work."""
    settings = WorkerSettings()
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "127.0.0.1:7233")
    client = await Client.connect(**config, data_converter=pydantic_data_converter, runtime=runtime(settings))
    await work(settings, client)
    return 0


def main() -> NoReturn:
    """`python worker.py`."""
    run_and_exit(run())


if __name__ == "__main__":
    main()
