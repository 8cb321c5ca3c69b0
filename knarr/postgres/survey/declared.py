"""The objects that a mapping declares: its table, keys, indexes, checks and foreign keys, named as PostgreSQL would."""

from knarr.plan.models import ForeignKey, Index
from knarr.plan.names import write_table
from knarr.plan.resolved import DatabaseObject
from knarr.postgres import ddl
from knarr.postgres.catalogue import read_table
from knarr.postgres.ddl import TargetColumn
from knarr.postgres.ddl_names import Names, object_name
from knarr.postgres.identifiers import enclosed, qualified, quote
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import Problems, listed, nearest
from knarr.postgres.survey.resolve import primary_key_columns
from knarr.postgres.survey.sketches import Sketch


def declared_table(sketch: Sketch) -> DatabaseObject:
    """The table itself."""
    columns = [
        TargetColumn(
            name=column.name,
            type=column.target_type,
            not_null=column.not_null,
            default_sql=None if column.default_sql is None else enclosed(column.default_sql),
            identity=column.identity,
            generated_sql=column.generated_sql,
        )
        for column in sketch.columns
    ]
    return ddl.table(sketch.target, columns)


async def declared_objects(inquiry: Inquiry, sketch: Sketch, names: Names) -> list[DatabaseObject]:
    """Keys, indexes, checks and foreign keys that the plan writes down, in the order in which they are made."""
    mapping, table = sketch.mapping, sketch.target
    objects: list[DatabaseObject] = []
    primary = mapping.primary_key if mapping.primary_key is not None or sketch.as_is else list(mapping.key)
    if primary and _known(inquiry.problems, sketch, "primary_key", primary):
        name = names.index_constraint(table, object_name(table.name, [], "pkey"))
        objects.append(ddl.constraint("primary key", table, name, f"PRIMARY KEY ({_columns(primary)})"))
    for position, columns in enumerate(mapping.unique):
        if _known(inquiry.problems, sketch, f"unique[{position}]", columns):
            name = names.index_constraint(table, object_name(table.name, columns, "key"))
            objects.append(ddl.constraint("unique", table, name, f"UNIQUE ({_columns(columns)})"))
    for position, index in enumerate(mapping.indexes):
        objects += _index(inquiry.problems, sketch, f"indexes[{position}]", index, names)
    for check, predicate in mapping.constraints.items():
        name = names.constraint(table, check)
        objects.append(ddl.constraint("check", table, name, f"CHECK {enclosed(predicate)}"))
    for position, foreign_key in enumerate(mapping.foreign_keys):
        objects += await _foreign_key(inquiry, sketch, f"foreign_keys[{position}]", foreign_key, names)
    return objects


def index_parts(index: Index) -> list[str]:
    """The index's columns as SQL: quoted names, expressions as written."""
    return [part if part.startswith("(") else quote(part) for part in index.columns]


def _index(problems: Problems, sketch: Sketch, path: str, index: Index, names: Names) -> list[DatabaseObject]:
    plain = [part for part in index.columns if not part.startswith("(")]
    if not _known(problems, sketch, path, plain):
        return []
    parts = ["expr" if part.startswith("(") else part for part in index.columns]
    wanted = index.name or object_name(sketch.target.name, parts, "idx")
    name = names.relation(sketch.target.schema_name, wanted)
    where = f" WHERE {enclosed(index.where)}" if index.where else ""
    body = f"USING {index.method} ({', '.join(index_parts(index))}){where}"
    return [ddl.index(sketch.target, name, body, unique=index.unique)]


async def _foreign_key(
    inquiry: Inquiry, sketch: Sketch, path: str, foreign_key: ForeignKey, names: Names
) -> list[DatabaseObject]:
    if not _known(inquiry.problems, sketch, path, foreign_key.columns):
        return []
    reference = foreign_key.reference
    referenced = inquiry.writing(reference.table)
    if referenced is not None and referenced.broken:
        return []  # its own problems are listed; what it will look like is not known
    if referenced is not None:
        known = [column.name for column in referenced.columns]
        primary = primary_key_columns(referenced)
        unique = _unique_sets(referenced)
    else:
        there = await read_table(inquiry.target, reference.table)
        if there is None:
            targets = [write_table(one.target) for one in inquiry.sketches]
            inquiry.problems.error(
                sketch.where(path),
                f"table {write_table(reference.table)} is neither in the plan nor on the target",
                expected=f"one of {listed(targets)}",
                hint=nearest(write_table(reference.table), targets),
            )
            return []
        known = [column.name for column in there.columns]
        primary = list(there.primary_key.columns) if there.primary_key else []
        unique = [set(columns) for columns in there.unique_sets()]
    columns = reference.columns or primary
    where = sketch.where(path)
    if not columns:
        inquiry.problems.error(
            where, f"{write_table(reference.table)} has no primary key", expected="the columns that it points at"
        )
        return []
    for missing in [column for column in columns if column not in known]:
        inquiry.problems.error(
            where,
            f"{write_table(reference.table)} has no column {missing}",
            expected=f"one of {listed(known)}",
            hint=nearest(missing, known),
        )
        return []
    if len(columns) != len(foreign_key.columns):
        inquiry.problems.error(
            where,
            f"{len(foreign_key.columns)} columns point at {len(columns)} of {write_table(reference.table)}: "
            f"{listed(foreign_key.columns)} at {listed(columns)}",
            expected="as many on both sides",
        )
        return []
    if set(columns) not in unique:
        inquiry.problems.error(
            where,
            f"nothing makes {listed(columns)} of {write_table(reference.table)} unique",
            expected="its primary key, or columns under its `unique`",
        )
        return []
    name = names.constraint(sketch.target, object_name(sketch.target.name, foreign_key.columns, "fkey"))
    definition = (
        f"FOREIGN KEY ({_columns(foreign_key.columns)}) REFERENCES {qualified(reference.table)} ({_columns(columns)})"
        f" ON UPDATE {foreign_key.on_update.upper()} ON DELETE {foreign_key.on_delete.upper()}"
    )
    return [ddl.constraint("foreign key", sketch.target, name, definition)]


def _unique_sets(sketch: Sketch) -> list[set[str]]:
    """What will be unique on the target table."""
    found = [set(primary_key_columns(sketch)), *(set(columns) for columns in sketch.mapping.unique)]
    found += [set(index.columns) for index in sketch.mapping.indexes if index.unique and index.where is None]
    table = sketch.source_table if sketch.as_is else None
    if not sketch.creates:
        table = sketch.target_table
    return found + ([set(columns) for columns in table.unique_sets()] if table is not None else [])


def _known(problems: Problems, sketch: Sketch, path: str, columns: list[str]) -> bool:
    """Whether all the columns are the mapping's; each that is not becomes a problem."""
    known = [column.name for column in sketch.columns]
    missing = [column for column in columns if column not in known]
    if not sketch.broken:
        for column in missing:
            problems.error(
                sketch.where(path),
                f"the mapping has no column {column}",
                expected=f"one of {listed(known)}",
                hint=nearest(column, known),
            )
    return not missing


def _columns(names: list[str]) -> str:
    return ", ".join(quote(name) for name in names)
