"""One batch of an undo: entries leave the log, and what they say is done, in the caller's fenced transaction.

Nearly always three statements do it, one for each kind of change. Where rows have handed a unique value on to each
other, or point at each other, only the reverse of the order in which the run changed them will do: then it is done row
by row, the newest change first, and what can't be done yet is tried again after the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from knarr.errors import DataError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import merge_sql, others, undo_sql
from knarr.postgres.identifiers import literal, qualified, quote
from knarr.postgres.lease import Lease
from knarr.postgres.merge import shown
from knarr.postgres.pointing import pointed_at, pointing
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import POINTS, Action, UndoSql
from knarr.wording import counted

# What another order of the changes may avoid.
MEETING: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.ExclusionViolationError,
    asyncpg.ForeignKeyViolationError,
)

REMAINING: Final = "SELECT count(*) FROM knarr.undo WHERE run_id = $1 AND mapping = $2 AND phase = $3"
NOTE: Final = """
INSERT INTO knarr.undone (run_id, mapping, phase, entries, kept, kept_rows, kept_checksum)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
# What somebody else has done to a row that the run has so left.
CHANGES: Final = {"insert": "changed", "update": "changed or deleted", "delete": "inserted again"}
# A constraint that waits for the commit would say nothing of the single row.
AT_ONCE: Final = "SET CONSTRAINTS ALL IMMEDIATE"


@dataclass(frozen=True)
class Work:
    """One phase's undo: what every batch of it needs to know."""

    connection: Connection
    lease: Lease
    run_id: str
    mapping: ResolvedMapping
    phase: str
    limits: Limits | None
    sql: UndoSql
    pointing: Sequence[asyncpg.Record]
    order: tuple[Action, ...]

    @property
    def place(self) -> tuple[str, int, str]:
        """Run, mapping and phase, as the log is asked for them."""
        return self.run_id, self.mapping.number, self.phase

    @property
    def step(self) -> str:
        """The name of the lock that an attempt holds."""
        return f"{self.run_id}/{self.mapping.number}/{self.phase}/undo"


async def take_back(work: Work, below: int, size: int, *, singly: bool, last: bool = False) -> tuple[int, int]:
    """Takes one batch back; returns how many entries it had and the lowest of their numbers.

    Args:
        below: entries from this number on have been taken already.
        size: how many entries to take.
        singly: row by row.
        last: no batch is to come, so what is still in the way is somebody else's.

    Raises:
        DataError: somebody has changed rows since and it is not decided about them; a row did not become what it was.
        asyncpg.PostgresError: one of `MEETING`, where the order matters (or, singly, where rows of others are in the
            way), and whatever else the server has to say.
    """
    connection, sql = work.connection, work.sql
    await connection.execute(undo_sql.ONLY_BY_INDEX)
    lowest: int | None = await connection.fetchval(undo_sql.LOWEST, *work.place, below, size)
    if lowest is None:
        return 0, below
    await connection.execute(sql.make_batch)
    entries: int = await connection.fetchval(sql.take, *work.place, lowest, below)
    await connection.execute(sql.find)
    await connection.execute(undo_sql.ANY_WAY)
    await connection.execute(sql.plan)
    await _decide(work, lowest)
    await _refuse_cascades(work)
    await connection.execute(undo_sql.ONLY_BY_INDEX)
    left_out, checksum = await _one_by_one(work, lowest, last=last) if singly else await _all_at_once(work)
    await connection.execute(undo_sql.ANY_WAY)
    kept = await connection.fetchrow(undo_sql.KEPT)
    if kept is None:
        raise RuntimeError("counting returned no row")
    counts = kept["kept"] + left_out, kept["rows"] + left_out, kept["checksum"] + checksum
    await connection.execute(NOTE, *work.place, entries, *counts)
    return entries, lowest


async def _all_at_once(work: Work) -> tuple[int, int]:
    """One statement for each kind of change; returns how many rows came not back, and the sum of their hashes."""
    planned = {row["action"]: row["rows"] for row in await work.connection.fetch(undo_sql.ACTIONS)}
    left_out = checksum = 0
    for action in work.order:
        if rows := planned.get(action):
            row = await _act(work, action, rows)
            if action == "insert":
                left_out, checksum = row["left_out"], row["left_out_checksum"]
    return left_out, checksum


async def _one_by_one(work: Work, lowest: int, *, last: bool) -> tuple[int, int]:
    """Row by row, the newest change first, in savepoints: what is in the way of one may go with another.

    What is still in the way at the end is somebody else's; where theirs are kept, our row stays as it is.
    """
    connection = work.connection
    await connection.execute(AT_ONCE)
    pending = await connection.fetch(undo_sql.ONE_BY_ONE)
    while pending:
        waiting: list[asyncpg.Record] = []
        in_the_way: asyncpg.PostgresError | None = None
        for row in pending:
            try:
                async with connection.transaction():
                    await _act(work, row["action"], 1, row["sequence"])
            except MEETING as error:
                waiting.append(row)
                in_the_way = in_the_way or error  # that of the newest change, which the others wait for
        if in_the_way is not None and len(waiting) == len(pending):
            keeps = last and work.sql.changed_since == "keep theirs"
            if not keeps or any(row["action"] == "delete" for row in waiting):
                raise in_the_way
            await connection.execute(undo_sql.LEAVE_OUT, [row["sequence"] for row in waiting])
            about = f"{counted(len(waiting), 'row')} of {work.mapping.name} did not become what they were"
            why = f"rows of others stand in their way ({in_the_way.constraint_name})"
            await _note(work, f"in the way/{lowest}", f"{about}: {why}")
            break
        pending = waiting
    await connection.execute(work.sql.note_writers, *work.place)
    return 0, 0


