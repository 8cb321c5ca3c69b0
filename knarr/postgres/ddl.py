"""The SQL of every object that a run makes on the target: how it is made, taken back and looked for.

Each object is one statement. A `drop` holds when the object is gone already, and never cascades: what somebody else
built on top of our object stops the rollback instead of vanishing with it.
"""

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field

from knarr.plan.resolved import DatabaseObject, Frozen, Stage, TableName
from knarr.postgres.identifiers import enclosed, literal, qualified, quote

ConstraintKind = Literal["primary key", "unique", "exclusion", "check", "not null", "foreign key"]

_STAGES: Final[dict[ConstraintKind, Stage]] = {
    "primary key": "keys",
    "unique": "keys",
    "exclusion": "keys",
    "check": "constraints",
    "not null": "constraints",
    "foreign key": "foreign keys",
}


class TargetColumn(Frozen):
    """One column as CREATE TABLE writes it."""

    name: str
    type: str
    collation: str | None = None
    not_null: bool = False
    default_sql: str | None = None
    identity: Literal["by default", "always"] | None = None
    identity_options: str | None = None
    generated_sql: str | None = None
    generated: Literal["stored", "virtual"] = Field(default="stored")

    @property
    def sql(self) -> str:
        """The column's definition."""
        words = [quote(self.name), self.type]
        if self.collation:
            words.append(f"COLLATE {self.collation}")
        if self.generated_sql is not None:
            words.append(f"GENERATED ALWAYS AS {enclosed(self.generated_sql)} {self.generated.upper()}")
        elif self.identity is not None:
            options = f" ({self.identity_options})" if self.identity_options else ""
            words.append(f"GENERATED {self.identity.upper()} AS IDENTITY{options}")
        elif self.default_sql is not None:
            words.append(f"DEFAULT {self.default_sql}")
        if self.not_null:
            words.append("NOT NULL")
        return " ".join(words)


def schema(name: str) -> DatabaseObject:
    """A schema that the target lacks."""
    return DatabaseObject(
        kind="schema",
        name=name,
        stage="before",
        create=f"CREATE SCHEMA {quote(name)}",
        drop=f"DROP SCHEMA IF EXISTS {quote(name)}",
        probe=f"SELECT 1 WHERE pg_catalog.to_regnamespace({literal(quote(name))}) IS NOT NULL",
    )


def enum(name: TableName, labels: Sequence[str]) -> DatabaseObject:
    """An enum with its labels in order."""
    listed = ", ".join(literal(label) for label in labels)
    return _type("enum", name, f"CREATE TYPE {qualified(name)} AS ENUM ({listed})", "TYPE")


def domain(
    name: TableName,
    base: str,
    *,
    collation: str | None,
    default_sql: str | None,
    not_null: bool,
    checks: Sequence[tuple[str, str]],
) -> DatabaseObject:
    """A domain; `checks` are names and pg_get_constraintdef()."""
    words = [f"CREATE DOMAIN {qualified(name)} AS {base}"]
    if collation:
        words.append(f"COLLATE {collation}")
    if default_sql is not None:
        words.append(f"DEFAULT {default_sql}")
    if not_null:
        words.append("NOT NULL")
    words += [f"CONSTRAINT {quote(check)} {definition}" for check, definition in checks]
    return _type("domain", name, " ".join(words), "DOMAIN")


def composite(name: TableName, attributes: Sequence[tuple[str, str]]) -> DatabaseObject:
    """A composite type; `attributes` are names and types."""
    listed = ", ".join(f"{quote(attribute)} {type_sql}" for attribute, type_sql in attributes)
    return _type("composite", name, f"CREATE TYPE {qualified(name)} AS ({listed})", "TYPE")


def sequence(name: TableName, type_sql: str, options: str) -> DatabaseObject:
    """A sequence that column defaults draw from."""
    return DatabaseObject(
        kind="sequence",
        name=str(name),
        stage="before",
        create=f"CREATE SEQUENCE {qualified(name)} AS {type_sql} {options}",
        drop=f"DROP SEQUENCE IF EXISTS {qualified(name)}",
        probe=_relation_probe(name),
    )


def sequence_owner(name: TableName, table_name: TableName, column: str) -> DatabaseObject:
    """That a sequence belongs to a column, as a serial's does; taken back before the table is dropped."""
    sequence_name = literal(qualified(name))
    return DatabaseObject(
        kind="sequence",
        name=f"{name} owned by {table_name}.{column}",
        stage="table",
        create=f"ALTER SEQUENCE {qualified(name)} OWNED BY {qualified(table_name)}.{quote(column)}",
        drop=f"ALTER SEQUENCE IF EXISTS {qualified(name)} OWNED BY NONE",
        probe=(
            "SELECT 1 FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_class'::regclass AND deptype = 'a' "
            f"AND refobjsubid <> 0 AND objid = pg_catalog.to_regclass({sequence_name})"
        ),
    )


