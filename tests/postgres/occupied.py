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
from knarr.postgres.repair import Repaired, repair_partition
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

BOOKED = """
SELECT l.phase, sum(l.inserted)::bigint AS inserted, sum(l.updated)::bigint AS updated,
       sum(l.deleted)::bigint AS deleted
  FROM knarr.ledger AS l GROUP BY 1
"""
LOGGED = """
SELECT phase, count(*) FILTER (WHERE operation = 'insert') AS inserted,
       count(*) FILTER (WHERE operation = 'update') AS updated, count(*) FILTER (WHERE operation = 'delete') AS deleted
  FROM knarr.undo GROUP BY 1
"""
# Entries that don't say what the row is, where none of a later phase says more; and keys with two of one phase.
UNTRUE = """
SELECT u.key, u.phase, u.operation, t::text
  FROM knarr.undo AS u
  LEFT JOIN public.taken AS t ON t.id = u.key[1]::numeric
 WHERE u.left_hash IS DISTINCT FROM hashtextextended(t::text COLLATE "C", 0)
   AND NOT EXISTS (SELECT FROM knarr.undo AS v WHERE v.key = u.key AND v.sequence > u.sequence)
UNION ALL
SELECT key, phase, count(*)::text, '' FROM knarr.undo GROUP BY 1, 2 HAVING count(*) > 1
"""
CHANGE_BOOKED = "SELECT coalesce(sum(checksum_change), 0) FROM knarr.ledger"
CHANGE_LOGGED = """
SELECT coalesce(sum(left_hash), 0) - coalesce(sum(hashtextextended(before COLLATE "C", 0)), 0) FROM knarr.undo
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

    async def repair(self, item: ResolvedMapping, *, phase: str = "", round: int = 1, **changes: object) -> Repaired:
        """Repairs one partition (the whole, unless said otherwise) after a round of verification."""
        job = self.run.job(item, phase=phase or self.phases[-1], phase_order=self.phases, **changes)
        return await repair_partition(
            self.run.source, self.target, job, round, lambda rows, size: None, reconnect=self.run.reconnect
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

    async def somebody(self, script: str) -> None:
        """Changes the target as anybody may."""
        async with self.run.reconnect() as connection:
            await connection.execute(script)

    async def as_the_source(self) -> bool:
        """Whether every row of the source is in the target."""
        query = "SELECT id::bigint, name, score FROM public.given ORDER BY 1"
        given = [tuple(row) for row in await self.run.source.fetch(query)]
        theirs = {row[0]: row for row in await self.rows("id, name, score")}
        return given == [theirs.get(row[0]) for row in given]

    async def in_balance(self) -> bool:
        """Whether undo log, ledger and rows say the same."""
        booked = {tuple(row) for row in await self.target.fetch(BOOKED) if any(tuple(row)[1:])}
        logged = {tuple(row) for row in await self.target.fetch(LOGGED)}
        change, summed = await self.target.fetchval(CHANGE_BOOKED), await self.target.fetchval(CHANGE_LOGGED)
        untrue = await self.target.fetch(UNTRUE)
        return (booked, change) == (logged, summed) and not untrue
