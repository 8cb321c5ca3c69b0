"""What must hold inside one mapping beyond the types of its parts."""

from collections.abc import Iterator, Sequence
from typing import Final

from knarr.plan.models import Column, Mapping
from knarr.plan.names import write_name
from knarr.plan.problems import Fault, YamlPath, quoted

# PostgreSQL: "column name conflicts with a system column name".
_SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_ONE_TABLE_ONLY: Final = (
    "joins", "where", "key", "columns", "primary_key", "unique", "indexes", "foreign_keys", "constraints", "rules",
    "transform", "scope", "delete_missing",
)  # fmt: skip
_OF_NEW_TABLES: Final = ("primary_key", "unique", "indexes", "foreign_keys", "constraints")
_COLUMN_OF_NEW_TABLES: Final = ("type", "null", "default", "identity", "generated")
_MEANT: Final = "Give a table that needs more a mapping of its own, and name it under `except` here."


def reserved(schema: str) -> bool:
    """True for schemas that belong to PostgreSQL or to Knarr itself."""
    return schema in ("knarr", "information_schema") or schema.startswith("pg_")


def reserved_schema(path: YamlPath, schema: str) -> Fault:
    """A schema in which nothing of a plan may be."""
    owner = "Knarr" if schema == "knarr" else "PostgreSQL"
    return Fault(path, f"the schema {quoted(schema)}", f"another one: it belongs to {owner}")


def count(columns: Sequence[str]) -> str:
    """How many columns, for people: 1 column, 2 columns."""
    return f"{len(columns)} column{'' if len(columns) == 1 else 's'}"


def check(number: int, mapping: Mapping, *, whole: bool) -> Iterator[Fault]:
    """What is wrong with mapping `number`; not `whole`: broken parts were taken out, so nothing may be missed."""
    path: YamlPath = ("mappings", number)
    yield from _schemas(path, mapping)
    yield from _mode(path, mapping)
    if mapping.whole_schema:
        for field in _ONE_TABLE_ONLY:
            if field in mapping.model_fields_set:
                found = f"{field} beside the whole schema {mapping.source}"
                yield Fault((*path, field), found, "only target, source, mode and except", _MEANT)
        return
    if mapping.except_:
        yield Fault((*path, "except"), "except beside a single table", "except only beside source: schema.*")
    if whole and mapping.columns is not None and not mapping.key:
        expected = "one, such as {id: c.id}, since the mapping gives columns"
        yield Fault((*path, "key"), "no key", expected, absent=True)
    if whole:
        yield from _key_twice(path, mapping)
    for part in ("key", "columns"):
        for name in getattr(mapping, part) or {}:
            if name in _SYSTEM_COLUMNS:
                yield Fault((*path, part, name), quoted(name), "another name: PostgreSQL keeps it for itself")
    for name, column in (mapping.columns or {}).items():
        yield from _column((*path, "columns", name), column, keyed=name in mapping.key)
    yield from _names(path, mapping)
    for name in mapping.rules:
        if not name:
            yield Fault((*path, "rules", name), "an empty name", "a name for the rule, for people")


def _schemas(path: YamlPath, mapping: Mapping) -> Iterator[Fault]:
    source = mapping.source_name
    for part, schema in (("source", source.schema_name), ("target", mapping.target_schema)):
        if reserved(schema):
            yield reserved_schema((*path, part), schema)
    if source.whole_schema and mapping.target_table is not None:
        expected = "schema.*, since the source is a whole schema"
        yield Fault((*path, "target"), quoted(mapping.target), expected)
    if not source.whole_schema and mapping.target_table is None:
        yield Fault((*path, "target"), quoted(mapping.target), "schema.table, since the source is one table")