async def _decide(work: Work, lowest: int) -> None:
    """What somebody else has changed since stops the batch, or the decision about it goes into the audit trail."""
    conflicts = await work.connection.fetch(undo_sql.CONFLICTS.format(shown=undo_sql.SHOWN_KEYS))
    if not conflicts:
        return
    total, policy = conflicts[0]["total"], work.sql.changed_since
    keys = [f"{shown([row['key']], 1)} {row['conflict']}" for row in conflicts]
    if policy != "stop":
        what = "they stay as they are" if policy == "keep theirs" else "they become again what they were before the run"
        await _note(work, str(lowest), f"{_changed(work, total)}: {_listed(keys, total)}: {what}")
        return
    # The batch's entries have left the log for the moment, so these are the others.
    remaining = await work.connection.fetchval(REMAINING, *work.place)
    query = _changed_rows(work)
    total += await work.connection.fetchval(f"SELECT count(*) FROM ({query}) AS changed")
    for row in await work.connection.fetch(f"{query} LIMIT {undo_sql.SHOWN_KEYS - len(keys)}"):
        keys.append(f"{shown([row['key']], 1)} {CHANGES[row['operation']]}")
    found = _changed(work, total)
    untouched = f"None of these was touched, nor were {remaining:,} older changes of phase {work.phase}"
    raise DataError(
        f"{found}. {untouched}",
        hint=f"look at these rows; on the target, this finds them: {query}. "
        f"Then there: {others.decide(work.run_id, work.mapping.name, 'keep theirs')} (or 'restore ours', which "
        "makes them what they were before the run), and retry",
        detail=f"{found}: {_listed(keys, total)}. {untouched}",
    )


def _listed(keys: Sequence[str], total: int) -> str:
    more = f" and {total - len(keys):,} more" if total > len(keys) else ""
    return "; ".join(keys) + more


def _changed(work: Work, rows: int) -> str:
    were = "was" if rows == 1 else "were"
    return f"{counted(rows, 'row')} of {work.mapping.name} {were} changed by somebody else since the run wrote them"


async def _note(work: Work, place: str, summary: str) -> None:
    place = f"{work.mapping.number}/{work.phase}/{place}"
    await others.note(work.connection, work.lease, work.run_id, place, work.sql.changed_since, summary)


def _changed_rows(work: Work) -> str:
    """For people too, on one line: the log's entries of the phase whose rows are not as the run left them."""
    table = qualified(work.mapping.target)
    found = merge_sql.row_hash(f"({table}.*)::text")
    same_key = " AND ".join(
        f"{table}.{quote(column.name)} = (u.key[{place}])::{column.target_type}"
        for place, column in enumerate(work.mapping.key, start=1)
    )
    return (
        f"SELECT u.operation, u.key FROM knarr.undo AS u LEFT JOIN {table} ON {same_key} "
        f"WHERE u.run_id = {literal(work.run_id)} AND u.mapping = {work.mapping.number} "
        f"AND u.phase = {literal(work.phase)} AND {found} IS DISTINCT FROM u.left_hash "
        f"AND (u.operation <> 'insert' OR {found} IS NOT NULL)"
    )


async def _refuse_cascades(work: Work) -> None:
    """The rows are locked since they were found, so nobody can come to point at one of them after this."""
    for row in work.pointing:
        joined = pointing(row, POINTS, qualified(work.mapping.target))
        if await work.connection.fetchval(work.sql.pointed_at(row["referencing"], joined)):
            raise pointed_at(work.mapping, row["referencing"], row["name"], cascades=True)


async def _act(work: Work, action: Action, rows: int, sequence: int | None = None) -> asyncpg.Record:
    """Does one kind of change: to all rows that are planned for it, or to that of one entry."""
    one = () if sequence is None else (sequence,)
    done = await work.connection.fetchrow(work.sql.act(action, one=sequence is not None), *one)
    if done is None:
        raise RuntimeError("taking rows back returned no count")
    missed = rows - done["rows"] - (done["left_out"] if action == "insert" else 0)
    if done["wrong"] or missed:
        raise DataError(
            f"{work.mapping.name}: of {rows:,} rows to {action} {missed:,} were not, and {done['wrong']:,} did not "
            "become what they were before the run",
            hint="a trigger, a rule or a generated column makes something else of them; nothing of this batch was "
            "changed",
        )
    return done
