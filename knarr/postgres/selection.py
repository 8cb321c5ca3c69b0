"""Which source rows belong to a mapping, a phase and a partition, and the SELECT that reads them for the target."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from knarr.errors import PlanError
from knarr.plan.resolved import Partition, ResolvedColumn, ResolvedMapping
from knarr.postgres.identifiers import enclosed, literal, quote

_LENGTH: Final = re.compile(r"^(character varying|character|bit varying|bit)\(\d+\)((?:\[\])*)$")
# `char` and `bit` without a length mean one; these spellings mean any.
_WITHOUT_LENGTH: Final = {"character": "bpchar", "bit": '"bit"'}
INTEGERS: Final = ("smallint", "integer", "bigint")


class KeyColumn(BaseModel):
    """One key column as a range compares it on one side: SQL, its bounds' type, whether it has a collation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sql: str
    type: str
    collatable: bool

    @property
    def compared(self) -> str:
        """The SQL as it is compared and ordered."""
        return f'{self.sql} COLLATE "C"' if self.collatable else self.sql


def wire_type(column: ResolvedColumn) -> str:
    """The type that the source casts to: what the target's COPY takes, without a length.

    An explicit cast to varchar(n), char(n) or bit(n) cuts a longer value without a word; the target's own input refuses
    it (22001). So the length stays with the target.
    """
    if column.category != "builtin":
        return "text"
    match = _LENGTH.match(column.base_type)
    if match is None:
        return column.base_type
    return _WITHOUT_LENGTH.get(match[1], match[1]) + match[2]


def source_key(mapping: ResolvedMapping) -> list[KeyColumn]:
    """The key as the source compares it: in the target's type and order, and usable by an index where that allows."""
    return [_source_key_column(column) for column in mapping.key]


def target_key(mapping: ResolvedMapping, of: str = "") -> list[KeyColumn]:
    """The key as the target compares it; `of` is the table's SQL where a column's name alone would be ambiguous."""
    before = f"{of}." if of else ""
    return [
        _key_column(column, f"{before}{quote(column.name)}{'' if column.category == 'builtin' else '::text'}")
        for column in mapping.key
    ]


def _source_key_column(column: ResolvedColumn) -> KeyColumn:
    kind = wire_type(column)
    # Integers of all sizes share one order and one index family, and a cast would keep an index from being used.
    same = column.source_type == kind or (column.source_type in INTEGERS and kind in INTEGERS)
    expression = enclosed(column.expression)
    return _key_column(column, expression if same else f"{expression}::{kind}")


def _key_column(column: ResolvedColumn, sql: str) -> KeyColumn:
    kind = wire_type(column)
    collatable = column.collatable or column.category != "builtin"
    return KeyColumn(sql=sql, type="bigint" if kind in INTEGERS else kind, collatable=collatable)


def range_predicate(key: Sequence[KeyColumn], partition: Partition, *, first: int = 1) -> tuple[str, list[str]]:
    """The partition's rows as a predicate over the key, and the texts to bind, numbered from `first`.

    Every row is in exactly one partition of its mapping, also a row whose key holds NULL: the last one takes it.
    Bounds are bound as text and cast by the server ($1::text::uuid), so no client type takes part.
    """
    values: list[str] = []

    def bind(text: str) -> str:
        values.append(text)
        return f"${first + len(values) - 1}"

    return _range(key, partition, bind), values


def range_literal(key: Sequence[KeyColumn], partition: Partition) -> str:
    """The same predicate with its bounds written in, for COPY, which can't bind.

    asyncpg's own way of writing values in would also replace a `$1` inside a string of the plan author's SQL.
    """
    return _range(key, partition, literal)


def joined_range(key: Sequence[KeyColumn], partition: Partition) -> str:
    """The partition's range with its bounds written in, for rows that are joined by their key: without those whose key
    holds NULL, which would keep an index from serving it.
    """
    return " AND ".join(_bounds(key, partition, literal)) or "TRUE"


