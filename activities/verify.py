"""Verification: each unit compares, stores what it found in the target's knarr schema, and tells only numbers."""

from typing import Final

import structlog
from temporalio import activity

from activities.context import lease_of, pools, source_of, target_of, working
from activities.models import (
    CompensationInput,
    StepResult,
    VerdictSummary,
    VerifyInput,
    VerifyProgress,
    VerifyResult,
)
from activities.trail import compensated
from knarr.audit.signing import key_of_environment
from knarr.plan.resolved import STAGES
from knarr.postgres import mappings, partitions, runs
from knarr.postgres.lease import fenced
from knarr.postgres.selection import moved_predicate
from knarr.telemetry import metrics
from knarr.telemetry.scrub import scrub
from knarr.verify import cross, downstream, integrity, parity, results, rules, verdict
from knarr.verify.models import CheckKey, CheckResult, CheckSummary
from knarr.verify.pace import Pace

log = structlog.get_logger(__name__)

LINES_IN_HISTORY: Final = 5
LONGEST_LINE: Final = 300

# Other kinds of findings are words for what a row is: missing, extra, doubled, changed, orphan.
WORDS: Final = {
    "rule": "rows do not meet it",
    "cross": "differences",
    "downstream": "differences",
    "coverage": "not computed, or not as stored",
}

# A row that differs says more than the sums that differ because of it.
KINDS: Final = ("parity", "integrity", "rule", "cross", "downstream")


class _Comparing:
    def __init__(self, given: VerifyInput) -> None:
        self._mapping = given.mapping
        self._partition = given.first
        self._rows = 0

    def on_progress(self, rows: int) -> None:
        self._rows = rows

    def on_hold(self) -> None:
        log.info("holding: verification.pause_while says that the server is busy")

    def details(self) -> VerifyProgress:
        return VerifyProgress(mapping=self._mapping, partition=self._partition, rows=self._rows)


@activity.defn
async def verify_partitions(given: VerifyInput) -> VerifyResult:
    """Compares every row of partitions first..last on both sides; one whose result is stored is not compared again."""
    run, comparing = given.run, _Comparing(given)
    found: list[CheckResult] = []
    async with working("verify", run, mapping=given.mapping, partition=given.first, beat=comparing.details):
        async with target_of(run) as target:
            mapping = await mappings.load_mapping(target, run.run_id, given.mapping)
            plan = await mappings.load_plan(target, run.run_id)
        pace = Pace(plan, pools(), comparing.on_hold)
        for number in range(given.first, given.last + 1):
            key = CheckKey(kind="parity", name=mapping.name, mapping=mapping.number, partition=number)
            async with target_of(run) as target:
                result = await results.done(target, run.run_id, given.phase, given.round, key)
            if result is None:
                await pace.until_quiet()
                async with source_of(run) as source, target_of(run) as target:
                    partition = await partitions.load_partition(target, run.run_id, mapping.number, number)
                    result = await parity.compare_partition(
                        source,
                        target,
                        mapping,
                        partition,
                        phases=[phase.phase for phase in plan.rollout],
                        through=given.phase,
                        shown=plan.limits.findings,
                        on_progress=comparing.on_progress,
                    )
                result = await stored(given, result)
                metrics.partition_verified(run.plan, result.target_rows or 0, result.findings_total)
                await pace.after(result.source_rows or 0, result.seconds)
            found.append(result)
        return told(found)


@activity.defn
async def verify_integrity(given: VerifyInput) -> VerifyResult:
    """Keys, foreign keys, constraints and sequences of one mapping, recomputed and not read off the catalogue."""
    run = given.run
    async with working("verify", run, mapping=given.mapping):
        async with source_of(run) as source, target_of(run) as target:
            mapping = await mappings.load_mapping(target, run.run_id, given.mapping)
            plan = await mappings.load_plan(target, run.run_id)
            is_last = given.phase == plan.rollout[-1].phase
            result = await integrity.check_integrity(
                target,
                mapping,
                source=source,
                shown=plan.limits.findings,
                stages=STAGES if is_last else integrity.BEFORE_LAST_PHASE,
            )
        return told([await stored(given, result)])


@activity.defn
async def verify_rules(given: VerifyInput) -> VerifyResult:
    """The business rules of one mapping."""
    run = given.run
    async with working("verify", run, mapping=given.mapping):
        async with target_of(run) as target:
            mapping = await mappings.load_mapping(target, run.run_id, given.mapping)
            plan = await mappings.load_plan(target, run.run_id)
            checked = await rules.check_rules(target, mapping, plan.limits.findings)
        return told([await stored(given, result) for result in checked])


@activity.defn
async def verify_cross_check(given: VerifyInput) -> VerifyResult:
    """One of the plan's checks: a query on each side whose answers must agree."""
    run = given.run
    async with working("verify", run):
        async with source_of(run) as source, target_of(run) as target:
            plan = await mappings.load_plan(target, run.run_id)
            check = next(check for check in plan.checks if check.name == given.check)
            result = await cross.check_cross(source, target, check, plan.limits.findings)
        return told([await stored(given, result)])