def table(name: TableName, columns: Sequence[TargetColumn], *, unlogged: bool = False) -> DatabaseObject:
    """A table with its columns and NOT NULLs; keys, indexes and constraints come after the rows."""
    listed = ",\n    ".join(column.sql for column in columns)
    body = f"(\n    {listed}\n)" if columns else "()"
    return DatabaseObject(
        kind="table",
        name=str(name),
        stage="table",
        create=f"CREATE {'UNLOGGED ' if unlogged else ''}TABLE {qualified(name)} {body}",
        drop=f"DROP TABLE IF EXISTS {qualified(name)}",
        probe=_relation_probe(name),
    )


def constraint(kind: ConstraintKind, table_name: TableName, name: str, definition: str) -> DatabaseObject:
    """A table constraint; `definition` as pg_get_constraintdef() writes it."""
    return DatabaseObject(
        kind=kind,
        name=f"{name} on {table_name}",
        stage=_STAGES[kind],
        create=f"ALTER TABLE {qualified(table_name)} ADD CONSTRAINT {quote(name)} {definition}",
        drop=f"ALTER TABLE IF EXISTS {qualified(table_name)} DROP CONSTRAINT IF EXISTS {quote(name)}",
        probe=(
            "SELECT 1 FROM pg_catalog.pg_constraint WHERE conrelid = "
            f"pg_catalog.to_regclass({literal(qualified(table_name))}) AND conname = {literal(name)}"
        ),
    )


def index(table_name: TableName, name: str, body: str, *, unique: bool) -> DatabaseObject:
    """An index; `body` is its definition from USING on."""
    index_name = TableName(schema_name=table_name.schema_name, name=name)
    return DatabaseObject(
        kind="index",
        name=f"{name} on {table_name}",
        stage="indexes",
        create=f"CREATE {'UNIQUE ' if unique else ''}INDEX {quote(name)} ON {qualified(table_name)} {body.strip()}",
        drop=f"DROP INDEX IF EXISTS {qualified(index_name)}",
        probe=_relation_probe(index_name),
    )


def table_comment(name: TableName, text: str) -> DatabaseObject:
    """A table's comment."""
    probe = f"pg_catalog.obj_description(pg_catalog.to_regclass({literal(qualified(name))}), 'pg_class')"
    return _comment(f"TABLE {qualified(name)}", f"on {name}", "table", text, f"SELECT 1 WHERE {probe} IS NOT NULL")


def column_comment(name: TableName, column: str, text: str) -> DatabaseObject:
    """A column's comment."""
    probe = (
        "SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = "
        f"pg_catalog.to_regclass({literal(qualified(name))}) AND attname = {literal(column)} "
        "AND pg_catalog.col_description(attrelid, attnum) IS NOT NULL"
    )
    return _comment(f"COLUMN {qualified(name)}.{quote(column)}", f"on {name}.{column}", "table", text, probe)


def constraint_comment(on: DatabaseObject, table_name: TableName, name: str, text: str) -> DatabaseObject:
    """The comment of the constraint `on`, made in the stage after it."""
    probe = (
        "SELECT 1 FROM pg_catalog.pg_constraint WHERE conrelid = "
        f"pg_catalog.to_regclass({literal(qualified(table_name))}) AND conname = {literal(name)} "
        "AND pg_catalog.obj_description(oid, 'pg_constraint') IS NOT NULL"
    )
    what = f"CONSTRAINT {quote(name)} ON {qualified(table_name)}"
    return _comment(what, f"on {on.name}", on.stage, text, probe)


def index_comment(on: DatabaseObject, schema_name: str, name: str, text: str) -> DatabaseObject:
    """The comment of the index `on`."""
    index_name = qualified(TableName(schema_name=schema_name, name=name))
    probe = f"pg_catalog.obj_description(pg_catalog.to_regclass({literal(index_name)}), 'pg_class')"
    return _comment(f"INDEX {index_name}", f"on {on.name}", on.stage, text, f"SELECT 1 WHERE {probe} IS NOT NULL")


def _type(kind: Literal["enum", "domain", "composite"], name: TableName, create: str, word: str) -> DatabaseObject:
    return DatabaseObject(
        kind=kind,
        name=str(name),
        stage="before",
        create=create,
        drop=f"DROP {word} IF EXISTS {qualified(name)}",
        probe=f"SELECT 1 WHERE pg_catalog.to_regtype({literal(qualified(name))}) IS NOT NULL",
    )


def _comment(what: str, name: str, stage: Stage, text: str, probe: str) -> DatabaseObject:
    # COMMENT knows no IF EXISTS.
    block = (
        f"BEGIN COMMENT ON {what} IS NULL; "
        "EXCEPTION WHEN undefined_table OR undefined_column OR undefined_object OR invalid_schema_name THEN NULL; END"
    )
    return DatabaseObject(
        kind="comment",
        name=name,
        stage=stage,
        create=f"COMMENT ON {what} IS {literal(text)}",
        drop=f"DO {literal(block)}",
        probe=probe,
    )


def _relation_probe(name: TableName) -> str:
    return f"SELECT 1 WHERE pg_catalog.to_regclass({literal(qualified(name))}) IS NOT NULL"