def _range(key: Sequence[KeyColumn], partition: Partition, write: Callable[[str], str]) -> str:
    if partition.lower is None and partition.upper is None:
        return "TRUE"
    parts = _bounds(key, partition, write)
    unknown = [f"{column.sql} IS NULL" for column in key]
    if partition.upper is None:
        return "(" + " OR ".join([f"({' AND '.join(parts)})", *unknown]) + ")"
    if len(key) > 1:
        # A comparison of rows may be true although a later column is NULL: (1, NULL) < (2, 0).
        parts += [f"{column.sql} IS NOT NULL" for column in key]
    return f"({' AND '.join(parts)})"


def _bounds(key: Sequence[KeyColumn], partition: Partition, write: Callable[[str], str]) -> list[str]:
    for bound in (partition.lower, partition.upper):
        if bound is not None and len(bound) != len(key):
            raise PlanError(
                f"partition {partition.number} of mapping {partition.mapping} has bounds of {len(bound)} columns, "
                f"its key has {len(key)}"
            )
    return [
        _compare(key, operator, bound, write)
        for operator, bound in ((">=", partition.lower), ("<", partition.upper))
        if bound is not None
    ]


def _compare(key: Sequence[KeyColumn], operator: str, bound: Sequence[str], write: Callable[[str], str]) -> str:
    left = ", ".join(column.compared for column in key)
    right = ", ".join(f"{write(text)}::text::{column.type}" for column, text in zip(key, bound, strict=True))
    return f"{left} {operator} {right}" if len(key) == 1 else f"({left}) {operator} ({right})"


def phase_predicate(mapping: ResolvedMapping, phase_order: Sequence[str], phase: str) -> str | None:
    """Which source rows the phase moves, over the source row; None: none of this mapping.

    A row belongs to the first phase whose predicate it meets; the last phase takes whatever remains, so that no row is
    left behind.

    Raises:
        PlanError: the rollout has no such phase.
    """
    if phase not in phase_order:
        raise PlanError(f"the rollout has no phase '{phase}'; it has {', '.join(phase_order)}")
    place = list(phase_order).index(phase)
    last = place == len(phase_order) - 1
    if phase not in mapping.phases and not last:
        return None
    earlier = [mapping.phases[name] for name in phase_order[:place] if name in mapping.phases]
    parts = [] if last else [f"{enclosed(mapping.phases[phase])} IS TRUE"]
    parts += [f"{enclosed(predicate)} IS NOT TRUE" for predicate in earlier]
    return " AND ".join(parts) or "TRUE"


def moved_predicate(mapping: ResolvedMapping, phase_order: Sequence[str], through_phase: str) -> str | None:
    """Which source rows have been moved once that phase is done; None: none of this mapping yet.

    Raises:
        PlanError: the rollout has no such phase.
    """
    if through_phase not in phase_order:
        raise PlanError(f"the rollout has no phase '{through_phase}'; it has {', '.join(phase_order)}")
    place = list(phase_order).index(through_phase)
    if place == len(phase_order) - 1:
        return "TRUE"
    named = [mapping.phases[name] for name in phase_order[: place + 1] if name in mapping.phases]
    if not named:
        return None
    return "(" + " OR ".join(f"{enclosed(predicate)} IS TRUE" for predicate in named) + ")"


def source_where(mapping: ResolvedMapping, *predicates: str | None) -> str:
    """The mapping's filter and the given predicates as one condition."""
    parts = [enclosed(mapping.where)] if mapping.where else []
    parts += [predicate for predicate in predicates if predicate and predicate != "TRUE"]
    return " AND ".join(parts) or "TRUE"


def copy_query(mapping: ResolvedMapping, partition: Partition, phase_sql: str) -> str:
    """The SELECT whose rows COPY carries over: each column as the target's COPY takes it, in target order."""
    columns = ",\n       ".join(
        f"{enclosed(column.expression)}::{wire_type(column)} AS {quote(column.name)}" for column in mapping.columns
    )
    where = source_where(mapping, range_literal(source_key(mapping), partition), phase_sql)
    return f"SELECT {columns}\n  FROM {mapping.from_clause}\n WHERE {where}"
