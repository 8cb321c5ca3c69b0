"""Verification alone: a plan held against both sides at any time; reads only, without Temporal and without a run."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from knarr.errors import TransientError
from knarr.plan.downstream import DownstreamCheck
from knarr.plan.load import canonical_json, digest_of
from knarr.plan.models import Plan
from knarr.plan.names import parse_source, parse_target, write_table
from knarr.plan.resolved import Partition, ResolvedMapping, Survey
from knarr.plan.units import size_bytes
from knarr.postgres.partitions import plan_partitions
from knarr.postgres.session import Connection, Pools
from knarr.postgres.survey import survey
from knarr.settings import Connections
from knarr.verify import since
from knarr.verify.cross import check_cross
from knarr.verify.downstream import check_downstream
from knarr.verify.integrity import check_integrity
from knarr.verify.models import CheckKey, CheckResult, Verdict
from knarr.verify.pace import Pace
from knarr.verify.parity import compare_partition
from knarr.verify.rules import check_rules
from knarr.verify.verdict import conclude, expected_checks

ATTEMPTS: Final = 4
PAUSE_SECONDS: Final = 2.0
_TABLE: Final = re.compile(r"^mappings\[\d+\].*\((?P<table>.+)\)$")

Unit = Callable[[Connection, Connection, Callable[[int], None]], Awaitable[list[CheckResult]]]


@dataclass(frozen=True)
class Progress:
    """How far it is: units of work done and in all, rows of the source compared so far, what came last."""

    done: int
    total: int
    rows: int
    what: str


@dataclass
class _Work:
    pools: Pools
    plan: Plan
    folder: Path | None
    baseline: since.Baseline | None
    on_progress: Callable[[Progress], None] | None
    units: list[tuple[str, Unit]] = field(default_factory=list)
    results: list[CheckResult] = field(default_factory=list)
    finished: int = 0
    rows: dict[int, int] = field(default_factory=dict)

    async def run(self) -> None:
        """All units, as many at once as the plan allows; the first error ends the others."""
        turns = asyncio.Semaphore(self.plan.parallelism.verify)
        tasks = [asyncio.ensure_future(self._unit(number, turns)) for number in range(len(self.units))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _unit(self, number: int, turns: asyncio.Semaphore) -> None:
        name, unit = self.units[number]
        pace = Pace(self.plan, self.pools, lambda: self._tell(f"{name}: holding, the server is busy"))
        results: list[CheckResult] = []

        def count(rows: int) -> None:
            self.rows[number] = rows
            self._tell(name)

        async with turns:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await pace.until_quiet()
                    async with (
                        self.pools.acquire(self.plan.source, read_only=True) as source,
                        self.pools.acquire(self.plan.target, read_only=True) as target,
                    ):
                        results = await unit(source, target, count)
                    break
                except TransientError:
                    if attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(PAUSE_SECONDS * attempt)
            self.results.extend(results)
            self.finished += 1
            self._tell(name)
            for result in results:
                if result.kind == "parity":
                    await pace.after(result.source_rows or 0, result.seconds)

    def _tell(self, what: str) -> None:
        if self.on_progress:
            self.on_progress(Progress(self.finished, len(self.units), sum(self.rows.values()), what))


async def verify_plan(
    connections: Connections,
    plan: Plan,
    *,
    folder: Path | None = None,
    since_last: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Verdict:
    """Everything that a run's last verification would check, on both sides as they are now.

    What the survey finds in the way of a run (tables that are there already) is none of its business; a mapping that
    the survey can't resolve is a check that could not run.

    Args:
        connections: where the plan's aliases lead.
        plan: as loaded.
        folder: where the plan lies, for its transforms; None: the working directory.
        since_last: partitions whose rows have not changed since the last verdict of a run are not compared again,
            where that can be known (knarr.verify.since).
        on_progress: called often; must be quick.

    Raises:
        PlanError: an alias leads nowhere, a catalogue may not be read; there is no verdict to go on from.
        TransientError: a server stayed out of reach.
    """
    started, phase, plan_hash = datetime.now(UTC), plan.rollout[-1].phase, digest_of(canonical_json(plan))
    # A downstream check that asks the target's own alias holds three connections to it: nobody waits for another's end.
    size = 3 * plan.parallelism.verify + 1
    pools = Pools(connections, application_name=f"knarr verify {plan.name}", size=size)
    try:
        async with (
            pools.acquire(plan.source, read_only=True) as source,
            pools.acquire(plan.target, read_only=True) as target,
        ):
            surveyed = await survey(source, target, plan, None)
            baseline = await since.read_baseline(target, surveyed, plan_hash, phase) if since_last else None
            work = _Work(pools, plan, folder, baseline, on_progress)
            counts = {}
            for mapping in surveyed.mappings:
                counts[mapping.number] = await _plan_mapping(work, mapping, source, target)
        for check in plan.checks:
            work.units.append((f"check {check.name}", _cross(plan, check.name)))
        for seen in plan.downstream:
            work.units.append((f"downstream {seen.name}", _downstream(work, seen)))
        work.results.extend(unresolved(plan, surveyed))
        await work.run()
    finally:
        await pools.close()
    return conclude(
        expected=[*expected_checks(plan, surveyed.mappings, counts), *(result.check for result in work.results)],
        results=work.results,
        run_id="",
        phase=phase,
        round=1,
        plan_name=plan.name,
        plan_hash=plan_hash,
        started_at=started,
        ended_at=datetime.now(UTC),
        source_version=surveyed.source_version,
        target_version=surveyed.target_version,
        source_identity=surveyed.source_identity,
        target_identity=surveyed.target_identity,
        shown=plan.limits.findings,
    )


async def _plan_mapping(work: _Work, mapping: ResolvedMapping, source: Connection, target: Connection) -> int:
    """Adds a mapping's units of work; returns how many partitions it has."""
    shown, last = work.plan.limits.findings, work.baseline
    why_not = await since.why_not(last, source, target, mapping) if last else ""
    known = last.results[mapping.name] if last and not why_not else []
    if last and known:
        partitions = last.partitions(mapping)
    else:
        partitions = await plan_partitions(source, mapping, size_bytes(work.plan.limits.partition_size))
    for place, partition in enumerate(partitions):
        before = known[place] if known else None

        async def parity(
            source: Connection,
            target: Connection,
            count: Callable[[int], None],
            partition: Partition = partition,
            before: CheckResult | None = before,
        ) -> list[CheckResult]:
            if before and (stands := await since.unchanged(source, target, mapping, partition, before)):
                return [stands]
            result = await compare_partition(
                source, target, mapping, partition, shown=shown, folder=work.folder, on_progress=count
            )
            note = [f"compared in full: {why_not}"] if why_not else []
            return [result.model_copy(update={"compared": [*result.compared, *note]})]

        work.units.append((f"{mapping.name}, partition {partition.number + 1} of {len(partitions)}", parity))

    async def integrity(source: Connection, target: Connection, count: Callable[[int], None]) -> list[CheckResult]:
        return [await check_integrity(target, mapping, source=source, shown=shown)]

    async def rules(source: Connection, target: Connection, count: Callable[[int], None]) -> list[CheckResult]:
        return await check_rules(target, mapping, shown)

    work.units.append((f"{mapping.name}, integrity", integrity))
    if mapping.rules:
        work.units.append((f"{mapping.name}, rules", rules))
    return len(partitions)


