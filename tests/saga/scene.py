"""A stage for saga tests: a small shop in a source database, a plan that reshapes it, a worker, a client."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from pydantic import SecretStr
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.models import PlanDocument
from activities.registry import all_activities
from knarr.audit.canonical import canonical_json, digest_of
from knarr.plan.models import Plan
from knarr.postgres.session import Pools
from knarr.settings import Connections
from worker import PASSED_THROUGH
from workflows.messages import MigrationInput, Order, Status
from workflows.registry import ALL_WORKFLOWS
from workflows.view import STATE

SHOP: Final = """
CREATE TABLE public.customer (
    c_id integer PRIMARY KEY, c_name char(25) NOT NULL, c_phone text, c_balance numeric(12,2) NOT NULL);
CREATE TABLE public.orders (
    o_id integer PRIMARY KEY, o_customer integer NOT NULL REFERENCES public.customer,
    o_status char(1) NOT NULL, o_total numeric(12,2) NOT NULL, o_date date NOT NULL);
INSERT INTO public.customer
SELECT n, 'customer ' || n, CASE WHEN n % 7 = 0 THEN NULL ELSE '+49-' || n END, (n * 7919 % 100000) / 100.0
  FROM generate_series(1, 2000) n;
INSERT INTO public.orders
SELECT n, n % 2000 + 1, substr('OFP', n % 3 + 1, 1), (n * 104729 % 1000000) / 100.0, date '2020-01-01' + n % 2000
  FROM generate_series(1, 20000) n;
ANALYZE;
"""

PLAN: Final[dict[str, Any]] = {
    "name": "shop-v2",
    "source": "legacy",
    "target": "shop",
    "types": {"shop.order_status": ["open", "fulfilled", "pending"]},
    "mappings": [
        {
            "target": "shop.customer",
            "source": "public.customer c",
            "key": {"id": "c.c_id"},
            "columns": {
                "name": {"from": "trim(c.c_name)", "null": False},
                "phone": {"from": "c.c_phone"},
                "balance": {"from": "c.c_balance"},
            },
            "rules": {"name is present": "name <> ''"},
        },
        {
            "target": "shop.order",
            "source": "public.orders o",
            "key": {"id": "o.o_id"},
            "columns": {
                "customer_id": {"from": "o.o_customer", "null": False},
                "status": {
                    "from": "CASE o.o_status WHEN 'O' THEN 'open' WHEN 'F' THEN 'fulfilled' ELSE 'pending' END",
                    "type": "shop.order_status",
                },
                "total": {"from": "o.o_total"},
                "placed_on": {"from": "o.o_date"},
            },
            "indexes": [{"columns": ["placed_on"]}],
            "foreign_keys": [{"columns": ["customer_id"], "references": "shop.customer(id)"}],
            "constraints": {"total is not negative": "total >= 0"},
        },
    ],
    "checks": [
        {
            "name": "revenue by year",
            "source": "SELECT extract(year FROM o_date)::int, sum(o_total) FROM public.orders GROUP BY 1",
            "target": 'SELECT extract(year FROM placed_on)::int, sum(total) FROM shop."order" GROUP BY 1',
        }
    ],
    "parallelism": {"mappings": 2, "partitions": 2, "verify": 2},
    "limits": {"partition_size": "256KiB"},
}

SANDBOX: Final = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
)

_numbers: Final = itertools.count(1)
PATIENCE: Final = 90.0


@dataclass
class Scene:
    """Two databases, a Temporal client and a task queue of this test's own."""

    source_dsn: str
    target_dsn: str
    client: Client
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def task_queue(self) -> str:
        """The queue that this scene's worker polls."""
        return f"scene-{self.number}"

    @property
    def run_id(self) -> str:
        """The id of this scene's first run."""
        return f"shop-v2/{self.number}"

    @asynccontextmanager
    async def worker(self, *, cached: int = 100) -> AsyncIterator[Worker]:
        """A worker in this process. With `cached=0` every workflow task replays its history: four times the time."""
        connections = Connections(
            {"legacy": SecretStr(self.source_dsn), "shop": SecretStr(self.target_dsn)}, Path("knarr.toml")
        )
        pools = Pools(connections, application_name="knarr test")
        worker = Worker(
            self.client,
            task_queue=self.task_queue,
            workflows=ALL_WORKFLOWS,
            activities=all_activities(pools),
            max_cached_workflows=cached,
            graceful_shutdown_timeout=timedelta(seconds=2),
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            default_heartbeat_throttle_interval=timedelta(seconds=1),
            workflow_runner=SANDBOX,
        )
        try:
            async with worker:
                yield worker
        finally:
            await pools.close()

    async def start(
        self, plan: dict[str, Any] | None = None, *, run_id: str = "", pause_before: list[str] | None = None
    ) -> WorkflowHandle[Any, Status]:
        """Starts a run of the plan (the shop's by default)."""
        document = Plan.model_validate(plan or PLAN)
        value = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return await self.client.start_workflow(
            "Migration",
            MigrationInput(
                plan_name=document.name,
                source=document.source,
                target=document.target,
                plan=PlanDocument(canonical=canonical_json(value), digest=digest_of(value)),
                pause_before=pause_before or [],
            ),
            id=run_id or self.run_id,
            task_queue=self.task_queue,
            result_type=Status,
        )

    async def until(self, handle: WorkflowHandle[Any, Status], *states: str) -> Status:
        """Waits until the run is in one of the states, and asks it where it is."""
        await self.until_shown(handle, *states)
        status: Status = await handle.query("status", result_type=Status)
        return status

    async def until_shown(self, handle: WorkflowHandle[Any, Status], *states: str) -> None:
        """Waits until the Web UI would show one of these states.

        What the server knows, without a query: a worker that caches no workflow replays it all for one, and a query
        that comes while it ends a task may cost that task its ten seconds.
        """
        async with asyncio.timeout(PATIENCE):
            while (await handle.describe()).typed_search_attributes.get(STATE) not in states:
                await asyncio.sleep(0.05)

    async def order(self, handle: WorkflowHandle[Any, Status], action: str, reason: str = "a test says so") -> str:
        """Gives an order as an operator would and returns the answer's message."""
        answer = await handle.execute_update(action, Order(actor="tester", reason=reason))
        return str(answer["message"])

    async def in_target(self, sql: str) -> Any:
        """One value from the target."""
        return await one_value(self.target_dsn, sql)

    async def in_source(self, sql: str) -> Any:
        """One value from the source."""
        return await one_value(self.source_dsn, sql)


# The servers of the tests differ in these, and an oracle compares texts.
SAME_TEXT: Final = {"TimeZone": "UTC", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "extra_float_digits": "1"}


async def one_value(dsn: str, sql: str) -> Any:
    """One value, by a connection that shares nothing with the product's."""
    connection = await asyncpg.connect(dsn, server_settings=SAME_TEXT)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def run_script(dsn: str, script: str) -> None:
    """Several statements, by a connection that shares nothing with the product's."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def connect(address: str) -> Client:
    """A client whose payloads are pydantic models."""
    return await Client.connect(address, data_converter=pydantic_data_converter)


def replayer() -> Replayer:
    """Holds histories against today's workflows, as a worker does that hears of a run for the first time."""
    return Replayer(workflows=ALL_WORKFLOWS, data_converter=pydantic_data_converter, workflow_runner=SANDBOX)
