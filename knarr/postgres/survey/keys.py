"""Keys that are really unique and never null: proved by the source's own constraint, else by counting."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from knarr.errors import TransientError
from knarr.plan.units import seconds
from knarr.postgres.failures import classify
from knarr.postgres.identifiers import enclosed
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.resolve import primary_key_columns
from knarr.postgres.survey.sketches import Sketch, SketchColumn

_SHOWN: Final = 3


async def check_keys(inquiry: Inquiry, sketch: Sketch) -> None:
    """The key, the primary key and every declared unique set of columns; a set is asked about once."""
    mapping = sketch.mapping
    wanted: dict[tuple[str, ...], tuple[str, bool]] = {}
    if sketch.key:
        wanted[tuple(column.name for column in sketch.key)] = ("key", True)
    if primary := primary_key_columns(sketch):
        wanted.setdefault(tuple(primary), ("primary_key", True))
    for position, columns in enumerate(mapping.unique):
        wanted.setdefault(tuple(columns), (f"unique[{position}]", False))
    for position, index in enumerate(mapping.indexes):
        if index.unique and index.where is None:
            wanted.setdefault(tuple(index.columns), (f"indexes[{position}]", False))
    transformed = transformed_columns(sketch)
    for names, (path, never_null) in wanted.items():
        columns_of = [column for name in names if (column := sketch.column(name)) is not None]
        if len(columns_of) != len(names) or any(column.expression is None for column in columns_of):
            continue  # unknown columns have their own problem; generated ones exist on the target alone
        if transformed & set(names) or _proved(sketch, columns_of, never_null):
            continue
        await _count(inquiry, sketch, path, columns_of, never_null)


def transformed_columns(sketch: Sketch) -> set[str]:
    """The target columns that a Python transform writes."""
    transform = sketch.mapping.transform
    if transform is None:
        return set()
    if transform.columns is not None:
        return set(transform.columns)
    return {column.name for column in sketch.copied} - {column.name for column in sketch.key}


def _proved(sketch: Sketch, columns: Sequence[SketchColumn], never_null: bool) -> bool:
    """Whether a unique index of the source says it: plain columns, no lossy cast, no join that multiplies rows."""
    if sketch.mapping.joins:
        return False
    if sketch.source_table.has_children and sketch.source_table.kind == "table" and not sketch.as_is:
        return False  # a unique index does not reach the rows of tables that inherit
    plain = [column.plain for column in columns if column.plain is not None and _same_type(column)]
    if len(plain) != len(columns) or (never_null and not all(column.not_null for column in plain)):
        return False
    names = {column.name for column in plain}
    return any(set(unique) <= names for unique in sketch.source_table.unique_sets())


def _same_type(column: SketchColumn) -> bool:
    """Whether two values that differ on the source differ on the target: a cast may make them equal."""
    widened = {("smallint", "integer"), ("smallint", "bigint"), ("integer", "bigint")}
    return (
        column.source_type == column.base_type
        or (column.source_type, column.base_type) in widened
        or (column.category != "builtin")
    )


async def _count(
    inquiry: Inquiry, sketch: Sketch, path: str, columns: Sequence[SketchColumn], never_null: bool
) -> None:
    values = [
        f"{enclosed(column.expression or '')}::{column.base_type if column.category == 'builtin' else 'text'}"
        for column in columns
    ]
    where = f" WHERE {enclosed(sketch.mapping.where)}" if sketch.mapping.where else ""
    numbers = ", ".join(str(position + 1) for position in range(len(values)))
    is_null = " OR ".join(f"k{position + 1} IS NULL" for position in range(len(values)))
    shown = " || ', ' || ".join(f"coalesce(k{position + 1}::text, 'NULL')" for position in range(len(values)))
    aliased = ", ".join(f"{value} AS k{position + 1}" for position, value in enumerate(values))
    rows = f"SELECT {aliased} FROM {sketch.from_clause}{where}"
    kept = "" if never_null else f" WHERE ({is_null}) IS NOT TRUE"
    query = f"""
        SELECT {shown} AS value, times, count(*) OVER () AS keys
          FROM (SELECT *, count(*) AS times FROM ({rows}) AS read{kept}
                 GROUP BY {numbers} HAVING count(*) > 1) AS doubled
         ORDER BY times DESC, value LIMIT {_SHOWN}
    """
    names = listed([column.name for column in columns])
    where_in_plan = sketch.where(path)
    try:
        async with inquiry.source.transaction(readonly=True):
            longest = round(seconds(inquiry.plan.limits.statement_timeout) * 1000)
            await inquiry.source.execute(f"SET LOCAL statement_timeout = {longest}")
            doubled = await inquiry.source.fetch(query)
            nulls = 0
            if never_null:
                nulls = await inquiry.source.fetchval(f"SELECT count(*) FROM ({rows}) AS read WHERE {is_null}")
    except asyncpg.PostgresError as error:
        classified = classify(error, "counting keys")
        if isinstance(classified, TransientError):
            raise classified from error
        inquiry.problems.error(
            where_in_plan,
            f"{names} can't be counted: {classified.message}",
            expected="values that can be compared",
            examples=classified.detail,
        )
        return
    if doubled:
        examples = "; ".join(f"({row['value']}) {row['times']} times" for row in doubled)
        multiplied = "the joins may give several rows for one; " if sketch.mapping.joins else ""
        inquiry.problems.error(
            where_in_plan,
            f"{names} is not unique: {doubled[0]['keys']} values come more than once",
            expected="one row for each value",
            hint=f"{multiplied}choose other columns, or correct the rows at the source",
            examples=examples,
        )
    if nulls:
        inquiry.problems.error(
            where_in_plan,
            f"{names} is NULL in {nulls:,} rows",
            expected="a value in every row",
            hint="choose other columns, or leave the rows out with `where`",
        )
