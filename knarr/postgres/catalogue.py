"""What pg_catalog says about tables, types and sequences, as frozen models; nothing is written, nothing is guessed."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from pydantic import Field

from knarr.plan.resolved import Frozen, TableName
from knarr.postgres import catalogue_sql
from knarr.postgres.session import Connection

TableKind = Literal["table", "partitioned table", "view", "materialized view", "foreign table"]
TypeKind = Literal["builtin", "enum", "domain", "composite", "array", "other"]

_TABLE_KINDS: dict[str, TableKind] = {
    "r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "f": "foreign table",
}  # fmt: skip


class CatalogueColumn(Frozen):
    """A live column of a table."""

    name: str
    type_oid: int
    type: str = Field(description="format_type() with typmod, schema-qualified if not built in")
    not_null: bool
    identity: Literal["by default", "always"] | None
    generated: Literal["stored", "virtual"] | None
    default_sql: str | None = Field(description="DEFAULT, or the expression of a generated column")
    collation: str | None = Field(description="quoted and qualified, where it is not the type's own")
    comment: str | None
    owned_sequence: int | None = Field(description="oid of the identity's or serial's sequence")
    default_sequence: int | None = Field(description="oid of the sequence that DEFAULT takes values from")
    functions: list[str] = Field(description="functions outside pg_catalog that DEFAULT needs")


class CatalogueConstraint(Frozen):
    """A table constraint; `kind` is pg_constraint.contype: p, u, c, x, f, n."""

    name: str
    kind: Literal["p", "u", "c", "x", "f", "n"]
    definition: str = Field(description="pg_get_constraintdef()")
    validated: bool
    columns: list[str]
    foreign_table: TableName | None
    foreign_sql_name: str | None = Field(description="the foreign table as `definition` writes it")
    functions: list[str]
    comment: str | None


class CatalogueIndex(Frozen):
    """An index; `body` is its definition from USING on."""

    name: str
    is_unique: bool
    valid: bool
    partial: bool
    has_expressions: bool
    of_constraint: bool
    columns: list[str] = Field(description="plain key columns")
    body: str
    functions: list[str]
    extensions: list[str] = Field(description="extensions whose operator classes or functions it uses")
    comment: str | None


class CatalogueTable(Frozen):
    """A table, partitioned table, view or foreign table, with everything that hangs on it."""

    oid: int
    name: TableName
    sql_name: str
    kind: TableKind
    unlogged: bool
    is_partition: bool
    owner: str
    rows_hidden: bool = Field(description="row level security applies to this session: it sees only some rows")
    comment: str | None
    has_children: bool
    parents: list[str]
    triggers: list[str]
    rules: list[str]
    policies: list[str]
    has_grants: bool
    bytes: int = Field(description="pg_table_size: rows, TOAST, maps; of all partitions")
    main_bytes: int = Field(description="pg_relation_size: rows alone; of all partitions")
    rows: float = Field(description="pg_class.reltuples; -1: never analysed")
    columns: list[CatalogueColumn]
    constraints: list[CatalogueConstraint]
    indexes: list[CatalogueIndex]

    def column(self, name: str) -> CatalogueColumn | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def primary_key(self) -> CatalogueConstraint | None:
        """The primary key's constraint, or None."""
        return next((constraint for constraint in self.constraints if constraint.kind == "p"), None)

    def unique_sets(self) -> list[list[str]]:
        """Column sets that a valid unique index over plain columns and all rows holds unique, primary key first."""
        primary = self.primary_key
        found = [
            index.columns
            for index in self.indexes
            if index.is_unique and index.valid and not index.partial and not index.has_expressions
        ]
        return sorted(found, key=lambda columns: primary is None or columns != primary.columns)


class CatalogueType(Frozen):
    """A data type and what it is made of."""

    oid: int
    sql_name: str = Field(description="format_type(oid, -1): without typmod, schema-qualified if not built in")
    schema_name: str
    name: str
    kind: TypeKind
    element_oid: int | None
    base_oid: int | None = Field(description="what a domain is over")
    base_sql: str | None = Field(description="format_type() of it, with typmod")
    not_null: bool
    default_sql: str | None
    collatable: bool
    collation: str | None
    has_binary: bool
    labels: list[str]
    check_names: list[str]
    checks: list[str]
    attribute_names: list[str]
    attribute_oids: list[int]
    attribute_types: list[str]
    extension: str | None


