"""Taking a mapping's copied rows of a phase back out of the target.

Each partition was written by one transaction, whose id the ledger keeps and each row shows as its xmin. That, and not
the source, which has lived on since, says which rows are the phase's.
"""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from knarr.audit import chain
from knarr.errors import DataError, PlanError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedColumn, ResolvedMapping
from knarr.postgres import ledger
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.lease import Lease, fenced, transaction
from knarr.postgres.selection import moved_predicate, phase_predicate, source_key, source_where, target_key, wire_type
from knarr.postgres.session import Connection

BATCH: Final = 1_000  # rows of doubt that the source is asked about at once

EXISTS: Final = "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)"
# Foreign keys of other tables that point here: TRUNCATE refuses them, DELETE may cascade through them.
POINTING_HERE: Final = """
SELECT conrelid::regclass::text AS referencing, c.conname AS name,
       confdeltype::text IN ('c', 'n', 'd') AS changes_rows,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.conrelid, k.number)) AS columns,
       (SELECT array_agg(a.attname ORDER BY k.place)
          FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (c.confrelid, k.number)) AS referenced
  FROM pg_constraint c
 WHERE c.contype = 'f' AND c.confrelid = to_regclass($1) AND c.conrelid <> c.confrelid
"""
# Rows by who wrote them: this phase's copy, somebody before it began, or another phase's copy; in doubt are those that
# were written anew since this phase began. Without an id (a ledger of an older version) all are in doubt.
OWN: Final = "SELECT xid FROM knarr.ledger WHERE (run_id, mapping, phase) = ($1, $2, $3) AND xid IS NOT NULL"
OTHERS: Final = "SELECT xid FROM knarr.ledger WHERE (run_id, mapping) = ($1, $2) AND phase <> $3 AND xid IS NOT NULL"
WRITTEN_BY_PHASE: Final = f"knarr.full_xid(t.xmin) IN ({OWN})"
IN_DOUBT: Final = f"""
knarr.full_xid(t.xmin) NOT IN ({OWN}) AND knarr.full_xid(t.xmin) NOT IN ({OTHERS})
AND (knarr.full_xid(t.xmin) < ({OWN} ORDER BY xid LIMIT 1)) IS NOT TRUE
"""
REPAIRED: Final = """
knarr.full_xid(t.xmin) IN (SELECT unnest(repair_xids) FROM knarr.ledger WHERE (run_id, mapping) = ($1, $2))
"""
COUNT: Final = f"""
SELECT count(*) AS all, count(*) FILTER (WHERE {WRITTEN_BY_PHASE}) AS own, count(*) FILTER (WHERE {IN_DOUBT}) AS doubt,
       count(*) FILTER (WHERE {IN_DOUBT} AND {REPAIRED}) AS repaired
  FROM {{table}} AS t
"""
KEYS_IN_DOUBT: Final = f"SELECT {{texts}} FROM {{table}} AS t WHERE {IN_DOUBT}"
# What the source now says of these rows: whether it counts them to the phase, their keys as asked, and their values.
ASK_SOURCE: Final = """
SELECT ({ours}) IS TRUE AS ours, {names}, {values}
  FROM {source}, unnest({arrays}) AS "knarr asked" ({names})
 WHERE {matches} AND {where}
"""
SAME: Final = f"unnest({{arrays}}) AS k ({{names}}) WHERE {IN_DOUBT} AND {{matches}} AND {{equal}}"


