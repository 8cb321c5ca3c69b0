"""Columns and keys: what each target column is made of, and the types on both sides, by asking the databases."""

import re
from dataclasses import replace
from typing import Final

from knarr.plan.models import Column
from knarr.postgres.catalogue import CatalogueColumn, CatalogueTable
from knarr.postgres.identifiers import quote
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed, nearest
from knarr.postgres.survey.sketches import Sketch, SketchColumn
from knarr.postgres.survey.types import TypeUse
from knarr.postgres.survey.values import check_casts, expression_types, warn_of_rounding

_NAME: Final = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\U0010ffff][\w$]*)'
_PLAIN: Final = re.compile(rf"(?:({_NAME})\s*\.\s*)?({_NAME})")
# Under these joins the source row itself may be missing, so that none of its columns is NOT NULL.
_SOURCE_MAY_BE_MISSING: Final = re.compile(r"\b(RIGHT|FULL)\b", re.IGNORECASE)


async def resolve_columns(inquiry: Inquiry, sketch: Sketch) -> None:
    """Fills in the sketch's columns and key; what can't be resolved becomes a problem and breaks the sketch."""
    if not sketch.creates and sketch.target_table is None:
        sketch.broken = True  # that it is absent is said by the check of what is in the way
        return
    if sketch.source_table.kind not in ("table", "partitioned table") and sketch.as_is:
        inquiry.problems.error(
            sketch.where("source"),
            f"{sketch.source} is a {sketch.source_table.kind}",
            expected="a table, if the mapping names no columns",
            hint="name the columns and the key",
        )
        sketch.broken = True
        return
    wanted = _as_they_are(sketch) if sketch.as_is else sketch.mapping.all_columns() or {}
    expressions = await _expressions(inquiry, sketch, wanted)
    # A column of the source is known from the catalogue; the rest is asked of the server.
    asked = {name: sql for name, sql in expressions.items() if plain_column(sketch, sql) is None}
    oids = await expression_types(inquiry, sketch, asked)
    for name, column in wanted.items():
        resolved = await _column(inquiry, sketch, name, column, expressions.get(name), oids.get(name))
        if resolved is None:
            sketch.broken = True
        else:
            sketch.columns.append(resolved)
    _resolve_key(inquiry, sketch)
    if not sketch.broken:
        await check_casts(inquiry, sketch)
        warn_of_rounding(inquiry, sketch)


def plain_column(sketch: Sketch, expression: str) -> CatalogueColumn | None:
    """The source table's column that the expression names and does nothing else with."""
    match = _PLAIN.fullmatch(expression.strip())
    if match is None:
        return None
    alias, name = match[1], _folded(match[2])
    if alias is None and sketch.mapping.joins:  # it may be another table's
        return None
    if alias is not None and _folded(alias) != sketch.alias:
        return None
    return sketch.source_table.column(name)


def primary_key_columns(sketch: Sketch) -> list[str]:
    """The target columns of the target's primary key; empty: it has none."""
    if not sketch.creates:
        there = sketch.target_table and sketch.target_table.primary_key
        return list(there.columns) if there else []
    if sketch.mapping.primary_key is not None:
        return list(sketch.mapping.primary_key)
    if sketch.as_is:
        has = sketch.source_table.primary_key
        return list(has.columns) if has else []
    return list(sketch.mapping.key)


def _as_they_are(sketch: Sketch) -> dict[str, Column]:
    copied = [column for column in sketch.source_table.columns if sketch.creates or column.generated is None]
    return {column.name: Column(expression=sketch.mapping.key.get(column.name, "=")) for column in copied}


async def _expressions(inquiry: Inquiry, sketch: Sketch, wanted: dict[str, Column]) -> dict[str, str]:
    """The SQL of every column that is copied."""
    found: dict[str, str] = {}
    known = [column.name for column in sketch.source_table.columns]
    for name, column in wanted.items():
        if column.generated is not None:
            continue
        if column.expression != "=":
            found[name] = column.expression
            continue
        source_column = sketch.source_table.column(name)
        if source_column is None:
            inquiry.problems.error(
                sketch.where("columns", name),
                f"'=' needs a column {name} in {sketch.source}, which has none",
                expected=f"one of {listed(known)}",
                hint=nearest(name, known),
            )
        elif not (sketch.as_is and source_column.generated):
            found[name] = f"{quote(sketch.alias)}.{quote(name)}"
    return found


