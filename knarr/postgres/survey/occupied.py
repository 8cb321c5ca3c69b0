"""A target table that has rows of its own: what append and merge need of it, so that every row can be taken back."""

from typing import Final

from knarr.plan.names import write_table
from knarr.postgres.catalogue import CatalogueTable
from knarr.postgres.identifiers import enclosed, qualified, quote
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sketches import Sketch

# One may point at a part of the table alone, and one that points at a table above it points at its rows too.
_POINTING_HERE: Final = """
WITH kin AS (SELECT $1::oid AS oid, NULL::text AS called
             UNION SELECT relid, relid::regclass || ', a part of it' FROM pg_catalog.pg_partition_tree($1)
              WHERE relid <> $1
             UNION SELECT relid, relid::regclass || ', of which it is a part'
              FROM pg_catalog.pg_partition_ancestors($1) WHERE relid <> $1)
SELECT c.conname AS name, c.conrelid::regclass::text AS referencing, kin.called,
       c.conrelid IN (SELECT oid FROM kin) AS itself,
       c.confdeltype::text IN ('c', 'n', 'd') AS deletes_on, c.confupdtype::text IN ('c', 'n', 'd') AS updates_on,
       ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
               JOIN pg_catalog.pg_attribute a ON (a.attrelid, a.attnum) = (c.confrelid, k.number)
              ORDER BY k.place) AS referenced
  FROM pg_catalog.pg_constraint c JOIN kin ON kin.oid = c.confrelid
 WHERE c.contype = 'f' AND c.conparentid = 0
 ORDER BY 1, 2, 3
"""
_MAY_MAKE_TEMPORARY: Final = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')"
_SOURCE_IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT FROM {from_clause}{where})"


async def check_occupied(inquiry: Inquiry, sketch: Sketch) -> None:
    """Everything about the target of an append or a merge that would make its undo anything less than exact."""
    table = sketch.target_table
    if sketch.mapping.mode not in ("append", "merge") or table is None or table.kind not in _TABLES:
        return
    _check_key(inquiry, sketch, table)
    await _check_pointing_here(inquiry, sketch, table)
    _check_columns(inquiry, sketch, table)
    _check_validated(inquiry, sketch, table)
    if not await inquiry.target.fetchval(_MAY_MAKE_TEMPORARY):
        database = await inquiry.target.fetchval("SELECT pg_catalog.current_database()")
        role = await inquiry.target.fetchval("SELECT current_user")
        inquiry.problems.error(
            f"target {inquiry.plan.target}",
            f"role {role} may not make temporary tables, in which rows wait to be merged",
            expected=f"GRANT TEMPORARY ON DATABASE {quote(database)} TO {quote(role)}",
        )


async def check_missing(inquiry: Inquiry, sketch: Sketch) -> None:
    """Warns before everything is deleted because the source has nothing."""
    if not sketch.mapping.delete_missing or sketch.broken or sketch.unreadable:
        return
    where = f" WHERE {enclosed(sketch.mapping.where)}" if sketch.mapping.where else ""
    if await inquiry.source.fetchval(_SOURCE_IS_EMPTY.format(from_clause=sketch.from_clause, where=where)):
        inquiry.problems.warn(
            sketch.where("delete_missing"),
            f"the source has no row for {write_table(sketch.target)}: every row of it (in its scope) will be deleted",
            hint="take delete_missing out if that is not what you want",
        )


_TABLES: Final = ("table", "partitioned table")


def _check_key(inquiry: Inquiry, sketch: Sketch, table: CatalogueTable) -> None:
    """Rows are told apart by the key, so nothing but a unique index over just its columns will do."""
    mode, name = sketch.mapping.mode, write_table(sketch.target)
    unique = table.unique_sets()
    expected = f"one of {listed([_columns(columns) for columns in unique])}" if unique else "a unique key"
    if not sketch.key:
        if not sketch.broken:
            inquiry.problems.error(sketch.where("key"), f"mode: {mode} without a key", expected=expected)
        return
    names = [column.name for column in sketch.key]
    if set(names) not in [set(columns) for columns in unique]:
        inquiry.problems.error(
            sketch.where("key"),
            f"no unique index of {name} is over just {_columns(names)}",
            expected=expected,
            hint=f"CREATE UNIQUE INDEX ON {qualified(sketch.target)} ({', '.join(map(quote, names))})",
        )


async def _check_pointing_here(inquiry: Inquiry, sketch: Sketch, table: CatalogueTable) -> None:
    name = write_table(sketch.target)
    written = {column.name for column in sketch.copied} - {column.name for column in sketch.key}
    for row in await inquiry.target.fetch(_POINTING_HERE, table.oid):
        foreign_key = f"foreign key {row['name']} of {row['referencing']}"
        pointed_at = f"{name} ({row['called']})" if row["called"] else name
        if sketch.mapping.delete_missing:
            inquiry.problems.error(
                sketch.where("delete_missing"),
                f"{foreign_key} points at {pointed_at}: rows that are deleted there would be missed or deleted here",
                expected="a table that no foreign key points at",
                hint="leave delete_missing out, or drop the foreign key for the time of the run",
            )
        elif row["itself"] and row["deletes_on"]:
            inquiry.problems.error(
                sketch.where("target"),
                f"{foreign_key} points at its own table and deletes or changes rows there when rows are taken back",
                expected="ON DELETE NO ACTION",
                hint="drop the foreign key for the time of the run, or make it again without the action",
            )
        elif row["deletes_on"]:
            inquiry.problems.warn(
                sketch.where("target"),
                f"{foreign_key} deletes or changes rows there when rows of {pointed_at} are deleted",
                hint="a rollback stops, and asks, if rows there have come to point at rows of the run",
            )
        if row["updates_on"] and sketch.mapping.mode == "merge" and (changed := written & set(row["referenced"])):
            inquiry.problems.error(
                sketch.where("target"),
                f"{foreign_key} changes rows there when {listed(sorted(changed))} of {pointed_at} is updated",
                expected="ON UPDATE NO ACTION, or a mapping that does not write the column",
                hint="drop the foreign key for the time of the run",
            )


def _check_columns(inquiry: Inquiry, sketch: Sketch, table: CatalogueTable) -> None:
    """A value of GENERATED ALWAYS AS IDENTITY can be inserted, and never be updated."""
    if sketch.mapping.mode != "merge":
        return
    keys = {column.name for column in sketch.key}
    for column in table.columns:
        copied = any(one.name == column.name for one in sketch.copied)
        if column.identity == "always" and copied and column.name not in keys:
            inquiry.problems.error(
                sketch.where("columns", column.name),
                f"column {column.name} of {write_table(sketch.target)} is GENERATED ALWAYS AS IDENTITY, "
                "which no UPDATE may set",
                expected="it in the key, or out of the mapping",
                hint=f"ALTER TABLE {qualified(sketch.target)} ALTER {quote(column.name)} SET GENERATED BY DEFAULT",
            )


def _check_validated(inquiry: Inquiry, sketch: Sketch, table: CatalogueTable) -> None:
    where, name = sketch.where("target"), write_table(sketch.target)
    for constraint in table.constraints:
        if not constraint.validated:
            inquiry.problems.error(
                where,
                f"constraint {constraint.name} of {name} is not validated: rows may break it that the run never saw, "
                "and verification would find them",
                expected="constraints that all rows meet",
                hint=f"ALTER TABLE {qualified(sketch.target)} VALIDATE CONSTRAINT {quote(constraint.name)}",
            )


def _columns(names: list[str]) -> str:
    return f"({', '.join(names)})"
