"""Taking back what a phase did to a table that has rows of its own: the undo log, newest entry first, in batches.

Each batch is one fenced transaction that takes entries out of the log and does what they say, so every entry is taken
back exactly once, whatever dies and when; a new attempt goes on with what is left. What the rows become is compared,
text for text, with what they were; at the end the table as a whole is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import before, ledger, merge_sql, others, undo_sql
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import literal, qualified, quote
from knarr.postgres.lease import Lease, fence, step_lock
from knarr.postgres.merge import shown
from knarr.postgres.pointing import POINTING_HERE
from knarr.postgres.same_table import require_same_table
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction
from knarr.postgres.undo_sql import Action, ChangedSince, UndoSql

BATCH: Final = 10_000  # entries taken back by one transaction
_END: Final = 2**63 - 1  # beyond every entry

ORDER: Final[tuple[Action, ...]] = ("delete", "update", "insert")
SELF_REFERENCING_ORDER: Final[tuple[Action, ...]] = ("insert", "update", "delete")

REMAINING: Final = "SELECT count(*) FROM knarr.undo WHERE run_id = $1 AND mapping = $2 AND phase = $3"
NOTE: Final = """
INSERT INTO knarr.undone (run_id, mapping, phase, entries, kept, kept_rows, kept_checksum)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
# What the ledger says that there was to take back, and what was.
BALANCE: Final = """
SELECT (SELECT coalesce(sum(inserted + updated + deleted), 0)::bigint FROM knarr.ledger
         WHERE run_id = $1 AND mapping = $2 AND phase = $3) AS changes,
       coalesce(sum(entries), 0)::bigint AS entries, coalesce(sum(kept), 0)::bigint AS kept
  FROM knarr.undone
 WHERE run_id = $1 AND mapping = $2 AND phase = $3 AND NOT finished
"""
# What later proofs must know of this phase once its ledger rows are gone.
REMEMBER_OTHERS: Final = """
UPDATE knarr.table_before
   SET others = others + $4
       + (SELECT coalesce(sum(others), 0) FROM knarr.ledger WHERE run_id = $1 AND mapping = $2 AND phase = $3)
 WHERE run_id = $1 AND mapping = $2
"""
FINISH: Final = "UPDATE knarr.undone SET finished = true WHERE run_id = $1 AND mapping = $2 AND phase = $3"
IS_LAST: Final = "SELECT NOT EXISTS (SELECT FROM knarr.ledger WHERE run_id = $1 AND mapping = $2)"


class Undone(BaseModel):
    """What taking a phase back came to: entries of the log, rows left to others, and what the proof found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entries: int = Field(default=0, ge=0)
    kept: int = Field(default=0, ge=0)
    proof: str = ""


@dataclass(frozen=True)
class _Work:
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
        return self.run_id, self.mapping.number, self.phase

    @property
    def step(self) -> str:
        return f"{self.run_id}/{self.mapping.number}/{self.phase}/undo"


async def undo_phase(
    connection: Connection,
    lease: Lease,
    run_id: str,
    mapping: ResolvedMapping,
    phase: str,
    *,
    changed_since: ChangedSince = "stop",
    limits: Limits | None = None,
    on_progress: Callable[[int], None] = lambda entries: None,
) -> Undone:
    """Takes back what a phase did to an occupied table, and proves that the table holds again what it held.

    Holds when the phase did nothing, half or all of it, and goes on where an earlier attempt ended. Memory is flat:
    rows never leave the server.

    Args:
        changed_since: what becomes of rows that somebody else has changed since the run wrote them; a decision that a
            person left with `knarr.decide` comes first.
        on_progress: called with the entries taken back so far by this call.

    Raises:
        DataError: rows were changed since and the policy is to stop; a row did not become what it was; rows elsewhere
            depend on rows that must go; the table is not what it was. The batch is rolled back.
        LostLease, TransientError, PlanError.
    """
    with classified(f"taking back what phase {phase} did to {mapping.name}"):
        totals = await ledger.phase_totals(connection, run_id, mapping.number)
        if phase not in totals:
            return Undone()
        decided = await others.policy(connection, run_id, mapping.number, changed_since)
        await require_same_table(connection, run_id, mapping.number)
        columns = await before.read_columns(connection, mapping)
        await before.require_same_columns(connection, run_id, mapping, columns)
        itself = await connection.fetchval(merge_sql.SELF_REFERENCING, qualified(mapping.target))
        pointing = await connection.fetch(POINTING_HERE, qualified(mapping.target))
        work = _Work(
            connection=connection,
            lease=lease,
            run_id=run_id,
            mapping=mapping,
            phase=phase,
            limits=limits,
            sql=UndoSql(mapping, columns, decided),
            pointing=[row for row in pointing if row["changes_rows"] and not row["itself"]],
            order=SELF_REFERENCING_ORDER if itself else ORDER,
        )
        # What a row of the table points at may be in any batch, so that such a table is taken back in one.
        size, below, done = _END if itself else BATCH, _END, 0
        while True:
            async with transaction(connection, limits):
                await step_lock(connection, work.step)
                await fence(connection, lease)
                entries, lowest = await _batch(work, below, size)
            if not entries:
                break
            below, done = lowest, done + entries
            on_progress(done)
        return await _finish(work)


async def _batch(work: _Work, below: int, size: int) -> tuple[int, int]:
    """Takes one batch back; returns how many entries it had and the lowest of their numbers."""
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
    planned = {row["action"]: row["rows"] for row in await connection.fetch(undo_sql.ACTIONS)}
    kept = await connection.fetchrow(undo_sql.KEPT)
    if kept is None:
        raise RuntimeError("counting returned no row")
    left_out, left_out_checksum = 0, 0
    await connection.execute(undo_sql.ONLY_BY_INDEX)
    for action in work.order:
        if rows := planned.get(action):
            row = await _act(work, action, rows)
            if action == "insert":
                left_out, left_out_checksum = row["left_out"], row["left_out_checksum"]
    await connection.execute(undo_sql.ANY_WAY)
    await connection.execute(
        NOTE,
        *work.place,
        entries,
        kept["kept"] + left_out,
        kept["rows"] + left_out,
        kept["checksum"] + left_out_checksum,
    )
    return entries, lowest


async def _decide(work: _Work, lowest: int) -> None:
    """What somebody else has changed since stops the batch, or the decision about it goes into the audit trail."""
    conflicts = await work.connection.fetch(undo_sql.CONFLICTS.format(shown=undo_sql.SHOWN_KEYS))
    if not conflicts:
        return
    total, policy = conflicts[0]["total"], work.sql.changed_since
    keys = "; ".join(f"{shown([row['key']], 1)} {row['conflict']}" for row in conflicts)
    more = f" and {total - len(conflicts):,} more" if total > len(conflicts) else ""
    found = f"{total:,} rows of {work.mapping.name} were changed by somebody else since the run wrote them"
    if policy == "stop":
        remaining = await work.connection.fetchval(REMAINING, *work.place)
        untouched = f"None of these was touched, nor were {remaining:,} older changes of phase {work.phase}"
        raise DataError(
            f"{found}. {untouched}",
            hint=f"look at these rows; on the target, this finds them: {_query_for_changed(work)}. "
            f"Then there: {others.decide(work.run_id, work.mapping.name, 'keep theirs')} (or 'restore ours', which "
            "makes them what they were before the run), and retry",
            detail=f"{found}: {keys}{more}. {untouched}",
        )
    what = "they stay as they are" if policy == "keep theirs" else "they become again what they were before the run"
    place = f"{work.mapping.number}/{work.phase}/{lowest}"
    await others.note(work.connection, work.lease, work.run_id, place, policy, f"{found}: {keys}{more}: {what}")


def _query_for_changed(work: _Work) -> str:
    """For people, on one line: the log's entries of the phase whose rows are not as the run left them."""
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


