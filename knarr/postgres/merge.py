"""Moving one partition into a table that has rows of its own: staged beside it, then inserted, updated, deleted by key.

The transaction is that of `copy`: step lock, fence, ledger row, rows. Every change has its entry in the undo log, in
the same statement.
"""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Final

import asyncpg

from knarr.errors import DataError, PlanError
from knarr.postgres import merge_sql
from knarr.postgres.copy import CopyJob, CopyOutcome, OnProgress, Written, stream_rows, write_once
from knarr.postgres.identifiers import qualified
from knarr.postgres.ledger import Changes
from knarr.postgres.merge_sql import MergeSql, Operation
from knarr.postgres.selection import phase_predicate
from knarr.postgres.session import Connection
from knarr.postgres.stream import Reconnect

# A row that goes makes room for one that comes under another key with the same value in a unique column.
ORDER: Final[tuple[Operation, ...]] = ("delete", "update", "insert")
# Where the table points at itself: what is pointed at comes first and goes last.
SELF_REFERENCING_ORDER: Final[tuple[Operation, ...]] = ("insert", "update", "delete")

BEFOREHAND: Final = "rows with these keys are there and not in the mapping's scope"
AFTERWARDS: Final = "the rows do not meet the mapping's scope once they are written"


async def merge_partition(
    source: Connection, target: Connection, job: CopyJob, on_progress: OnProgress, *, reconnect: Reconnect
) -> CopyOutcome:
    """Appends or merges one partition of one phase, or returns what the ledger says of it; all or nothing, as `copy`.

    Raises:
        DataError: a key to append is there already; a key is not unique; a row lies outside the mapping's scope; the
            target does not take a row.
        PlanError: the mapping has no key, or an expression that the source does not take.
        LostLease, TransientError: nothing was written.
    """
    doing = f"merging into {job.mapping.name}, phase {job.phase}, partition {job.partition.number + 1}"
    write = partial(_merge, source, target, job, doing, on_progress, reconnect)
    return await write_once(source, target, job, doing, write, on_progress, reconnect=reconnect)


async def _merge(
    source: Connection, target: Connection, job: CopyJob, doing: str, on_progress: OnProgress, reconnect: Reconnect
) -> Written:
    mapping = job.mapping
    if not mapping.key:
        raise PlanError(f"{mapping.name} has no key: with mode '{mapping.mode}' rows are told apart by one")
    phase = phase_predicate(mapping, job.phase_order, job.phase)
    if phase is None:
        return Written()
    deletes = deletes_missing(job)
    if deletes:
        # What is missing is missing from all rows of the source; those of earlier phases are merged once more.
        phase = "TRUE"
    sql = MergeSql(mapping, job.partition)
    for statement in sql.stage:
        await target.execute(statement)
    streamed = await stream_rows(source, target, job, doing, phase, merge_sql.STAGED, on_progress, reconnect)
    for statement in sql.after_staging:
        await target.execute(statement)
    await _refuse_standing(target, sql)
    note = partial(_note, target, job, sql)
    changes = await change_rows(target, sql, (job.run_id, mapping.number), note, deletes=deletes)
    await refuse_out_of_scope(target, sql, AFTERWARDS)
    return Written(rows=streamed.rows, bytes=streamed.bytes, changes=changes)


def deletes_missing(job: CopyJob) -> bool:
    """Whether the job takes away the target's rows that the source does not have: the last phase does, where asked."""
    return job.mapping.delete_missing and job.phase == job.phase_order[-1]


async def change_rows(
    target: Connection,
    sql: MergeSql,
    run: tuple[str, int],
    change: Callable[[Operation], Awaitable[asyncpg.Record]],
    *,
    deletes: bool,
) -> Changes:
    """Makes the target's rows what is staged, in the order that the table needs, and counts what became of them.

    Args:
        run: its id and the mapping's number.
        change: makes one kind of change; returns its `rows`, how many of them `others` wrote, and `checksum_change`.
        deletes: whether rows that were not staged go.

    Raises:
        DataError: the target leaves out rows that are to be updated; and what `change` raises.
    """
    counts: dict[Operation, int] = dict.fromkeys(ORDER, 0)
    others, checksum_change = 0, Decimal(0)
    itself = await target.fetchval(merge_sql.SELF_REFERENCING, qualified(sql.mapping.target))
    for operation in SELF_REFERENCING_ORDER if itself else ORDER:
        matched: int | None = None
        if (operation == "delete" and not deletes) or (operation == "update" and not sql.updates):
            continue
        if operation == "update":
            matched = int((await target.execute(sql.match, *run)).rpartition(" ")[2])
        row = await change(operation)
        counts[operation] = row["rows"]
        others += row["others"]
        checksum_change += row["checksum_change"]
        if matched is not None and row["rows"] != matched:
            raise DataError(
                f"of {matched:,} rows of {sql.mapping.name} that differ {row['rows']:,} were updated",
                hint="a trigger or a rule on the target leaves rows out; nothing of this partition was written",
            )
    return Changes(
        inserted=counts["insert"],
        updated=counts["update"],
        deleted=counts["delete"],
        others=others,
        checksum_change=checksum_change,
    )


async def _note(target: Connection, job: CopyJob, sql: MergeSql, operation: Operation) -> asyncpg.Record:
    place = job.run_id, job.mapping.number, job.phase, job.partition.number
    row = await target.fetchrow(sql.noted(operation), *place)
    if row is None:
        raise RuntimeError(f"the {operation} returned no count")
    return row


async def _refuse_standing(target: Connection, sql: MergeSql) -> None:
    """Keys that must not be there: all of them when appending, those of other people's rows when merging."""
    mapping = sql.mapping
    if mapping.mode == "append":
        standing = await target.fetch(sql.standing)
        if standing:
            found = f"{standing[0]['total']:,} keys to append are in {mapping.name} already"
            raise DataError(
                found,
                hint="leave them out with `where`, or write `mode: merge` if they are to be updated",
                detail=f"{found}: {shown([row['key'] for row in standing], standing[0]['total'])}",
            )
    else:
        await refuse_out_of_scope(target, sql, BEFOREHAND)


async def refuse_out_of_scope(target: Connection, sql: MergeSql, what: str) -> None:
    """Staged keys whose row in the target does not meet the mapping's scope, if it has one, are a DataError."""
    if sql.mapping.scope is None:
        return
    others = await target.fetch(sql.out_of_scope)
    if others:
        total = others[0]["total"]
        found = f"{sql.mapping.name}: {what} ({total:,} rows)"
        raise DataError(
            found,
            hint=f"the scope is: {sql.mapping.scope}; correct it, or the mapping's filter or expressions",
            detail=f"{found}: {shown([row['key'] for row in others], total)}",
        )


def shown(keys: list[list[str | None]], total: int) -> str:
    """Keys for people: the first few, and how many more there are. For an error's detail, never for its message."""
    texts = ["(" + ", ".join("NULL" if part is None else part[:60] for part in key) + ")" for key in keys]
    return ", ".join(texts) + (f" and {total - len(keys)} more" if total > len(keys) else "")
