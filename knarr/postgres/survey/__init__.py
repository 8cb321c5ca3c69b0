"""The survey: holds a plan against both databases before anything is written, and lists all that it finds.

It only reads, on both sides. The result is the plan resolved: every wildcard expanded, every column typed, every
object of the target spelled out in SQL, and every problem, not the first alone.
"""

from knarr.plan.models import Plan
from knarr.plan.names import parse_table
from knarr.plan.resolved import (
    DatabaseObject,
    ResolvedColumn,
    ResolvedMapping,
    Survey,
)
from knarr.postgres import ddl
from knarr.postgres.ddl_names import Names
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection
from knarr.postgres.survey import environment, left_behind, occupancy, privileges
from knarr.postgres.survey.as_is import as_is_objects
from knarr.postgres.survey.ask import lookup
from knarr.postgres.survey.cuts import find_uncuttable, tell_of_cuts
from knarr.postgres.survey.declared import declared_objects, declared_table
from knarr.postgres.survey.dependencies import fill_order
from knarr.postgres.survey.downstream import check_downstream
from knarr.postgres.survey.expressions import (
    check_cross,
    check_guard,
    check_pause,
    check_phases,
    check_source_side,
    check_target_side,
)
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.keys import check_keys, transformed_columns
from knarr.postgres.survey.locks import check_locks
from knarr.postgres.survey.occupied import check_missing, check_occupied
from knarr.postgres.survey.problems import Problems
from knarr.postgres.survey.publications import check_publications
from knarr.postgres.survey.resolve import resolve_columns
from knarr.postgres.survey.sequences import SequencePlan, plan_sequences
from knarr.postgres.survey.sizes import estimate
from knarr.postgres.survey.sketches import Sketch, SketchColumn, sketch
from knarr.postgres.survey.surroundings import Surroundings, check_transforms
from knarr.postgres.survey.types import Types

__all__ = ["Surroundings", "survey"]


async def survey(
    source: Connection,
    target: Connection,
    plan: Plan,
    run_id: str | None,
    surroundings: Surroundings | None = None,
) -> Survey:
    """The plan resolved against both databases, with every problem found.

    Args:
        source: a connection to the source, outside a transaction.
        target: a connection to the target, outside a transaction.
        plan: the plan as loaded.
        run_id: the run whose survey it is; what it made or claimed in an earlier attempt is not in the way.
        surroundings: where downstream checks are asked from; None: they are not looked at.

    Returns:
        Mappings that could not be resolved are left out; then there is an error that says why.

    Raises:
        TransientError: a connection was lost, a lock was not available in time.
        PlanError: a catalogue may not be read.
    """
    with classified("surveying both databases"):
        return await _survey(source, target, plan, run_id, surroundings)


