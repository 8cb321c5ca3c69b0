"""A partition's rows as a WHERE condition, on either side; written apart from the copy's own on purpose.

`lower <= key < upper` by row comparison in key order (knarr.plan.resolved.Partition). Collatable columns, and types
that go as text, compare under COLLATE "C", so both sides agree where a range ends. Every row is in exactly one
partition: a key that holds a NULL belongs to the last.
"""

from collections.abc import Sequence
from typing import Final

from knarr.plan.resolved import Partition, ResolvedColumn
from knarr.postgres.identifiers import enclosed, quote
from knarr.verify.canonical import kind_of

INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})


def source_range(key: Sequence[ResolvedColumn], partition: Partition, arguments: list[str]) -> list[str]:
    """Conditions over the key's expressions; appends the bounds, as text, to `arguments` and binds them from there."""
    return _range([source_operand(column) for column in key], key, partition, arguments)


def target_range(key: Sequence[ResolvedColumn], partition: Partition, arguments: list[str]) -> list[str]:
    """The same over the target's key columns."""
    return _range([_operand(column, quote(column.name)) for column in key], key, partition, arguments)


def _range(
    operands: Sequence[str], key: Sequence[ResolvedColumn], partition: Partition, arguments: list[str]
) -> list[str]:
    conditions = []
    for operator, bounds in ((">=", partition.lower), ("<", partition.upper)):
        if bounds is None:
            continue
        if len(bounds) != len(key):
            raise ValueError(f"partition {partition.number} has {len(bounds)} bounds for a key of {len(key)} columns")
        bound = []
        for column, text in zip(key, bounds, strict=True):
            arguments.append(text)
            bound.append(_operand(column, f"${len(arguments)}::text::{_type(column)}"))
        conditions.append(f"{_row(operands)} {operator} {_row(bound)}")
    if not conditions:
        return []
    # A row comparison with a NULL in it can be true, false or unknown; of a single column it is unknown.
    known = [f"{operand} IS NOT NULL" for operand in operands] if len(key) > 1 else []
    if partition.upper is None:
        unknown = " OR ".join(f"{operand} IS NULL" for operand in operands)
        return [f"({' AND '.join([*conditions, *known])}) OR {unknown}"]
    return [*conditions, *known]


def _row(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"ROW({', '.join(parts)})"


def source_operand(column: ResolvedColumn) -> str:
    """A key column's expression on the source, as it is compared with bounds: so that an index on it is of use."""
    expression = enclosed(column.expression)
    same = column.source_type == column.base_type or {column.source_type, column.base_type} <= INTEGERS
    if column.category == "builtin" and not same:  # an idle cast would keep an index from being used
        expression = f"{expression}::{_type(column)}"
    return _operand(column, expression)


def _operand(column: ResolvedColumn, sql: str) -> str:
    if column.category != "builtin":
        return f'({sql})::text COLLATE "C"'
    return f'{sql} COLLATE "C"' if column.collatable else sql


def _type(column: ResolvedColumn) -> str:
    if column.category != "builtin":
        return "text"
    kind, dimensions = kind_of(column)
    match kind:  # without the length: a bound must not be cut
        case "varchar":
            return f"varchar{dimensions}"
        case "char":
            return f"bpchar{dimensions}"
        case "bits":
            return f"varbit{dimensions}"
        case _:
            return column.base_type