async def _column(
    inquiry: Inquiry, sketch: Sketch, name: str, column: Column, expression: str | None, oid: int | None
) -> SketchColumn | None:
    plain = plain_column(sketch, expression) if expression is not None else None
    is_generated = column.generated is not None
    if sketch.as_is and expression is None:
        plain = sketch.source_table.column(name)
        is_generated = plain is not None and plain.generated is not None
    if plain is None and oid is None and not is_generated:
        return None
    source_type = plain.type if plain else ""
    if oid is not None and plain is None:
        source_type = (await inquiry.types.source_type(oid)).sql_name
    there: CatalogueColumn | None = None
    if not sketch.creates:
        there = _existing(inquiry, sketch, name)
        if there is None:
            return None
    use = await _type_on_target(inquiry, sketch, name, column, plain, oid, source_type, there)
    if use is None:
        return None
    made = SketchColumn(
        name=name,
        expression=expression,
        target_type=use.sql,
        base_type=use.base,
        category=use.category,
        collatable=use.collatable,
        not_null=there.not_null if there else _not_null(sketch, name, column, plain),
        source_type=source_type,
        plain=plain,
        default_sql=column.default,
        identity=column.identity,
        generated_sql=column.generated,
    )
    if not (sketch.as_is and sketch.creates and plain is not None):
        return made
    return replace(
        made,
        collation=plain.collation,
        default_sql=None if plain.generated else plain.default_sql,
        identity=plain.identity,
        generated_sql=plain.default_sql if plain.generated else None,
        generated=plain.generated or "stored",
    )


def _existing(inquiry: Inquiry, sketch: Sketch, name: str) -> CatalogueColumn | None:
    """The column of a target table that is there already."""
    assert sketch.target_table is not None
    there = sketch.target_table.column(name)
    known = [column.name for column in sketch.target_table.columns if column.generated is None]
    path = ("columns", name) if not sketch.as_is else ("target",)
    if there is None:
        inquiry.problems.error(
            sketch.where(*path),
            f"the target table has no column {name}",
            expected=f"one of {listed(known)}",
            hint=nearest(name, known),
        )
    elif there.generated is not None:
        inquiry.problems.error(
            sketch.where(*path),
            f"column {name} of the target is generated; it can't be written",
            expected=f"one of {listed(known)}",
            hint="leave it out of the mapping",
        )
        return None
    return there


async def _type_on_target(
    inquiry: Inquiry, sketch: Sketch, name: str, column: Column, plain: CatalogueColumn | None, oid: int | None,
    source_type: str, there: CatalogueColumn | None,
) -> TypeUse | None:  # fmt: skip
    if there is not None:
        return await inquiry.types.existing(there.type_oid, there.type)
    if column.type is not None:
        return await inquiry.types.declared(column.type, sketch.where("columns", name, "type"))
    type_oid = plain.type_oid if plain is not None else oid
    if type_oid is None:
        inquiry.problems.error(
            sketch.where("columns", name), "a generated column without a type", expected="`type` beside `generated`"
        )
        return None
    return await inquiry.types.moved(type_oid, source_type, sketch.where("columns", name))


def _not_null(sketch: Sketch, name: str, column: Column, plain: CatalogueColumn | None) -> bool:
    if column.null is False or column.identity is not None:
        return True
    if name in primary_key_columns(sketch) or name in sketch.mapping.key:
        return True
    if column.null is True or plain is None or not plain.not_null:
        return False
    return not _SOURCE_MAY_BE_MISSING.search(sketch.mapping.joins or "")


def _resolve_key(inquiry: Inquiry, sketch: Sketch) -> None:
    names = list(sketch.mapping.key)
    if not names and sketch.as_is:
        names = next((columns for columns in sketch.source_table.unique_sets() if _all_known(sketch, columns)), [])
        if not names and not sketch.broken:
            inquiry.problems.warn(
                sketch.where(),
                f"{sketch.source} has no primary key and no unique key without NULLs",
                hint="it moves as one partition, and its rows are compared as a whole; name a `key` if there is one",
            )
    for name in names:
        column = sketch.column(name)
        if column is not None:
            sketch.key.append(column)
        elif sketch.as_is and sketch.source_table.column(name) is None:
            known = [one.name for one in sketch.source_table.columns]
            inquiry.problems.error(
                sketch.where("key", name),
                f"the key names column {name}, which {sketch.source} does not have",
                expected=f"one of {listed(known)}",
                hint=nearest(name, known),
            )
            sketch.broken = True


def _all_known(sketch: Sketch, columns: list[str]) -> bool:
    """Whether a unique set of the source can be the key: nothing in it is null or generated."""
    table: CatalogueTable = sketch.source_table
    found = [table.column(name) for name in columns]
    return bool(found) and all(one is not None and one.not_null and one.generated is None for one in found)


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else re.sub(r"[A-Z]+", lambda up: up[0].lower(), name)