async def _survey(
    source: Connection, target: Connection, plan: Plan, run_id: str | None, surroundings: Surroundings | None
) -> Survey:
    problems = Problems()
    can_be_asked = await environment.check_servers(source, target, (plan.source, plan.target), problems)
    identities = await environment.identity(source), await environment.identity(target)
    sketches = await sketch(source, target, plan, problems) if can_be_asked else []
    schemas: dict[str, str] = {}
    for one in sketches:
        schemas.setdefault(one.source.schema_name, one.target.schema_name)
    own = await occupancy.own_objects(target, run_id)
    types = Types(source, target, enums=plan.types, schemas=schemas, own=own, problems=problems)
    inquiry = Inquiry(source, target, plan, run_id, own, problems, types, schemas, sketches)
    await types.declare()
    for one in sketches:
        if environment.same_tables(*identities, one.source, one.target):
            problems.error(one.where("target"), "the mapping writes the table that it reads", expected="another table")
        await resolve_columns(inquiry, one)

    names = Names()
    for one in sketches:
        names.relation(one.target.schema_name, one.target.name)
    sequences = await plan_sequences(inquiry, names)
    objects = {one.number: await _objects(inquiry, one, names, sequences) for one in sketches}
    of_run = types.objects + sequences.shared
    made_in = [one.target.schema_name for one in sketches if one.creates]
    made_in += [name.schema_name for name in (*types.stand_ins, *sequences.names.values())]
    made_in = list(dict.fromkeys(made_in))
    of_run = [*await _schemas(inquiry, made_in), *of_run]

    copied = await occupancy.copied_mappings(target, run_id)
    await occupancy.check_claims(inquiry)
    for one in sketches:
        await occupancy.check_occupancy(inquiry, one, objects[one.number], copied)
        await check_occupied(inquiry, one)
    await occupancy.check_objects(inquiry, f"target {plan.target}", of_run)
    await privileges.check_privileges(inquiry, made_in, sequences)
    sizes = {one.number: (0, 0) for one in sketches}
    for one in sketches:
        if not one.unreadable:
            await check_source_side(inquiry, one)
        if not one.broken:
            await check_target_side(inquiry, one)
        if not one.broken and not one.unreadable:
            sizes[one.number] = await estimate(inquiry, one)
            await find_uncuttable(inquiry, one)
            tell_of_cuts(inquiry, one, sizes[one.number][1])
    for one in sketches:
        if not one.broken and not one.unreadable:  # the estimate may have found out
            await check_keys(inquiry, one)
            await check_missing(inquiry, one)
    check_phases(inquiry)
    for position, check in enumerate(plan.checks):
        await check_cross(inquiry, position, check)
    for position, guard in enumerate(plan.guards):
        await check_guard(inquiry, position, guard, surroundings)
    await check_pause(inquiry, surroundings)
    if surroundings is not None:
        await check_transforms(inquiry, surroundings)
        await check_downstream(inquiry, surroundings)
    needs = fill_order(inquiry)
    filled = [one.target for one in sketches if one.target_table is not None and not one.creates]
    await check_locks(target, f"target {plan.target}", filled, problems)
    await environment.check_surroundings(inquiry)
    await check_publications(inquiry)
    await environment.check_space(inquiry, sum(size for _, size in sizes.values()))
    await left_behind.check_left_behind(inquiry)
    return Survey(
        source_version=await source.fetchval("SHOW server_version"),
        target_version=await target.fetchval("SHOW server_version"),
        source_identity=identities[0],
        target_identity=identities[1],
        mappings=[
            _resolved(plan, one, objects[one.number], sequences, needs[one.number], sizes[one.number])
            for one in sketches
            if not one.broken
        ],
        objects=of_run,
        problems=problems.found,
    )


async def _objects(inquiry: Inquiry, one: Sketch, names: Names, sequences: SequencePlan) -> list[DatabaseObject]:
    if one.broken or not one.creates:
        return []
    if one.as_is:
        made = await as_is_objects(inquiry, one, names, sequences) + await declared_objects(inquiry, one, names)
    else:
        made = [declared_table(one), *await declared_objects(inquiry, one, names)]
    return made


async def _schemas(inquiry: Inquiry, wanted: list[str]) -> list[DatabaseObject]:
    """Schemas that the target lacks, or that this run made in an earlier attempt."""
    missing: list[DatabaseObject] = []
    for name in wanted:
        made = ddl.schema(name)
        if (made.kind, made.name) in inquiry.own or await lookup(inquiry.target, made.probe) is None:
            missing.append(made)
    return missing


def _resolved(
    plan: Plan,
    one: Sketch,
    objects: list[DatabaseObject],
    sequences: SequencePlan,
    needs: list[int],
    size: tuple[int, int],
) -> ResolvedMapping:
    transform = one.mapping.transform
    transformed = transformed_columns(one)
    return ResolvedMapping(
        number=one.number,
        target=one.target,
        source_table=one.source,
        source_alias=one.alias,
        from_clause=one.from_clause,
        where=one.mapping.where,
        key=[_resolved_column(column, uncuttable=column.name in one.uncuttable) for column in one.key],
        columns=[_resolved_column(column) for column in one.copied],
        mode=one.mapping.mode,
        binary=transform is None and all(column.category != "other" for column in one.copied),
        transform=transform.function if transform else None,
        transform_columns=[column.name for column in one.copied if column.name in transformed],
        rules=one.mapping.rules,
        scope=one.mapping.scope,
        delete_missing=one.mapping.delete_missing,
        phases={
            phase.phase: predicate
            for phase in plan.rollout
            for table, predicate in phase.where.items()
            if parse_table(table) == one.target
        },
        objects=objects,
        sequences=sequences.to_continue(one),
        depends_on=needs,
        estimated_rows=size[0],
        estimated_bytes=size[1],
    )


def _resolved_column(column: SketchColumn, *, uncuttable: bool = False) -> ResolvedColumn:
    assert column.expression is not None
    return ResolvedColumn(
        name=column.name,
        expression=column.expression,
        source_type=column.source_type,
        target_type=column.target_type,
        base_type=column.base_type,
        category=column.category,
        not_null=column.not_null,
        collatable=column.collatable,
        uncuttable=uncuttable,
    )
