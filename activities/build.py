"""Making what the plan wants on the target around the rows: tables before them; keys, sequences, foreign keys after."""

from temporalio import activity

from activities.context import lease_of, source_of, target_of, working
from activities.models import CompensationInput, MappingInput, RunContext, RunInput, StepResult
from activities.trail import compensated, stepped
from knarr.plan.resolved import DatabaseObject, Stage
from knarr.postgres import before, mappings, objects, sequences
from knarr.postgres.lease import fenced
from knarr.postgres.session import Connection

BEFORE_ROWS: tuple[Stage, ...] = ("before", "table")
AFTER_ROWS: tuple[Stage, ...] = ("keys", "indexes", "constraints")
LAST: tuple[Stage, ...] = ("foreign keys",)
WHOLE_RUN = -1


@activity.defn
async def create_tables(given: RunInput) -> StepResult:
    """Schemas, types and bare tables, each in a transaction of its own that also records it.

    Of tables that have rows already it records what they hold, for the proof that a rollback gives.
    """
    run = given.run
    async with working("create", run), target_of(run) as target:
        surveyed = await mappings.load_survey(target, run.run_id)
        limits = (await mappings.load_plan(target, run.run_id)).limits
        made = await _create(target, run, WHOLE_RUN, surveyed.objects, BEFORE_ROWS)
        for mapping in surveyed.mappings:
            made += await _create(target, run, mapping.number, mapping.objects, BEFORE_ROWS)
            if mapping.occupied:
                await before.record(target, lease_of(run), run.run_id, mapping, limits=limits)
        async with fenced(target, lease_of(run)):
            head = await stepped(target, run, "create", f"{made} schemas, types and tables")
        return StepResult(count=made, head=head)


@activity.defn
async def drop_tables(given: CompensationInput) -> StepResult:
    """Compensation of `create_tables`: drops what this run made, the newest first. Holds when nothing was made.

    A table that holds rows is somebody else's to decide about, and stops it.
    """
    run = given.run
    async with working("drop tables", run, undoing=True), target_of(run) as target:
        plan, dropped = await mappings.load_plan(target, run.run_id), 0
        for mapping in reversed(await mappings.load_mappings(target, run.run_id)):
            dropped += await objects.drop_objects(
                target,
                lease_of(run),
                run.run_id,
                mapping.number,
                list(BEFORE_ROWS),
                changed_since=plan.rollback.changed_since,
                limits=plan.limits,
            )
        dropped += await objects.drop_objects(
            target, lease_of(run), run.run_id, WHOLE_RUN, list(BEFORE_ROWS), limits=plan.limits
        )
        async with fenced(target, lease_of(run)):
            head = await compensated(target, run, "create", f"{dropped} schemas, types and tables dropped")
        return StepResult(count=dropped, head=head)


@activity.defn
async def build_keys(given: MappingInput) -> StepResult:
    """Primary key, unique keys, indexes and checks of one mapping, after its rows."""
    return await _build(given, "build", AFTER_ROWS)


@activity.defn
async def drop_keys(given: CompensationInput) -> StepResult:
    """Compensation of `build_keys`."""
    return await _drop(given, "build", AFTER_ROWS)


@activity.defn
async def add_foreign_keys(given: MappingInput) -> StepResult:
    """Foreign keys of one mapping, validated; after all mappings have their rows and keys."""
    return await _build(given, "foreign keys", LAST)


@activity.defn
async def drop_foreign_keys(given: CompensationInput) -> StepResult:
    """Compensation of `add_foreign_keys`."""
    return await _drop(given, "foreign keys", LAST)


@activity.defn
async def set_sequences(given: MappingInput) -> StepResult:
    """Sequences of one mapping go on where its rows end."""
    run, number = given.run, given.mapping
    async with working("sequences", run, mapping=number), source_of(run) as source, target_of(run) as target:
        mapping = await mappings.load_mapping(target, run.run_id, number)
        limits = (await mappings.load_plan(target, run.run_id)).limits
        moved = await sequences.set_sequences(
            target, source, lease_of(run), run.run_id, mapping, given.phase, limits=limits
        )
        async with fenced(target, lease_of(run)):
            head = await stepped(target, run, "sequences", f"{moved} set", mapping=number, phase=given.phase)
        return StepResult(count=moved, head=head)


@activity.defn
async def reset_sequences(given: CompensationInput) -> StepResult:
    """Compensation of `set_sequences`. Those of a table that the run makes or fills go back with the phase's rows."""
    run = given.run
    async with working("reset sequences", run, mapping=given.mapping, undoing=True), target_of(run) as target:
        mapping = await mappings.load_mapping(target, run.run_id, given.mapping)
        reset = sequences.Reset()
        if mapping.occupied:
            limits = (await mappings.load_plan(target, run.run_id)).limits
            reset = await sequences.reset_sequences(
                target, lease_of(run), run.run_id, given.mapping, given.phase, limits=limits
            )
        async with fenced(target, lease_of(run)):
            head = await compensated(
                target, run, "sequences", str(reset), mapping=given.mapping, phase=given.phase, left=reset.stay
            )
        return StepResult(count=reset.put_back, head=head, left=reset.stay)


async def _create(
    target: Connection, run: RunContext, number: int, wanted: list[DatabaseObject], stages: tuple[Stage, ...]
) -> int:
    chosen = [thing for thing in wanted if thing.stage in stages]
    limits = (await mappings.load_plan(target, run.run_id)).limits
    return await objects.create_objects(target, lease_of(run), run.run_id, number, chosen, limits=limits)


async def _build(given: MappingInput, step: str, stages: tuple[Stage, ...]) -> StepResult:
    run, number = given.run, given.mapping
    async with working(step, run, mapping=number), target_of(run) as target:
        mapping = await mappings.load_mapping(target, run.run_id, number)
        made = await _create(target, run, number, mapping.objects, stages)
        # Statistics are not taken back, so only a table that goes altogether when the run does is analysed.
        if stages == AFTER_ROWS and mapping.mode == "create":
            await objects.analyze(target, lease_of(run), mapping)
        async with fenced(target, lease_of(run)):
            head = await stepped(target, run, step, f"{mapping.name}: {made} made", mapping=number, phase=given.phase)
        return StepResult(count=made, head=head)


async def _drop(given: CompensationInput, step: str, stages: tuple[Stage, ...]) -> StepResult:
    run, number = given.run, given.mapping
    async with working(f"undo {step}", run, mapping=number, undoing=True), target_of(run) as target:
        limits = (await mappings.load_plan(target, run.run_id)).limits
        dropped = await objects.drop_objects(target, lease_of(run), run.run_id, number, list(stages), limits=limits)
        async with fenced(target, lease_of(run)):
            head = await compensated(target, run, step, f"{dropped} dropped", mapping=number, phase=given.phase)
        return StepResult(count=dropped, head=head)