async def remove_rows(
    connection: Connection,
    source: Connection | None,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    phase_order: Sequence[str],
    *,
    limits: Limits | None = None,
) -> int:
    """Takes back the rows that a phase copied into a table that the run fills, and returns how many there were.

    One transaction with the phase's ledger rows, so that the phase can be copied again. A table that holds only this
    phase's rows is emptied. Else the rows that the phase's transactions wrote are deleted. Rows that were written anew
    since (by a repair, or by who uses them already) show another transaction: where it was a repair of this run and the
    ledger's counts leave only one phase that they can be of, they are of that one. Else the source is asked about them;
    a row counts as known when source and target still agree in all that was copied, and every number must come out as
    the ledger has it. What the run did not carry (a column that only a phase's predicate reads) can't be compared.

    Args:
        source: asked only about rows in doubt; None: those stop it.
        phase_order: names of the plan's phases in rollout order.

    Raises:
        DataError: the table holds other rows than the ledger knows of, it can't be told which are the phase's, or rows
            elsewhere depend on them; nothing is changed.
        PlanError: the mapping appends or merges, which has an undo of its own; rows are in doubt, and there is no key
            or no source to tell them by.
        LostLease, TransientError.
    """
    if mapping.mode not in ("create", "fill"):
        raise PlanError(f"the rows of {mapping.name} are not taken back by phase: its mode is '{mapping.mode}'")
    with classified(f"taking back the rows of {mapping.name}, phase {phase}"):
        async with fenced(connection, lease, limits=limits):
            totals = await ledger.phase_totals(connection, run_id, mapping.number)
            own = totals.pop(phase, None)
            if own is None:
                return 0
            kind = await connection.fetchval(EXISTS, qualified(mapping.target))
            if kind is not None:
                # Nobody may add a row between the count and the commit.
                await connection.execute(f"LOCK TABLE {qualified(mapping.target)} IN SHARE ROW EXCLUSIVE MODE")
                if any(total.rows for total in totals.values()):
                    others = sum(total.rows for total in totals.values())
                    place = run_id, mapping.number, phase
                    doubtful = await _delete_written(connection, mapping, place, own.rows, others)
                    if doubtful:
                        await _delete_doubtful(connection, source, mapping, place, phase_order, limits, doubtful)
                else:
                    await _empty(connection, mapping, kind, own.rows)
                await _prove(connection, mapping, phase, sum(total.rows for total in totals.values()))
            await connection.execute(ledger.DELETE_PHASE, run_id, mapping.number, phase)
            await _audit(connection, lease, run_id, mapping, phase, own.rows)
    return own.rows


async def _empty(connection: Connection, mapping: ResolvedMapping, kind: str, expected: int) -> None:
    table = qualified(mapping.target)
    if mapping.mode == "fill":
        found = await connection.fetchval(f"SELECT count(*) FROM {table}")
        if found != expected:
            raise DataError(
                f"{mapping.name} holds {found} rows, the ledger says that the run put {expected} there: "
                "somebody else has written to it",
                hint="take the other rows out, or skip this step with a reason; nothing was changed",
            )
    if not await connection.fetch(POINTING_HERE, table):
        # ONLY: tables that inherit from it hold other people's rows; a partitioned table can't do without its parts.
        only = "" if kind == "p" else "ONLY "
        try:
            async with connection.transaction():
                await connection.execute(f"TRUNCATE {only}{table}")
        except (asyncpg.DiskFullError, asyncpg.InsufficientPrivilegeError):
            # TRUNCATE writes each index anew, a page at least, and needs a right of its own; DELETE needs neither.
            await connection.execute(f"DELETE FROM {only}{table}")
        return
    await refuse_changes_elsewhere(connection, mapping, "TRUE", [])
    await connection.execute(f"DELETE FROM {table}")


