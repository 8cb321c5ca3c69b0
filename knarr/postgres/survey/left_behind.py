"""What hangs on the source's tables and schemas and does not move: each kind named once."""

from collections import defaultdict
from typing import Final

from knarr.plan.names import write_table
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sketches import Sketch

# Relations, functions and other things of a schema that `schema.*` does not stand for; nothing of an extension.
_OF_SCHEMA: Final = """
SELECT found.kind, found.name FROM (
    SELECT CASE c.relkind WHEN 'v' THEN 'views' WHEN 'm' THEN 'materialized views' ELSE 'foreign tables' END AS kind,
           c.relname::text AS name, 'pg_class'::regclass AS class, c.oid
      FROM pg_catalog.pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('v', 'm', 'f')
    UNION ALL
    SELECT 'functions', p.proname::text, 'pg_proc'::regclass, p.oid
      FROM pg_catalog.pg_proc p WHERE p.pronamespace = $1::regnamespace
    UNION ALL
    SELECT 'extended statistics', s.stxname::text, 'pg_statistic_ext'::regclass, s.oid
      FROM pg_catalog.pg_statistic_ext s WHERE s.stxnamespace = $1::regnamespace
    UNION ALL
    SELECT 'sequences that no moved column uses', c.relname::text, 'pg_class'::regclass, c.oid
      FROM pg_catalog.pg_class c WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'S' AND c.oid <> ALL($2::oid[])
    UNION ALL
    SELECT 'types that no moved column uses', t.typname::text, 'pg_type'::regclass, t.oid
      FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
     WHERE t.typnamespace = $1::regnamespace AND t.oid <> ALL($3::oid[])
       AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
) AS found
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = found.class AND d.objid = found.oid AND d.deptype = 'e')
 ORDER BY found.kind, found.name
"""
_LARGE_OBJECTS: Final = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)"


async def check_left_behind(inquiry: Inquiry) -> None:
    """One warning a kind and schema, and what becomes of partitioned and inheriting tables."""
    whole = [one for one in inquiry.sketches if one.as_is]
    _tables(inquiry, [one for one in whole if one.creates])
    for schema_name in dict.fromkeys(one.source.schema_name for one in whole if one.wildcard):
        await _schema(inquiry, schema_name)
    with_oids = [
        f"{write_table(one.source)}.{column.name}"
        for one in whole
        for column in one.copied
        if column.source_type == "oid"
    ]
    if with_oids and await inquiry.source.fetchval(_LARGE_OBJECTS):
        inquiry.problems.warn(
            f"source {inquiry.plan.source}",
            f"large objects are not moved; columns that may refer to them: {listed(with_oids)}",
        )
    for one in inquiry.sketches:
        _shape(inquiry, one)


def _tables(inquiry: Inquiry, sketches: list[Sketch]) -> None:
    kinds: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in sketches:
        table, schema_name = one.source_table, one.source.schema_name
        for kind, names in (("triggers", table.triggers), ("policies", table.policies), ("rules", table.rules)):
            kinds[schema_name, kind] += [f"{name} on {one.source.name}" for name in names]
        if table.has_grants:
            kinds[schema_name, "grants"].append(one.source.name)
    for (schema_name, kind), names in kinds.items():
        if names:
            _warn(inquiry, schema_name, kind, names)


async def _schema(inquiry: Inquiry, schema_name: str) -> None:
    used = [
        oid
        for one in inquiry.sketches
        for column in one.source_table.columns
        for oid in (column.owned_sequence, column.default_sequence)
        if oid is not None
    ]
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    quoted = await inquiry.source.fetchval("SELECT pg_catalog.quote_ident($1)", schema_name)
    for row in await inquiry.source.fetch(_OF_SCHEMA, quoted, used, inquiry.types.used):
        kinds[row["kind"]].append(row["name"])
    for kind, names in kinds.items():
        _warn(inquiry, schema_name, kind, names)


def _warn(inquiry: Inquiry, schema_name: str, kind: str, names: list[str]) -> None:
    inquiry.problems.warn(
        f"source {inquiry.plan.source}", f"{kind} of schema {schema_name} are not moved: {listed(names)}"
    )


def _shape(inquiry: Inquiry, sketch: Sketch) -> None:
    table = sketch.source_table
    where, name = sketch.where("source"), write_table(sketch.source)
    if table.kind == "partitioned table" and sketch.creates and sketch.as_is:
        inquiry.problems.warn(
            where,
            f"{name} is partitioned; the target becomes one plain table with all its rows",
            hint="indexes and constraints of single partitions are not made; "
            "for a partitioned target make it yourself and use `mode: fill`",
        )
    elif table.has_children and table.kind == "table" and sketch.as_is:
        inquiry.problems.warn(where, f"other tables inherit from {name}; only its own rows are moved")
    elif table.has_children and table.kind == "table":
        inquiry.problems.warn(
            where, f"other tables inherit from {name}; their rows are moved with it, as SQL reads them"
        )
    if table.parents and not table.is_partition and sketch.as_is and sketch.creates:
        inquiry.problems.warn(
            where, f"{name} inherits from {listed(table.parents)}; the target becomes a table of its own"
        )