def _cross(plan: Plan, name: str) -> Unit:
    check = next(check for check in plan.checks if check.name == name)

    async def cross(source: Connection, target: Connection, count: Callable[[int], None]) -> list[CheckResult]:
        return [await check_cross(source, target, check, plan.limits.findings)]

    return cross


def _downstream(work: _Work, check: DownstreamCheck) -> Unit:
    async def downstream(source: Connection, target: Connection, count: Callable[[int], None]) -> list[CheckResult]:
        shown = work.plan.limits.findings
        lend = partial(work.pools.acquire, work.plan.target, read_only=True)
        return [await check_downstream(check, lend, work.pools, folder=work.folder, shown=shown)]

    return downstream


def unresolved(plan: Plan, surveyed: Survey) -> Sequence[CheckResult]:
    """A failed result for every table of the plan that the survey could not resolve: it was compared by nobody."""
    resolved = {write_table(mapping.target) for mapping in surveyed.mappings}
    reasons: dict[str, list[str]] = {}
    for mapping in plan.mappings:
        table = parse_target(mapping.target).table_name if mapping.target else None
        schema = parse_source(mapping.source)
        if table is not None and write_table(table) not in resolved:
            reasons.setdefault(write_table(table), [])
        elif table is None and not any(one.source_table.schema_name == schema.schema_name for one in surveyed.mappings):
            reasons.setdefault(mapping.source, [])
    for problem in surveyed.errors:
        match = _TABLE.match(problem.where)
        if match and match["table"] not in resolved:
            reasons.setdefault(match["table"], []).append(f"{problem.where}: {problem.found}")
    return [
        CheckResult(
            **CheckKey(kind="parity", name=table, mapping=-1, partition=0).model_dump(),
            outcome="could not run",
            message="; ".join(found) or "the survey could not resolve this mapping",
            findings_total=1,
        )
        for table, found in reasons.items()
    ]