@activity.defn
async def verify_downstream(given: VerifyInput) -> VerifyResult:
    """One thing that consumers of the data must see; asked again until the check's own deadline."""
    run = given.run
    async with working("verify", run):
        async with target_of(run) as target:
            plan = await mappings.load_plan(target, run.run_id)
            check = next(check for check in plan.downstream if check.name == given.check)
            key = CheckKey(kind="downstream", name=check.name)
            result = await results.done(target, run.run_id, given.phase, given.round, key)
        if result is None:
            result = await downstream.check_downstream(
                check, lambda: target_of(run), pools(), shown=plan.limits.findings
            )
            result = await stored(given, result)
        return told([result])


@activity.defn
async def conclude_verification(given: VerifyInput) -> VerdictSummary:
    """Derives the verdict from what is stored, and from nothing else: what was not computed counts as failed."""
    run = given.run
    async with working("verdict", run), target_of(run) as target:
        record = await runs.load_run(target, run.run_id)
        plan = record.plan
        phases = [phase.phase for phase in plan.rollout]
        surveyed = await mappings.load_mappings(target, run.run_id)
        moved = [mapping for mapping in surveyed if moved_predicate(mapping, phases, given.phase) is not None]
        counts = {
            mapping.number: await partitions.count_partitions(target, run.run_id, mapping.number) for mapping in moved
        }
        is_last = given.phase == phases[-1]
        due = plan if is_last else plan.model_copy(update={"checks": [], "downstream": []})
        expected = verdict.expected_checks(due, moved, counts)
        computed = await results.load(target, run.run_id, given.phase, given.round)
        # A retry may come after a verdict that was stored: the first stands.
        stored = await results.load_verdict(target, run.run_id, given.phase, given.round)
        concluded = stored or verdict.conclude(
            expected=expected,
            results=computed,
            run_id=run.run_id,
            phase=given.phase,
            round=given.round,
            plan_name=plan.name,
            plan_hash=record.plan_hash,
            started_at=record.started_at,
            ended_at=record.read_at,
            source_version=record.survey.source_version if record.survey else "",
            target_version=record.survey.target_version if record.survey else "",
            source_identity=record.survey.source_identity if record.survey else "",
            target_identity=record.survey.target_identity if record.survey else "",
        )
        head = await results.store_verdict(target, lease_of(run), concluded, key_of_environment())
        by_weight = sorted(concluded.checks, key=lambda check: KINDS.index(check.kind))
        found = [line for check in by_weight for line in lines(check)]
        return VerdictSummary(
            passed=concluded.passed,
            checks=len(expected),
            failed=sum(1 for check in concluded.checks if check.outcome != "passed"),
            rows=sum(check.target_rows or 0 for check in concluded.checks if check.kind == "parity"),
            findings=concluded.findings_total,
            first_findings=[scrub(line) for line in found[:LINES_IN_HISTORY]],
            digest=concluded.digest,
            head=head,
            repairable=[
                mapping.number
                for mapping in moved
                if any(
                    (result.kind, result.mapping, result.outcome) == ("parity", mapping.number, "failed")
                    for result in computed
                )
            ],
            unlike=sorted(
                {each.mapping for each in concluded.checks if each.mapping >= 0 and each.outcome != "passed"}
            ),
        )


@activity.defn
async def withdraw_verdict(given: CompensationInput) -> StepResult:
    """Compensation of verification: the verdict stays as evidence, marked as no longer standing."""
    run = given.run
    async with working("withdraw verdict", run, undoing=True), target_of(run) as target, fenced(target, lease_of(run)):
        withdrawn = await results.withdraw(target, run.run_id, given.phase)
        head = await compensated(target, run, "verify", f"{withdrawn} verdicts withdrawn", phase=given.phase)
        return StepResult(count=withdrawn, head=head)


async def stored(given: VerifyInput, result: CheckResult) -> CheckResult:
    """Keeps a result, by another connection than the check's: one side's failure may have ended the other's."""
    run = given.run
    async with target_of(run) as target:
        return await results.store(target, lease_of(run), run.run_id, given.phase, given.round, result)


def told(found: list[CheckResult]) -> VerifyResult:
    """The numbers of some results."""
    return VerifyResult(
        checks=len(found),
        passed=sum(1 for result in found if result.outcome == "passed"),
        rows=sum(result.target_rows or 0 for result in found if result.kind == "parity"),
        findings=sum(result.findings_total for result in found),
    )


def lines(check: CheckSummary) -> list[str]:
    """A check's findings for history: where, how many, of what kind, in which columns.

    Keys and values stay in the target's knarr schema.
    """
    table = next((finding.mapping for finding in check.findings if finding.mapping), "")
    where = table if check.name == table else f"{f'{table}, ' if table else ''}check '{check.name}'"
    if check.outcome == "could not run":
        return [f"{where}: could not run"[:LONGEST_LINE]]
    told = []
    for kind, total in check.counts.items():
        columns = sorted({each.column for each in check.findings if each.kind == kind and each.column})
        what = WORDS.get(kind, kind)
        told.append(f"{where}: {total:,} {what}" + (f" in {', '.join(columns)}" if columns else ""))
    return [line[:LONGEST_LINE] for line in told]
