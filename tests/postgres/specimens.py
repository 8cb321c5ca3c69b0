"""Small resolved mappings and runs for the tests of the data plane, written out by hand: no survey takes part."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from knarr.plan.models import Plan
from knarr.plan.resolved import Partition, ResolvedColumn, ResolvedMapping, TableName
from knarr.postgres import lease, mappings, partitions, schema
from knarr.postgres.copy import CopyJob, CopyOutcome, copy_partition
from knarr.postgres.session import Connection, connect


def column(
    name: str,
    kind: str,
    *,
    expression: str | None = None,
    source_type: str | None = None,
    category: Literal["builtin", "enum", "other"] = "builtin",
    collatable: bool = False,
) -> ResolvedColumn:
    """One copied column; unless said otherwise the source has it under the same name and type."""
    return ResolvedColumn(
        name=name,
        expression=expression or f't."{name}"',
        source_type=source_type or kind,
        target_type=kind,
        base_type=kind,
        category=category,
        not_null=False,
        collatable=collatable or kind.startswith(("text", "character")),
    )


def mapping(
    columns: list[ResolvedColumn],
    *,
    key: list[str] | None = None,
    number: int = 0,
    target: str = "taken",
    source: str = "given",
    where: str | None = None,
    binary: bool = True,
    phases: Mapping[str, str] | None = None,
    rows: int = 0,
    size: int = 0,
    transform: str | None = None,
    transform_columns: list[str] | None = None,
    mode: Literal["create", "fill", "append", "merge"] = "fill",
) -> ResolvedMapping:
    """A mapping from public.given to public.taken."""
    return ResolvedMapping(
        number=number,
        target=TableName(schema_name="public", name=target),
        source_table=TableName(schema_name="public", name=source),
        source_alias="t",
        from_clause='public."{}" AS t'.format(source.replace('"', '""')),
        where=where,
        key=[item for item in columns if item.name in (key or [])],
        columns=columns,
        mode=mode,
        binary=binary,
        transform=transform,
        transform_columns=transform_columns or [],
        phases=dict(phases or {}),
        estimated_rows=rows,
        estimated_bytes=size,
    )


def plan(name: str = "specimen", *, source: str = "given", target: str = "taken") -> Plan:
    """A plan of one mapping."""
    return Plan.model_validate(
        {
            "name": name,
            "source": "legacy",
            "target": "shop",
            "mappings": [{"target": f"public.{target}", "source": f"public.{source}"}],
        }
    )


async def gone(connection: Connection, application_name: str, *, within: float = 5.0) -> bool:
    """Whether no backend of that name is left at work, after waiting for it."""
    for _ in range(round(within / 0.02)):
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1 AND state <> 'idle'"
        if not await connection.fetchval(query, application_name):
            return True
        await asyncio.sleep(0.02)
    return False


async def dsn_of(connection: Connection) -> str:
    """The address of a connection's own database, with its password."""
    parameters = connection._params  # type: ignore[attr-defined]
    host, port = connection._addr  # type: ignore[attr-defined]
    return f"postgresql://{parameters.user}:{parameters.password}@{host}:{port}/{parameters.database}?sslmode=disable"


WHOLE = Partition(mapping=0, number=0, lower=None, upper=None, estimated_rows=0)


@dataclass
class Run:
    """A claimed run on a fresh target, and how to copy in it."""

    run_id: str
    lease: lease.Lease
    source: Connection
    target: Connection
    target_dsn: str
    opened: list[Connection] = field(default_factory=list)

    async def open(self, application_name: str) -> Connection:
        """A further connection to the target; the fixture ends it."""
        connection = await connect(self.target_dsn, application_name=application_name)
        self.opened.append(connection)
        return connection

    @contextlib.asynccontextmanager
    async def reconnect(self) -> AsyncIterator[Connection]:
        """Another connection to the target."""
        other = await connect(self.target_dsn, application_name="again")
        try:
            yield other
        finally:
            await other.close()

    async def store(self, *resolved: ResolvedMapping, pieces: list[Partition] | None = None) -> None:
        """Stores mappings, each as one partition unless pieces are given."""
        await mappings.store_mappings(self.target, self.lease, self.run_id, resolved)
        for item in resolved:
            whole = [WHOLE.model_copy(update={"mapping": item.number})]
            await partitions.store_partitions(self.target, self.lease, self.run_id, pieces or whole)

    def job(self, resolved: ResolvedMapping, **changes: object) -> CopyJob:
        """The job that copies the whole mapping in the only phase."""
        whole = WHOLE.model_copy(update={"mapping": resolved.number})
        job = CopyJob(
            run_id=self.run_id, lease=self.lease, mapping=resolved, phase="all", phase_order=["all"], partition=whole
        )
        return job.model_copy(update=changes)

    async def copy(
        self,
        job: CopyJob,
        *,
        source: Connection | None = None,
        target: Connection | None = None,
        on_progress: Callable[[int, int], None] = lambda rows, size: None,
    ) -> CopyOutcome:
        """Copies on this run's connections, or on others."""
        return await copy_partition(
            source or self.source, target or self.target, job, on_progress, reconnect=self.reconnect
        )


async def claimed(source: Connection, target: Connection, target_dsn: str, run_id: str = "run-1") -> Run:
    """A run that holds public.taken."""
    await schema.install(target)
    held = await lease.claim(target, run_id, plan(), "0" * 64, [TableName(schema_name="public", name="taken")])
    return Run(run_id=run_id, lease=held, source=source, target=target, target_dsn=target_dsn)