async def _delete_written(
    connection: Connection, mapping: ResolvedMapping, place: tuple[str, int, str], own: int, others: int
) -> int:
    """Deletes the rows that are the phase's beyond doubt, and returns how many more it has among those in doubt.

    Args:
        place: run, mapping, phase.
        own: how many rows the phase has, by the ledger.
        others: how many the other phases have.
    """
    table = qualified(mapping.target)
    found = await connection.fetchrow(COUNT.format(table=table), *place)
    if found is None:
        raise RuntimeError("counting returned no row")
    if found["all"] != own + others:
        raise DataError(
            f"{mapping.name} holds {found['all']} rows, the ledger says that the run put {own + others} there, {own} "
            f"of them in phase {place[2]}: somebody else has written to it",
            hint="put the table's rows right, or skip this step with a reason; nothing was changed",
        )
    doubtful, not_ours = own - found["own"], found["doubt"] - (own - found["own"])
    if doubtful < 0 or not_ours < 0:
        raise DataError(
            f"{mapping.name} holds {found['own']} rows that phase {place[2]} copied and {found['doubt']} that were "
            f"written anew since; the ledger gives the phase {own} rows and the others {others}",
            hint="a repair followed rows of the source from one phase into another; roll back to the start, or skip "
            "this step with a reason; nothing was changed",
        )
    # What a repair of this run wrote can only be of the phase when no other phase misses a row. What somebody else has
    # written may be a row of theirs in the place of one that they deleted, however well the counts agree.
    all_ours = doubtful > 0 and not_ours == 0 and found["repaired"] == found["doubt"]
    doomed = f"({WRITTEN_BY_PHASE} OR {IN_DOUBT})" if all_ours else WRITTEN_BY_PHASE
    await refuse_changes_elsewhere(connection, mapping, doomed, place)
    await connection.execute(f"DELETE FROM {table} AS t WHERE {doomed}", *place)
    return 0 if all_ours else doubtful


async def _delete_doubtful(
    connection: Connection,
    source: Connection | None,
    mapping: ResolvedMapping,
    place: tuple[str, int, str],
    phase_order: Sequence[str],
    limits: Limits | None,
    expected: int,
) -> None:
    """Deletes those of the rows in doubt that the source counts to the phase: as many as expected, and all known."""
    doubt = f"rows of {mapping.name} were written anew since phase {place[2]} began, {expected} of them are its own"
    if not mapping.key:
        raise PlanError(
            f"{mapping.name} has no key, and {doubt}: which ones can't be told",
            hint="roll back to the start, or skip this step with a reason; nothing was changed",
        )
    if source is None:
        raise PlanError(f"{doubt}: which ones only the source can tell, and there is no connection to it")
    table, ask, same = qualified(mapping.target), _ask_source(mapping, phase_order, place[2]), _same(mapping)
    texts = ", ".join(f"({column.sql})::text" for column in target_key(mapping, "t"))
    ours = others = unknown = 0
    async with transaction(source, limits, snapshot=True):
        keys = await connection.cursor(KEYS_IN_DOUBT.format(texts=texts, table=table), *place)
        while batch := await keys.fetch(BATCH):
            answers = await source.fetch(ask, *_by_column(batch, len(mapping.key)))
            mine = [row[1:] for row in map(tuple, answers) if row[0]]
            rest = [row[1:] for row in map(tuple, answers) if not row[0]]
            kept = gone = 0
            if rest:
                count = f"SELECT count(*) FROM {table} AS t, {same}"
                kept = await connection.fetchval(count, *place, *_by_column(rest, len(rest[0])))
            if mine:
                arguments = *place, *_by_column(mine, len(mine[0]))
                await refuse_changes_elsewhere(connection, mapping, f"EXISTS (SELECT FROM {same})", arguments)
                status = await connection.execute(f"DELETE FROM {table} AS t USING {same}", *arguments)
                gone = int(status.rpartition(" ")[2])
            ours, others, unknown = ours + gone, others + kept, unknown + len(batch) - gone - kept
    if ours != expected or unknown:
        raise DataError(
            f"{doubt}; the source counts {ours} to the phase and {others} to others, and {unknown} are no longer there "
            "as they were copied: it has moved on since, so it can't tell whose they are",
            hint="roll back to the start, or take the rows out by hand and skip this step with a reason; nothing was "
            "changed",
        )


def _by_column(rows: Sequence[Any], columns: int) -> list[list[str | None]]:
    return [[row[place] for row in rows] for place in range(columns)]


