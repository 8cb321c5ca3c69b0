"""The objects of a table that moves as it is: spelled by the source's own deparsers, under the target's names."""

from typing import Final

from knarr.plan.names import write_table
from knarr.plan.resolved import DatabaseObject
from knarr.postgres import ddl
from knarr.postgres.catalogue import CatalogueConstraint, CatalogueIndex
from knarr.postgres.ddl import ConstraintKind, TargetColumn
from knarr.postgres.ddl_names import Names, renamed
from knarr.postgres.identifiers import qualified
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.sequences import SequencePlan
from knarr.postgres.survey.sketches import Sketch, SketchColumn

_KINDS: Final[dict[str, ConstraintKind]] = {
    "p": "primary key", "u": "unique", "x": "exclusion", "c": "check", "n": "not null", "f": "foreign key",
}  # fmt: skip
VIRTUAL_SINCE: Final = 18
NOT_NULL_NOT_VALID_SINCE: Final = 18


async def as_is_objects(
    inquiry: Inquiry, sketch: Sketch, names: Names, sequences: SequencePlan
) -> list[DatabaseObject]:
    """Everything that the mapping makes for a table that moves as it is, in the order in which it is made."""
    await _check_needs(inquiry, sketch)
    objects = list(sequences.of_mapping[sketch.number])
    columns = [_target_column(inquiry, sketch, column, sequences) for column in sketch.columns]
    objects.append(ddl.table(sketch.target, columns, unlogged=sketch.source_table.unlogged))
    objects += sequences.owners(sketch)
    if sketch.source_table.comment:
        objects.append(ddl.table_comment(sketch.target, sketch.source_table.comment))
    for column in sketch.columns:
        if column.plain is not None and column.plain.comment:
            objects.append(ddl.column_comment(sketch.target, column.name, column.plain.comment))
    for kind in ("p", "u", "x"):
        for constraint in sketch.source_table.constraints:
            if constraint.kind == kind and not (kind == "p" and sketch.mapping.primary_key is not None):
                wanted = renamed(constraint.name, sketch.source.name, sketch.target.name)
                name = names.index_constraint(sketch.target, wanted)
                objects += _constraint(inquiry, sketch, constraint, name, constraint.definition)
    for index in sketch.source_table.indexes:
        objects += _index(inquiry, sketch, index, names)
    for constraint in sketch.source_table.constraints:
        if constraint.kind == "c" or (constraint.kind == "n" and not constraint.validated):
            objects += _checked(inquiry, sketch, constraint, names)
    for constraint in sketch.source_table.constraints:
        if constraint.kind == "f":
            objects += _foreign_key(inquiry, sketch, constraint, names)
    return objects


def _target_column(inquiry: Inquiry, sketch: Sketch, column: SketchColumn, sequences: SequencePlan) -> TargetColumn:
    generated = column.generated
    if column.generated_sql is not None and generated == "virtual" and inquiry.target_major < VIRTUAL_SINCE:
        inquiry.problems.warn(
            sketch.where("columns", column.name),
            f"a virtual generated column becomes a stored one: the target is PostgreSQL {inquiry.target_major}",
        )
        generated = "stored"
    default_sql = sequences.default_sql(column)
    return TargetColumn(
        name=column.name,
        type=column.target_type,
        collation=column.collation,
        not_null=column.not_null,
        default_sql=None if default_sql is None else inquiry.types.rewrite(default_sql),
        identity=column.identity,
        identity_options=sequences.identity_options(column),
        generated_sql=None if column.generated_sql is None else inquiry.types.rewrite(column.generated_sql),
        generated=generated,
    )


def _constraint(
    inquiry: Inquiry, sketch: Sketch, constraint: CatalogueConstraint, name: str, definition: str
) -> list[DatabaseObject]:
    made = ddl.constraint(_KINDS[constraint.kind], sketch.target, name, inquiry.types.rewrite(definition))
    if not constraint.comment:
        return [made]
    return [made, ddl.constraint_comment(made, sketch.target, name, constraint.comment)]


