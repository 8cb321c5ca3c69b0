"""Mappings for tests, resolved from two live catalogues by a few lines of SQL of their own."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from knarr.plan.resolved import Partition, ResolvedColumn, ResolvedMapping, TableName
from knarr.postgres.session import Connection

COLUMNS: Final = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod)
            ELSE format_type(a.atttypid, a.atttypmod) END AS base_type,
       coalesce(b.typtype, t.typtype) = 'e' AS enum,
       coalesce(e.typnamespace, b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace AS builtin,
       a.attnotnull AS not_null, coalesce(b.typcollation, t.typcollation) <> 0 AS collatable
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
  LEFT JOIN pg_type e ON e.oid = nullif(coalesce(b.typelem, t.typelem), 0)
 WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attnum
"""

WHOLE: Final = Partition(mapping=0, number=0, lower=None, upper=None, estimated_rows=1000)


def part(number: int, lower: Sequence[str] | None, upper: Sequence[str] | None) -> Partition:
    """A partition by its bounds."""
    return Partition(
        mapping=0,
        number=number,
        lower=list(lower) if lower is not None else None,
        upper=list(upper) if upper is not None else None,
        estimated_rows=1000,
    )


async def resolve(
    source: Connection,
    target: Connection,
    table: str,
    key: Sequence[str],
    *,
    number: int = 0,
    from_clause: str | None = None,
    expressions: Mapping[str, str] | None = None,
    where: str | None = None,
    scope: str | None = None,
    phases: Mapping[str, str] | None = None,
    rules: Mapping[str, str] | None = None,
    transform: str | None = None,
    transform_columns: Sequence[str] = (),
    mode: Literal["create", "fill", "append", "merge"] = "create",
) -> ResolvedMapping:
    """The mapping of a target table; columns without an expression come from the source column of the same name."""
    given = dict(expressions or {})
    from_clause = from_clause or table
    columns = []
    for row in await target.fetch(COLUMNS, table):
        expression = given.get(row["name"], f'"{row["name"]}"')
        columns.append(
            ResolvedColumn(
                name=row["name"],
                expression=expression,
                source_type=await _source_type(source, from_clause, expression),
                target_type=row["type"],
                base_type=row["base_type"],
                category="enum" if row["enum"] else "builtin" if row["builtin"] else "other",
                not_null=row["not_null"],
                collatable=row["collatable"],
            )
        )
    schema, _, name = table.rpartition(".")
    table_name = TableName(schema_name=schema or "public", name=name.strip('"'))
    return ResolvedMapping(
        number=number,
        target=table_name,
        source_table=table_name,
        source_alias=name,
        from_clause=from_clause,
        where=where,
        key=[next(column for column in columns if column.name == name) for name in key],
        columns=columns,
        mode=mode,
        binary=False,
        transform=transform,
        transform_columns=list(transform_columns),
        rules=dict(rules or {}),
        scope=scope,
        phases=dict(phases or {}),
        estimated_rows=1000,
        estimated_bytes=100_000,
    )


async def _source_type(source: Connection, from_clause: str, expression: str) -> str:
    # A temporary view tells the type of any expression, length and all.
    async with source.transaction():
        await source.execute(f"CREATE TEMP VIEW probe AS SELECT ({expression}\n) AS x FROM {from_clause}")
        found: str = await source.fetchval(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'pg_temp.probe'::regclass"
        )
        await source.execute("DROP VIEW pg_temp.probe")
    return found