class CatalogueSequence(Frozen):
    """A sequence, its options and the column that owns it."""

    oid: int
    name: TableName
    sql_name: str
    type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycle: bool
    owner_table: int | None
    owner_column: str | None

    @property
    def options(self) -> str:
        """The options as CREATE SEQUENCE and GENERATED AS IDENTITY write them, without the type."""
        cycle = "CYCLE" if self.cycle else "NO CYCLE"
        return (
            f"START WITH {self.start} INCREMENT BY {self.increment} MINVALUE {self.minimum} "
            f"MAXVALUE {self.maximum} CACHE {self.cache} {cycle}"
        )


@asynccontextmanager
async def qualified_names(connection: Connection) -> AsyncIterator[None]:
    """A READ ONLY transaction with an empty search_path, in which the server's deparsers qualify every name."""
    async with connection.transaction(readonly=True):
        await connection.execute("SELECT pg_catalog.set_config('search_path', '', true)")
        yield


async def read_tables(connection: Connection, names: Iterable[TableName]) -> dict[TableName, CatalogueTable]:
    """The tables among `names` that exist, in four questions however many there are."""
    wanted = list(dict.fromkeys(names))
    async with qualified_names(connection):
        tables = await connection.fetch(
            catalogue_sql.TABLES, [name.schema_name for name in wanted], [name.name for name in wanted]
        )
        oids = [row["oid"] for row in tables]
        columns = await _by_table(connection, catalogue_sql.COLUMNS, oids)
        constraints = await _by_table(connection, catalogue_sql.CONSTRAINTS, oids)
        indexes = await _by_table(connection, catalogue_sql.INDEXES, oids)
    found: dict[TableName, CatalogueTable] = {}
    for row in tables:
        values = dict(row)
        name = TableName(schema_name=values.pop("schema_name"), name=values.pop("name"))
        oid = values["oid"]
        found[name] = CatalogueTable(
            **(values | {"kind": _TABLE_KINDS[values["kind"]]}),
            name=name,
            columns=[CatalogueColumn.model_validate(column) for column in columns[oid]],
            constraints=[_constraint(constraint) for constraint in constraints[oid]],
            indexes=[CatalogueIndex.model_validate(index) for index in indexes[oid]],
        )
    return found


async def read_table(connection: Connection, name: TableName) -> CatalogueTable | None:
    """One table, or None if it does not exist."""
    return (await read_tables(connection, [name])).get(name)


async def tables_of_schema(connection: Connection, schema_name: str) -> list[TableName]:
    """The tables that `schema.*` stands for, in byte order of their names: no partitions, nothing of an extension."""
    rows = await connection.fetch(catalogue_sql.TABLES_OF_SCHEMA, schema_name)
    return [TableName(schema_name=schema_name, name=row["name"]) for row in rows]


async def read_types(connection: Connection, oids: Iterable[int]) -> dict[int, CatalogueType]:
    """The types by oid, with every type that they are made of."""
    async with qualified_names(connection):
        rows = await connection.fetch(catalogue_sql.TYPES, sorted(set(oids)))
    found: dict[int, CatalogueType] = {}
    for row in rows:
        values = dict(row)
        typtype, free_standing = values.pop("typtype"), values.pop("free_standing")
        kind = _type_kind(values["schema_name"], typtype, values["element_oid"], free_standing)
        found[values["oid"]] = CatalogueType(**values, kind=kind)
    return found


async def read_sequences(connection: Connection, oids: Sequence[int]) -> dict[int, CatalogueSequence]:
    """The sequences by oid."""
    async with qualified_names(connection):
        rows = await connection.fetch(catalogue_sql.SEQUENCES, list(oids))
    found: dict[int, CatalogueSequence] = {}
    for row in rows:
        values = dict(row)
        name = TableName(schema_name=values.pop("schema_name"), name=values.pop("name"))
        found[values["oid"]] = CatalogueSequence(**values, name=name)
    return found


async def _by_table(connection: Connection, query: str, oids: list[int]) -> defaultdict[int, list[dict[str, object]]]:
    found: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    for row in await connection.fetch(query, oids):
        values = dict(row)
        found[values.pop("table_oid")].append(values)
    return found


def _constraint(values: dict[str, object]) -> CatalogueConstraint:
    schema_name, name = values.pop("foreign_schema"), values.pop("foreign_name")
    foreign = None if name is None else {"schema_name": schema_name, "name": name}
    return CatalogueConstraint.model_validate(values | {"foreign_table": foreign})


def _type_kind(schema_name: str, typtype: str, element_oid: int | None, free_standing: bool) -> TypeKind:
    if schema_name == "pg_catalog":
        return "builtin"
    if element_oid is not None:
        return "array"
    if typtype == "c" and free_standing:  # a table's row type comes and goes with its table
        return "composite"
    kinds: dict[str, TypeKind] = {"e": "enum", "d": "domain"}
    return kinds.get(typtype, "other")