def _mode(path: YamlPath, mapping: Mapping) -> Iterator[Fault]:
    """What goes with the mode: into a table that has rows nothing is built."""
    if mapping.delete_missing and mapping.mode != "merge":
        found = f"delete_missing with mode: {mapping.mode}"
        yield Fault((*path, "delete_missing"), found, "it only with mode: merge, which alone takes rows away")
    if mapping.mode not in ("append", "merge") or mapping.whole_schema:
        return
    expected = f"nothing: with mode: {mapping.mode} the table is there, with all that belongs to it"
    for field in _OF_NEW_TABLES:
        if field in mapping.model_fields_set:
            yield Fault((*path, field), f"{field} beside mode: {mapping.mode}", expected)
    for name, column in (mapping.columns or {}).items():
        for field in _COLUMN_OF_NEW_TABLES:
            if field in column.model_fields_set:
                yield Fault((*path, "columns", name, field), f"{field} beside mode: {mapping.mode}", expected)


def _key_twice(path: YamlPath, mapping: Mapping) -> Iterator[Fault]:
    for name, expression in mapping.key.items():
        column = (mapping.columns or {}).get(name)
        if column is None or "expression" not in column.model_fields_set:
            continue
        if _normal(column.expression, name, mapping) != _normal(expression, name, mapping):
            expected = f"{quoted(expression)} as under key, or nothing: a key column need not stand here"
            yield Fault((*path, "columns", name), quoted(column.expression), expected)


def _normal(expression: str, name: str, mapping: Mapping) -> str:
    """An expression with single blanks; all ways to write the source's column of the same name are `=`."""
    alias = mapping.source_name.alias
    same = {name, write_name(name), f"{alias}.{name}", f"{write_name(alias)}.{write_name(name)}"}
    single = " ".join(expression.split())
    return "=" if single in same else single


def _column(path: YamlPath, column: Column, *, keyed: bool) -> Iterator[Fault]:
    if column.generated is not None:
        for other in ("identity", "default"):
            if getattr(column, other) is not None:
                yield Fault((*path, other), f"{other} with generated", "one of them: PostgreSQL allows no more")
        if "expression" in column.model_fields_set:
            yield Fault((*path, "from"), "from with generated", "one of them: a generated column is not copied")
        if column.type is None:
            yield Fault((*path, "type"), "nothing", "the type of the generated column", absent=True)
        if keyed:
            yield Fault(path, "a generated column in the key", "a column that is copied")
    if column.identity is not None:
        if column.default is not None:
            yield Fault((*path, "default"), "default with identity", "one of them: PostgreSQL allows no more")
        if column.null:
            yield Fault((*path, "null"), "null: true with identity", "no null: an identity column is NOT NULL")


def _names(path: YamlPath, mapping: Mapping) -> Iterator[Fault]:
    """Lists of columns: each must be there, and none twice."""
    lists: list[tuple[YamlPath, Sequence[str]]] = [(("primary_key",), mapping.primary_key or [])]
    lists += [(("unique", i), names) for i, names in enumerate(mapping.unique)]
    lists += [(("indexes", i, "columns"), index.columns) for i, index in enumerate(mapping.indexes)]
    lists += [(("foreign_keys", i, "columns"), key.columns) for i, key in enumerate(mapping.foreign_keys)]
    transformed = mapping.transform.columns if mapping.transform is not None else None
    lists += [(("transform", "columns"), transformed or [])]
    columns = mapping.all_columns()
    for below, names in lists:
        seen: set[str] = set()
        for i, name in enumerate(names):
            where = (*path, *below, i)
            again = name in seen
            seen.add(name)
            if again:
                yield Fault(where, f"{quoted(name)} again", "each column once")
            elif columns is not None and name not in columns and not name.startswith("("):
                yield unknown_column(where, name, mapping)
            elif below[0] == "transform" and name in mapping.key:
                yield Fault(where, f"the key column {quoted(name)}", "columns outside the key: a transform keeps it")
    for i, key in enumerate(mapping.foreign_keys):
        referenced = key.reference.columns
        if referenced and len(referenced) != len(key.columns):
            found = f"{count(referenced)} in {quoted(key.references)}"
            yield Fault((*path, "foreign_keys", i, "references"), found, f"{len(key.columns)}, as many as refer to it")


def unknown_column(where: YamlPath, name: str, mapping: Mapping) -> Fault:
    """A name that is none of the mapping's columns."""
    known = tuple(mapping.all_columns() or {})
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    expected = f"a column of {mapping.target}: {shown}"
    return Fault(where, f"the unknown column {quoted(name)}", expected, name=name, candidates=known)
