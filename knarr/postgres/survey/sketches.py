"""From the plan's mappings to one sketch a target table: wildcards expanded, both tables looked up."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from knarr.plan.models import Mapping, Plan
from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.catalogue import CatalogueColumn, CatalogueTable, read_tables, tables_of_schema
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.session import Connection
from knarr.postgres.survey.locks import unreadable_tables
from knarr.postgres.survey.problems import Problems, listed, nearest

SCHEMAS = """
SELECT nspname FROM pg_catalog.pg_namespace
 WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' ORDER BY nspname
"""
RELATIONS_OF_SCHEMA = """
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname
"""


@dataclass(frozen=True)
class SketchColumn:
    """A target column, copied or generated, with what was found out about it."""

    name: str
    expression: str | None
    """SQL over the source row; None for a generated column, which is not copied."""
    target_type: str
    base_type: str
    category: Literal["builtin", "enum", "other"]
    collatable: bool
    not_null: bool
    source_type: str = ""
    plain: CatalogueColumn | None = None
    """The source's column, where the expression is nothing else."""
    collation: str | None = None
    default_sql: str | None = None
    identity: Literal["by default", "always"] | None = None
    generated_sql: str | None = None
    generated: Literal["stored", "virtual"] = "stored"


@dataclass
class Sketch:
    """A mapping before it is resolved."""

    number: int
    index: int
    """Position of its mapping in the plan."""
    mapping: Mapping
    source: TableName
    target: TableName
    alias: str
    source_table: CatalogueTable
    target_table: CatalogueTable | None
    wildcard: bool
    columns: list[SketchColumn] = field(default_factory=list)
    key: list[SketchColumn] = field(default_factory=list)
    uncuttable: dict[str, str] = field(default_factory=dict)
    """Key columns whose ranges can't be cut, and what is the matter with each."""
    broken: bool = False
    """An error keeps its columns from being known; what depends on them is not asked."""
    unreadable: bool = False
    """An error keeps its source rows from being read; nothing more is asked about them."""

    @property
    def as_is(self) -> bool:
        """The plan names no columns: the table moves as it is."""
        return self.mapping.columns is None

    @property
    def creates(self) -> bool:
        """The run makes the target table."""
        return self.mapping.mode == "create"

    @property
    def copied(self) -> list[SketchColumn]:
        """The columns whose values come from the source."""
        return [column for column in self.columns if column.expression is not None]

    @property
    def from_clause(self) -> str:
        """What stands after FROM. As-is means the table's own rows, not those of tables that inherit from it."""
        only = "ONLY " if self.as_is and self.source_table.kind == "table" and self.source_table.has_children else ""
        table = f"{only}{qualified(self.source)} AS {quote(self.alias)}"
        return f"{table} {self.mapping.joins}" if self.mapping.joins else table

    def where(self, *path: str) -> str:
        """Where in the plan a problem is, for people: mappings[2].columns.name (shop.customer)."""
        return ".".join([f"mappings[{self.index}]", *path]) + f" ({write_table(self.target)})"

    def column(self, name: str) -> SketchColumn | None:
        """The target column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)


async def sketch(source: Connection, target: Connection, plan: Plan, problems: Problems) -> list[Sketch]:
    """One sketch for each target table whose source table can be read; each that can't becomes a problem."""
    wanted: list[tuple[int, Mapping, TableName, TableName, str, bool]] = []
    for index, mapping in enumerate(plan.mappings):
        name = mapping.source_name
        if (single := name.table_name) is not None and (target_table := mapping.target_table) is not None:
            wanted.append((index, mapping, single, target_table, name.alias, False))
            continue
        for table in await _of_schema(source, index, mapping, problems):
            as_target = TableName(schema_name=mapping.target_schema, name=table.name)
            wanted.append((index, mapping, table, as_target, table.name, True))
    locked = await unreadable_tables(source, f"source {plan.source}", [entry[2] for entry in wanted], problems)
    barred = await unreadable_tables(target, f"target {plan.target}", [entry[3] for entry in wanted], problems)
    wanted = [entry for entry in wanted if entry[2] not in locked and entry[3] not in barred]
    source_tables = await read_tables(source, [entry[2] for entry in wanted])
    target_tables = await read_tables(target, [entry[3] for entry in wanted])
    sketches: list[Sketch] = []
    for index, mapping, source_name, target_name, alias, wildcard in wanted:
        source_table = source_tables.get(source_name)
        if source_table is None:
            await _source_missing(source, index, source_name, target_name, problems)
            continue
        sketches.append(
            Sketch(
                number=len(sketches),
                index=index,
                mapping=mapping,
                source=source_name,
                target=target_name,
                alias=alias,
                source_table=source_table,
                target_table=target_tables.get(target_name),
                wildcard=wildcard,
            )
        )
    _same_target(sketches, problems)
    return sketches


async def _of_schema(source: Connection, index: int, mapping: Mapping, problems: Problems) -> list[TableName]:
    schema_name = mapping.source_name.schema_name
    tables = await tables_of_schema(source, schema_name)
    where = f"mappings[{index}].source"
    if not tables:
        schemas = [row["nspname"] for row in await source.fetch(SCHEMAS)]
        if schema_name in schemas:
            problems.error(where, f"schema {schema_name} on the source has no tables", expected="at least one table")
        else:
            problems.error(
                where,
                f"schema {schema_name} does not exist on the source",
                expected=f"one of {listed(schemas)}",
                hint=nearest(schema_name, schemas),
            )
    known = [table.name for table in tables]
    for left_out in mapping.except_:
        if left_out not in known and tables:
            problems.error(
                f"mappings[{index}].except",
                f"table {left_out} is not in schema {schema_name} of the source",
                expected=f"one of {listed(known)}",
                hint=nearest(left_out, known),
            )
    return [table for table in tables if table.name not in mapping.except_]


async def _source_missing(
    source: Connection, index: int, table: TableName, target: TableName, problems: Problems
) -> None:
    where = f"mappings[{index}].source ({write_table(target)})"
    schemas = [row["nspname"] for row in await source.fetch(SCHEMAS)]
    if table.schema_name not in schemas:
        problems.error(
            where,
            f"schema {table.schema_name} does not exist on the source",
            expected=f"one of {listed(schemas)}",
            hint=nearest(table.schema_name, schemas),
        )
        return
    known = [row["relname"] for row in await source.fetch(RELATIONS_OF_SCHEMA, table.schema_name)]
    written = {name: write_table(TableName(schema_name=table.schema_name, name=name)) for name in known}
    near = nearest(table.name, known)
    for name, text in written.items():
        near = near.replace(f"'{name}'", f"'{text}'")
    problems.error(
        where,
        f"table {write_table(table)} does not exist on the source",
        expected=f"one of the {len(known)} tables and views of schema {table.schema_name}",
        hint=near,
    )


def _same_target(sketches: list[Sketch], problems: Problems) -> None:
    """Two mappings that both create one table; the plan's own rules can't see it behind a wildcard."""
    by_target: defaultdict[TableName, list[Sketch]] = defaultdict(list)
    for one in sketches:
        by_target[one.target].append(one)
    for target, several in by_target.items():
        if len(several) > 1 and any(one.creates for one in several):
            problems.error(
                several[1].where("target"),
                f"{len(several)} mappings write {write_table(target)}, and one of them creates it: "
                + ", ".join(f"mappings[{one.index}] from {write_table(one.source)}" for one in several),
                expected="one mapping for each table that a run creates",
                hint="name the table under `except` of the wildcard, or give one of them another target",
            )
