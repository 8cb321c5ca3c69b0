"""Holding both databases against the plan before anything is written; and forgetting what was learnt."""

from collections import Counter
from pathlib import Path

from temporalio import activity

from activities.context import lease_of, pools, source_of, target_of, working
from activities.models import CompensationInput, MappingSummary, RunContext, RunInput, StepResult, SurveyResult
from activities.trail import compensated, stepped
from knarr.audit import chain
from knarr.audit.chain import AuditHead
from knarr.errors import DataError, PlanError, SurveyRefused
from knarr.plan.models import Plan
from knarr.plan.resolved import ResolvedMapping, Survey
from knarr.plan.units import size_bytes
from knarr.postgres import mappings, partitions, runs
from knarr.postgres.lease import claim, fenced
from knarr.postgres.selection import phase_predicate
from knarr.postgres.session import Connection
from knarr.postgres.survey import Surroundings, survey
from knarr.wording import counted


@activity.defn
async def survey_databases(given: RunInput) -> SurveyResult:
    """Resolves the plan, cuts every mapping into partitions and stores both in the target's knarr schema.

    Raises SurveyRefused with every problem that forbids the run, as ApplicationError.
    """
    run = given.run
    async with working("survey", run), source_of(run) as source, target_of(run) as target:
        lease = lease_of(run)
        record = await runs.load_run(target, run.run_id)
        plan = record.plan
        surveyed = await survey(source, target, plan, run.run_id, Surroundings(pools().resolve, [Path.cwd()]))
        if surveyed.errors:
            examples = any(problem.examples for problem in surveyed.errors)
            same = "the same, with the keys or the server's words," if examples else "the same"
            raise SurveyRefused(refusal(surveyed), hint=f"`knarr check PLAN` shows {same} without a run")
        size = size_bytes(plan.limits.partition_size)
        cut = {mapping.number: await partitions.plan_partitions(source, mapping, size) for mapping in surveyed.mappings}
        await claim(target, run.run_id, plan, record.plan_hash, [mapping.target for mapping in surveyed.mappings])
        await mappings.store_survey(target, lease, run.run_id, surveyed)
        count = {
            number: await partitions.store_partitions(target, lease, run.run_id, parts) for number, parts in cut.items()
        }
        async with fenced(target, lease):
            warnings = [problem for problem in surveyed.problems if problem.severity == "warning"]
            head = await stepped(
                target,
                run,
                "survey",
                f"{len(surveyed.mappings)} mappings in {sum(count.values())} partitions, {len(warnings)} warnings",
            )
        # What is stored counts: a survey that was repeated may have read a schema that has changed since.
        return await _told(target, run, plan, count, len(warnings), head)


@activity.defn
async def recall_survey(given: RunInput) -> SurveyResult:
    """What `survey_databases` told, read again from the target's knarr schema: a run that continues as new carries

    no names along. Raises PlanError when the run has no survey here, as ApplicationError.
    """
    run = given.run
    async with working("recall survey", run), target_of(run) as target:
        record = await runs.load_run(target, run.run_id)
        if record.survey is None:
            raise PlanError(f"run {run.run_id} has stored no survey in this database", hint="is it the run's target?")
        count = await partitions.count_all_partitions(target, run.run_id)
        warnings = sum(1 for problem in record.survey.problems if problem.severity == "warning")
        head = await chain.read_head(target, run.run_id)
        if head is None:
            raise DataError(f"run {run.run_id} has no audit trail in this database", hint="run knarr audit")
        return await _told(target, run, record.plan, count, warnings, head)


@activity.defn
async def discard_survey(given: CompensationInput) -> StepResult:
    """Compensation of `survey_databases`: it wrote nothing but its own record, which stays as evidence."""
    async with working("discard survey", given.run, undoing=True), target_of(given.run) as target:
        async with fenced(target, lease_of(given.run)):
            head = await compensated(target, given.run, "survey", "its record stays; it touched no table of the plan")
        return StepResult(head=head)


async def _told(
    target: Connection, run: RunContext, plan: Plan, count: dict[int, int], warnings: int, head: AuditHead
) -> SurveyResult:
    stored = await mappings.load_mappings(target, run.run_id)
    phases = [phase.phase for phase in plan.rollout]
    names = Counter(mapping.name for mapping in stored)
    return SurveyResult(
        mappings=[
            summary(mapping, count.get(mapping.number, 0), phases, alone=names[mapping.name] == 1) for mapping in stored
        ],
        cross_checks=[check.name for check in plan.checks],
        downstream_checks=[check.name for check in plan.downstream],
        warnings=warnings,
        head=head,
    )


def summary(mapping: ResolvedMapping, parts: int, phases: list[str], *, alone: bool) -> MappingSummary:
    """What the workflow is told of a mapping; its name is its own also where several mappings share a target."""
    return MappingSummary(
        number=mapping.number,
        name=mapping.name if alone else f"{mapping.name} #{mapping.number}",
        partitions=parts,
        estimated_rows=mapping.estimated_rows,
        estimated_bytes=mapping.estimated_bytes,
        depends_on=mapping.depends_on,
        foreign_keys=sum(1 for thing in mapping.objects if thing.stage == "foreign keys"),
        phases=[phase for phase in phases if phase_predicate(mapping, phases, phase) is not None],
    )


def refusal(surveyed: Survey) -> str:
    """All problems that forbid the run, one a line; without their examples, since it goes into workflow history."""
    lines = [
        f"- {problem.where}: {problem.found}{f'; expected {problem.expected}' if problem.expected else ''}"
        f"{f' ({problem.hint})' if problem.hint else ''}"
        for problem in surveyed.errors
    ]
    return f"the survey found {counted(len(lines), 'problem')}; nothing was written:\n" + "\n".join(lines)