def _ask_source(mapping: ResolvedMapping, phase_order: Sequence[str], phase: str) -> str:
    key = source_key(mapping)
    names = [f'"knarr key {place}"' for place in range(len(key))]
    return ASK_SOURCE.format(
        ours=phase_predicate(mapping, phase_order, phase) or "FALSE",
        names=", ".join(names),
        values=", ".join(f"({column.expression})::{wire_type(column)}::text" for column in _compared(mapping)),
        source=mapping.from_clause,
        arrays=", ".join(f"${place + 1}::text[]" for place in range(len(key))),
        matches=" AND ".join(f"{column.sql} = {name}::{column.type}" for column, name in zip(key, names, strict=True)),
        where=source_where(mapping, moved_predicate(mapping, phase_order, phase) or "FALSE"),
    )


def _same(mapping: ResolvedMapping) -> str:
    """Rows in doubt, called t, that hold what was given: place, then an array for each key column and each value."""
    key, columns = target_key(mapping, "t"), _compared(mapping)
    names = [f"k{place}" for place in range(len(key))] + [f"v{place}" for place in range(len(columns))]
    ours = ", ".join(f"t.{quote(column.name)}::{column.base_type}" for column in columns)
    given = ", ".join(f"k.v{place}::{column.base_type}" for place, column in enumerate(columns))
    return SAME.format(
        arrays=", ".join(f"${place}::text[]" for place in range(4, 4 + len(names))),
        names=", ".join(names),
        matches=" AND ".join(f"{column.sql} = k.k{place}::{column.type}" for place, column in enumerate(key)),
        # As records are stored: JSON has no `=`, and 0 is not -0.
        equal=f"ROW({ours})::record *= ROW({given})::record",
    )


def _compared(mapping: ResolvedMapping) -> list[ResolvedColumn]:
    """What the source can be asked about: all but what a Python transform has made of it."""
    return [column for column in mapping.columns if column.name not in mapping.transform_columns]


async def refuse_changes_elsewhere(
    connection: Connection, mapping: ResolvedMapping, doomed: str, arguments: Sequence[object]
) -> None:
    """Deleting must not cascade into other tables: a row there that points at a doomed row stops it."""
    for row in await connection.fetch(POINTING_HERE, qualified(mapping.target)):
        if not row["changes_rows"]:
            continue
        pairs = zip(row["columns"], row["referenced"], strict=True)
        joined = " AND ".join(f"r.{quote(own)} = t.{quote(other)}" for own, other in pairs)
        query = (
            f"SELECT EXISTS (SELECT FROM {row['referencing']} AS r JOIN {qualified(mapping.target)} AS t ON {joined} "
            f"WHERE {doomed})"
        )
        if await connection.fetchval(query, *arguments):
            raise DataError(
                f"rows of {row['referencing']} point at rows of {mapping.name} that are to be taken back, and its "
                f"foreign key {row['name']} would delete or change them",
                hint=f"take those rows out of {row['referencing']} first, or skip this step with a reason",
            )


async def _prove(connection: Connection, mapping: ResolvedMapping, phase: str, expected: int) -> None:
    found = await connection.fetchval(f"SELECT count(*) FROM {qualified(mapping.target)}")
    if found != expected:
        raise DataError(
            f"after taking back phase {phase}, {mapping.name} holds {found} rows; the ledger says that the other "
            f"phases put {expected} there",
            hint="a trigger or a rule on the table keeps rows from being deleted; nothing was changed",
        )


async def _audit(
    connection: Connection, lease: Lease, run_id: str, mapping: ResolvedMapping, phase: str, rows: int
) -> None:
    body = {
        "step": f"take back the rows of {mapping.name}",
        "outcome": "done",
        "summary": f"{rows} rows",
        "mapping": mapping.name,
        "phase": phase,
    }
    key = f"remove {mapping.number}/{phase}/epoch {lease.epoch}"
    await chain.append(connection, run_id, key, "compensation", body)
