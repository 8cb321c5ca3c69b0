"""A target table that has rows of its own, a mapping that appends to it or merges into it, and an oracle: pg_dump."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from knarr.local.cluster import Cluster
from knarr.plan.resolved import Partition, ResolvedColumn, ResolvedMapping
from knarr.postgres import before, lease
from knarr.postgres.copy import CopyJob, CopyOutcome
from knarr.postgres.merge import merge_partition
from knarr.postgres.session import Connection
from knarr.postgres.undo import Undone, undo_phase
from knarr.postgres.undo_sql import ChangedSince
from tests.postgres.specimens import Run, column, mapping

CITIES = """
CREATE TABLE public.given (id integer PRIMARY KEY, name text, score numeric);
INSERT INTO public.given
SELECT n, 'new ' || n, CASE WHEN n % 5 = 0 THEN NULL ELSE n END FROM generate_series(51, 150) AS n;
"""
# 1 to 100; 51 to 75 are as the source has them, 76 to 100 are not.
TAKEN = """
CREATE TABLE public.taken (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(40), score numeric, note text DEFAULT 'ours',
    twice numeric GENERATED ALWAYS AS (score * 2) STORED);
INSERT INTO public.taken (id, name, score, note) OVERRIDING SYSTEM VALUE
SELECT n, CASE WHEN n BETWEEN 51 AND 75 THEN 'new ' ELSE 'old ' END || n,
       CASE WHEN n BETWEEN 51 AND 75 THEN CASE WHEN n % 5 = 0 THEN NULL ELSE n END ELSE n + 0.50 END, 'theirs'
  FROM generate_series(1, 100) AS n;
SELECT setval('public.taken_id_seq', 100);
"""


def merging(
    *,
    mode: Literal["append", "merge"] = "merge",
    columns: Sequence[ResolvedColumn] | None = None,
    key: Sequence[str] = ("id",),
    scope: str | None = None,
    delete_missing: bool = False,
    where: str | None = None,
    number: int = 0,
    phases: dict[str, str] | None = None,
) -> ResolvedMapping:
    """A mapping from public.given to public.taken; the cities' unless columns are given."""
    cities = [
        column("id", "bigint", source_type="integer"),
        column("name", "character varying(40)", source_type="text"),
        column("score", "numeric"),
    ]
    made = mapping(list(columns or cities), key=list(key), number=number, where=where, phases=phases, mode=mode)
    return made.model_copy(update={"scope": scope, "delete_missing": delete_missing})


@dataclass
class Occupied:
    """A run over an occupied table."""

    run: Run
    cluster: Cluster
    phases: list[str] = field(default_factory=lambda: ["all"])

    @property
    def target(self) -> Connection:
        return self.run.target

    async def prepare(
        self, *mappings: ResolvedMapping, pieces: list[Partition] | None = None, source: str = CITIES,
        target: str = TAKEN,
    ) -> None:  # fmt: skip
        """Makes both tables, stores the mappings, records what the table holds; as a run does before its first row."""
        for connection, script in ((self.run.source, source), (self.target, target)):
            if script:
                await connection.execute(script)
        await self.run.store(*mappings, pieces=pieces)
        for item in mappings:
            await before.record(self.target, self.run.lease, self.run.run_id, item)

    async def move(self, item: ResolvedMapping, *, phase: str = "", **changes: object) -> CopyOutcome:
        """Merges one partition (the whole, unless said otherwise)."""
        job = self.run.job(item, phase=phase or self.phases[-1], phase_order=self.phases, **changes)
        return await self.move_job(job)

    async def move_job(self, job: CopyJob, *, target: Connection | None = None) -> CopyOutcome:
        """Merges what a job says."""
        return await merge_partition(
            self.run.source, target or self.target, job, lambda rows, size: None, reconnect=self.run.reconnect
        )

    async def undo(
        self, item: ResolvedMapping, *, phase: str = "", changed_since: ChangedSince = "stop", raised: bool = True,
        connection: Connection | None = None, on_progress: Callable[[int], None] = lambda entries: None,
    ) -> Undone:  # fmt: skip
        """Takes a phase back, behind a raised epoch, as a rollback does."""
        if raised:
            self.run.lease = await lease.raise_epoch(self.target, self.run.run_id)
        return await undo_phase(
            connection or self.target,
            self.run.lease,
            self.run.run_id,
            item,
            phase or self.phases[-1],
            changed_since=changed_since,
            on_progress=on_progress,
        )

    def dump(self) -> list[str]:
        """Everything but Knarr's own schema, sequences' positions too, whatever order the rows lie in."""
        name = urlsplit(self.run.target_dsn).path.lstrip("/")
        return sorted(self.cluster.pg_dump(name, "--exclude-schema=knarr").splitlines())

    async def rows(self, columns: str = "*", where: str = "TRUE") -> list[tuple[object, ...]]:
        """Rows of the table."""
        query = f"SELECT {columns} FROM public.taken WHERE {where} ORDER BY 1"
        return [tuple(row) for row in await self.target.fetch(query)]

    async def log(self) -> dict[str, int]:
        """How many entries of each kind the undo log has."""
        rows = await self.target.fetch("SELECT operation, count(*) AS n FROM knarr.undo GROUP BY 1")
        return {row["operation"]: row["n"] for row in rows}
