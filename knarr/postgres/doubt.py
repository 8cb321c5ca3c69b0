"""Rows whose phase their transactions do not tell: what the source says of them, a batch at a time."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedColumn, ResolvedMapping
from knarr.postgres.identifiers import enclosed, qualified, quote
from knarr.postgres.selection import moved_predicate, phase_predicate, source_key, source_where, target_key, wire_type
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction
from knarr.postgres.writers import IN_DOUBT, inside

BATCH: Final = 1_000  # rows of doubt that the source is asked about at once

KEYS_IN_DOUBT: Final = f"SELECT {{texts}} FROM {{table}} AS t WHERE {IN_DOUBT} AND {{inside}}"
# What the source now says of these rows: whether it counts them to the phase, their keys as asked, and their values.
ASK_SOURCE: Final = """
SELECT ({ours}) IS TRUE AS ours, {names}, {values}
  FROM {source}, unnest({arrays}) AS "knarr asked" ({names})
 WHERE {matches} AND {where}
"""
SAME: Final = f"unnest({{arrays}}) AS k ({{names}}) WHERE {IN_DOUBT} AND {{inside}} AND {{matches}} AND {{equal}}"

ReachSource = Callable[[], AbstractAsyncContextManager[Connection]]
"""Gives a connection to the source; called only when the source is needed."""


class Answer(NamedTuple):
    """What the source says of one batch: arguments for `same`, after run, mapping and phase; empty: of no row."""

    asked: int
    ours: list[list[str | None]]
    others: list[list[str | None]]


async def answers(
    connection: Connection,
    reach_source: ReachSource,
    mapping: ResolvedMapping,
    place: tuple[str, int, str],
    phase_order: Sequence[str],
    limits: Limits | None,
) -> AsyncGenerator[Answer, None]:
    """Asks the source about every row in doubt, in one snapshot of it; within the caller's transaction on the target.

    Args:
        place: run, mapping, phase.
    """
    ask = _ask_source(mapping, phase_order, place[2])
    texts = ", ".join(f"({column.sql})::text" for column in target_key(mapping, "t"))
    async with reach_source() as source, transaction(source, limits, snapshot=True):
        query = KEYS_IN_DOUBT.format(texts=texts, table=qualified(mapping.target), inside=inside(mapping))
        keys = await connection.cursor(query, *place)
        while batch := await keys.fetch(BATCH):
            told = [tuple(row) for row in await source.fetch(ask, *_by_column(batch, len(mapping.key)))]
            mine, rest = [row[1:] for row in told if row[0]], [row[1:] for row in told if not row[0]]
            yield Answer(
                asked=len(batch),
                ours=_by_column(mine, len(mine[0])) if mine else [],
                others=_by_column(rest, len(rest[0])) if rest else [],
            )


def same(mapping: ResolvedMapping) -> str:
    """Rows in doubt, called t, that hold what was given: place, then an array for each key column and each value."""
    key, columns = target_key(mapping, "t"), _compared(mapping)
    names = [f"k{place}" for place in range(len(key))] + [f"v{place}" for place in range(len(columns))]
    ours = ", ".join(f"t.{quote(column.name)}::{column.base_type}" for column in columns)
    given = ", ".join(f"k.v{place}::{column.base_type}" for place, column in enumerate(columns))
    return SAME.format(
        inside=inside(mapping),
        arrays=", ".join(f"${place}::text[]" for place in range(4, 4 + len(names))),
        names=", ".join(names),
        matches=" AND ".join(f"{column.sql} = k.k{place}::{column.type}" for place, column in enumerate(key)),
        # As records are stored: JSON has no `=`, and 0 is not -0.
        equal=f"ROW({ours})::record *= ROW({given})::record",
    )


def _by_column(rows: Sequence[Any], columns: int) -> list[list[str | None]]:
    return [[row[place] for row in rows] for place in range(columns)]


def _ask_source(mapping: ResolvedMapping, phase_order: Sequence[str], phase: str) -> str:
    key = source_key(mapping)
    names = [f'"knarr key {place}"' for place in range(len(key))]
    return ASK_SOURCE.format(
        ours=phase_predicate(mapping, phase_order, phase) or "FALSE",
        names=", ".join(names),
        values=", ".join(f"{enclosed(column.expression)}::{wire_type(column)}::text" for column in _compared(mapping)),
        source=mapping.from_clause,
        arrays=", ".join(f"${place + 1}::text[]" for place in range(len(key))),
        matches=" AND ".join(f"{column.sql} = {name}::{column.type}" for column, name in zip(key, names, strict=True)),
        where=source_where(mapping, moved_predicate(mapping, phase_order, phase) or "FALSE"),
    )


def _compared(mapping: ResolvedMapping) -> list[ResolvedColumn]:
    """What the source can be asked about: all but what a Python transform has made of it."""
    return [column for column in mapping.columns if column.name not in mapping.transform_columns]