async def _act(work: _Work, action: Action, rows: int) -> asyncpg.Record:
    if action == "delete":
        for pointing in work.pointing:
            pairs = list(zip(pointing["columns"], pointing["referenced"], strict=True))
            if await work.connection.fetchval(work.sql.pointed_at(pointing["referencing"], pairs)):
                raise DataError(
                    f"rows of {pointing['referencing']} point at rows of {work.mapping.name} that are to be taken back,"
                    f" and its foreign key {pointing['name']} would delete or change them",
                    hint="take those rows out or point them elsewhere, then retry; nothing of this batch was changed",
                )
    done = await work.connection.fetchrow(work.sql.act(action))
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


async def _finish(work: _Work) -> Undone:
    """The end of a phase: the log is empty, the balance is right, the table is what it was; the ledger forgets it."""
    connection = work.connection
    async with transaction(connection, work.limits):
        await step_lock(connection, work.step)
        await fence(connection, work.lease)
        balance = await connection.fetchrow(BALANCE, *work.place)
        if balance is None:
            raise RuntimeError("counting returned no row")
        if balance["changes"] != balance["entries"]:
            raise DataError(
                f"phase {work.phase} made {balance['changes']:,} changes to {work.mapping.name}, and the undo log had "
                f"{balance['entries']:,} of them",
                hint="the log was dropped, or somebody has written to knarr.undo: restore the rest from a backup",
            )
        proof = await before.prove(connection, work.run_id, work.mapping, work.phase)
        await connection.execute(REMEMBER_OTHERS, *work.place, balance["kept"])
        await connection.execute(FINISH, *work.place)
        await connection.execute(ledger.DELETE_PHASE, *work.place)
        left: list[str] = []
        if await connection.fetchval(IS_LAST, work.run_id, work.mapping.number):
            left = await before.put_sequences_back(connection, work.run_id, work.mapping)
        kept = f"; {balance['kept']:,} rows of others kept" if balance["kept"] else ""
        stay = f"; sequences that others have drawn from stay: {', '.join(left)}" if left else ""
        summary = f"{balance['entries']:,} changes taken back{kept}; the table holds {proof}{stay}"
        body = {
            "step": f"take back the rows of {work.mapping.name}",
            "outcome": "done",
            "summary": summary,
            "mapping": work.mapping.name,
            "phase": work.phase,
        }
        key = f"remove {work.mapping.number}/{work.phase}/epoch {work.lease.epoch}"
        await chain.append(connection, work.run_id, key, "compensation", body)
    return Undone(entries=balance["entries"], kept=balance["kept"], proof=proof)