def _index(inquiry: Inquiry, sketch: Sketch, index: CatalogueIndex, names: Names) -> list[DatabaseObject]:
    if index.of_constraint:
        return []
    if not index.valid:
        inquiry.problems.warn(
            sketch.where(), f"index {index.name} of {sketch.source} is invalid on the source and is not made",
            hint="REINDEX it there, or drop it",
        )  # fmt: skip
        return []
    wanted = renamed(index.name, sketch.source.name, sketch.target.name)
    name = names.relation(sketch.target.schema_name, wanted)
    made = ddl.index(sketch.target, name, inquiry.types.rewrite(index.body), unique=index.is_unique)
    if not index.comment:
        return [made]
    return [made, ddl.index_comment(made, sketch.target.schema_name, name, index.comment)]


def _checked(inquiry: Inquiry, sketch: Sketch, constraint: CatalogueConstraint, names: Names) -> list[DatabaseObject]:
    if constraint.kind == "n" and inquiry.target_major < NOT_NULL_NOT_VALID_SINCE:
        inquiry.problems.warn(
            sketch.where("columns", constraint.columns[0]),
            "NOT NULL is NOT VALID on the source and is not made: the target is PostgreSQL "
            f"{inquiry.target_major}, which has no such thing",
        )
        return []
    name = names.constraint(sketch.target, renamed(constraint.name, sketch.source.name, sketch.target.name))
    return _constraint(inquiry, sketch, constraint, name, constraint.definition)


def _foreign_key(
    inquiry: Inquiry, sketch: Sketch, constraint: CatalogueConstraint, names: Names
) -> list[DatabaseObject]:
    assert constraint.foreign_table is not None and constraint.foreign_sql_name is not None
    referenced = next(
        (one for one in inquiry.sketches if one.source == constraint.foreign_table and one.as_is and one.creates), None
    )
    if referenced is None:
        inquiry.problems.warn(
            sketch.where(),
            f"foreign key {constraint.name} to {write_table(constraint.foreign_table)} is not made: "
            "that table does not move as it is in this plan",
            hint="add the table to the plan, or make the foreign key after the run",
        )
        return []
    name = names.constraint(sketch.target, renamed(constraint.name, sketch.source.name, sketch.target.name))
    definition = constraint.definition.replace(
        f" REFERENCES {constraint.foreign_sql_name}(", f" REFERENCES {qualified(referenced.target)}(", 1
    )
    return _constraint(inquiry, sketch, constraint, name, definition)


async def _check_needs(inquiry: Inquiry, sketch: Sketch) -> None:
    """Functions, collations and extensions outside pg_catalog that the table's objects can't do without."""
    table = sketch.source_table
    functions: dict[str, str] = {}
    for column in table.columns:
        functions |= dict.fromkeys(column.functions, f"column {column.name}")
    for constraint in table.constraints:
        functions |= dict.fromkeys(constraint.functions, f"constraint {constraint.name}")
    for index in table.indexes:
        functions |= dict.fromkeys(index.functions, f"index {index.name}")
    for function, user in functions.items():
        if await inquiry.target.fetchval("SELECT pg_catalog.to_regprocedure($1) IS NULL", function):
            inquiry.problems.error(
                sketch.where(), f"{user} needs function {function}, which the target does not have",
                expected="the function on the target before the run: functions are not moved",
            )  # fmt: skip
    for extension in dict.fromkeys(name for index in table.indexes for name in index.extensions):
        if not await inquiry.target.fetchval("SELECT true FROM pg_catalog.pg_extension WHERE extname = $1", extension):
            inquiry.problems.error(
                sketch.where(), f"an index needs extension {extension}, which the target does not have",
                expected=f"CREATE EXTENSION {extension} on the target before the run",
            )  # fmt: skip
    for found in table.columns:
        if found.collation and await inquiry.target.fetchval(
            "SELECT pg_catalog.to_regcollation($1) IS NULL", found.collation
        ):
            inquiry.problems.error(
                sketch.where("columns", found.name), f"collation {found.collation} does not exist on the target",
                expected="the collation on the target before the run",
            )  # fmt: skip
