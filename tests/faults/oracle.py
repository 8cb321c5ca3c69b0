"""The judge of every fault: what both databases must look like afterwards. It shares no code with what it judges.

It reads tables, catalogues and the knarr schema's tables by its own SQL, over connections of its own, and recomputes
the audit chain from the format that `knarr/postgres/schema.sql` states. Nothing of the package is imported here.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import asyncpg

from tests.faults.shop import BYSTANDERS, EXPECTED, NEXT_NOTE, Expected

# The two servers differ in these, and lines are compared as text.
SAME_TEXT: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "application_name": "oracle",
}
SECONDS_TO_LEAVE: Final = 15.0
BORN: Final = datetime(1970, 1, 1, tzinfo=UTC)

NEXT_XID: Final = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
SESSIONS: Final = """
SELECT pid, application_name, state, left(query, 80) AS query FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE $1
"""
LEFT_BEHIND: Final = """
SELECT 'temporary object ' || relname FROM pg_class WHERE relpersistence = 't'
UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'advisory lock of pid ' || pid FROM pg_locks WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
KNARR_IS_THERE: Final = "SELECT to_regclass('knarr.run') IS NOT NULL"
RUN: Final = "SELECT state, ended_at IS NOT NULL AS ended FROM knarr.run WHERE run_id = $1"
LEASE: Final = "SELECT epoch, released FROM knarr.lease WHERE run_id = $1"
CLAIMS: Final = "SELECT count(*) FROM knarr.claim WHERE run_id = $1"
# What a phase must take back. Where sequences stood before the run (phase '') is kept, as evidence beside the figures
# of the tables; that they stand there again is seen in the dump.
UNDO_ROWS: Final = """
SELECT 'object ' || name FROM knarr.object WHERE run_id = $1
UNION ALL SELECT 'position of sequence ' || sequence FROM knarr.sequence_before WHERE run_id = $1 AND phase <> ''
UNION ALL SELECT 'checkpoint ' || name FROM knarr.checkpoint WHERE run_id = $1
UNION ALL SELECT 'standing verdict of ' || phase FROM knarr.verdict WHERE run_id = $1 AND NOT withdrawn
"""
UNDO_LOG: Final = "SELECT count(*) FROM knarr.undo WHERE run_id = $1"
LEDGER: Final = "SELECT mapping, partition, epoch, rows, copied_at FROM knarr.ledger WHERE run_id = $1"
PARTITIONS: Final = "SELECT mapping, partition FROM knarr.partition WHERE run_id = $1"
MAPPING_NAMES: Final = "SELECT mapping, name FROM knarr.mapping WHERE run_id = $1"
COPY_ENTRIES: Final = """
SELECT entry_key FROM knarr.audit WHERE run_id = $1 AND kind = 'copy' AND entry_key LIKE '%/epoch ' || $2::text
"""
PARITY: Final = """
SELECT mapping, partition, outcome FROM knarr.check_result
 WHERE run_id = $1 AND kind = 'parity' AND round = (SELECT max(round) FROM knarr.verdict WHERE run_id = $1)
"""
PASSED: Final = "SELECT count(*) FROM knarr.verdict WHERE run_id = $1 AND passed AND NOT withdrawn"
AUDIT: Final = """
SELECT position, entry_key, at, kind, body, previous, digest FROM knarr.audit WHERE run_id = $1 ORDER BY position
"""
AUDIT_HEAD: Final = "SELECT position, digest FROM knarr.audit_head WHERE run_id = $1"

Outcome = Literal["completed", "rolled back", "aborted"]


@dataclass(frozen=True)
class Before:
    """How things stood before the run: what the judge holds the end against."""

    source_dsn: str
    target_dsn: str
    dump_source: Callable[[], str]
    dump_target: Callable[[], str]
    source: str
    target: str
    next_xid: str

    @classmethod
    async def now(
        cls, source_dsn: str, target_dsn: str, dump_source: Callable[[], str], dump_target: Callable[[], str]
    ) -> "Before":
        """Takes the picture; the dumps are pg_dump's, the target's without the knarr schema."""
        source, target = await asyncio.to_thread(dump_source), await asyncio.to_thread(dump_target)
        next_xid = str(await one_value(source_dsn, NEXT_XID))
        return cls(source_dsn, target_dsn, dump_source, dump_target, source, target, next_xid)


async def violations(
    before: Before,
    run_id: str,
    outcome: Outcome,
    *,
    expected: Sequence[Expected] = EXPECTED,
    source_is_quiet: bool = True,
    source_may_change: bool = False,
    shop: bool = True,
    partitions_unverified: bool = False,
) -> list[str]:
    """Everything that is not as it must be after a run that ended so; empty when all held. All workers must be gone.

    Args:
        expected: the target tables and what they must hold.
        source_is_quiet: nobody wrote on the source's server meanwhile, so that its next transaction id stands still.
        source_may_change: the test itself changed the source's rows or tables.
        shop: the databases are those of `shop.py`, with their sequence and their bystanders.
        partitions_unverified: a person skipped verification.
    """
    found = await sessions_left(before.target_dsn, "knarr%") + await sessions_left(
        before.source_dsn, f"knarr/{run_id}/%"
    )
    connection = await asyncpg.connect(before.target_dsn, server_settings=SAME_TEXT)
    try:
        found += [f"left behind: {row[0]}" for row in await connection.fetch(LEFT_BEHIND)]
        if await connection.fetchval(KNARR_IS_THERE):
            found += await _record(connection, run_id, outcome)
            found += await chain_breaks(connection, run_id)
        elif outcome == "completed":
            found.append("there is no knarr schema on the target")
        if outcome == "completed":
            found += await _complete(connection, before, run_id, expected, partitions_unverified)
            if shop:
                found += await _beside(connection)
    finally:
        await connection.close()
    if outcome != "completed":
        after = await asyncio.to_thread(before.dump_target)
        found += _difference("the target is not what it was before", before.target, after)
    if not source_may_change:
        found += _difference("the source was changed", before.source, await asyncio.to_thread(before.dump_source))
    next_xid = str(await one_value(before.source_dsn, NEXT_XID))
    if source_is_quiet and next_xid != before.next_xid:
        found.append(f"the source spent transaction ids: next was {before.next_xid}, is {next_xid}")
    return found


async def sessions_left(dsn: str, pattern: str) -> list[str]:
    """Sessions of the product that are still there after a while."""
    connection = await asyncpg.connect(dsn, server_settings=SAME_TEXT)
    try:
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        while rows := await connection.fetch(SESSIONS, pattern):
            if time.monotonic() > deadline:
                return [f"session left: {tuple(row.values())}" for row in rows]
            await asyncio.sleep(0.1)
        return []
    finally:
        await connection.close()


async def _record(connection: Any, run_id: str, outcome: Outcome) -> list[str]:
    """Lease, claims and undo records: given back, whatever the outcome."""
    run, lease = await connection.fetchrow(RUN, run_id), await connection.fetchrow(LEASE, run_id)
    if run is None or lease is None:
        return [] if outcome != "completed" else [f"run {run_id} has no record"]
    found = []
    if run["state"] != outcome or not run["ended"]:
        found.append(f"the record says {run['state']!r} (ended: {run['ended']}), the run ended as {outcome!r}")
    if not lease["released"]:
        found.append("the lease is not released")
    if claims := await connection.fetchval(CLAIMS, run_id):
        found.append(f"{claims} claims are left")
    if entries := await connection.fetchval(UNDO_LOG, run_id):
        found.append(f"{entries} entries of the undo log are left")
    ledger = await connection.fetch(LEDGER, run_id)
    if outcome != "completed":
        found += [f"{len(ledger)} ledger rows are left"] if ledger else []
        found += [f"not taken back: {row[0]}" for row in await connection.fetch(UNDO_ROWS, run_id)]
    for row in ledger:
        if row["rows"] is None or row["copied_at"] is None or row["epoch"] > lease["epoch"]:
            found.append(f"a ledger row is not closed or from the future: {tuple(row.values())}")
    return found


async def _complete(
    connection: Any, before: Before, run_id: str, expected: Sequence[Expected], unverified: bool
) -> list[str]:
    """Every table holds what the source says, each partition is in the ledger once and was compared."""
    found = []
    names = {row["name"]: row["mapping"] for row in await connection.fetch(MAPPING_NAMES, run_id)}
    ledger = await connection.fetch(LEDGER, run_id)
    for table in expected:
        wanted, held = await lines(before.source_dsn, table.source), await lines(before.target_dsn, table.target)
        if wanted != held:
            place = next((n for n, pair in enumerate(zip(wanted, held, strict=False)) if pair[0] != pair[1]), None)
            shown = f"; first at line {place}: {wanted[place]!r}, {held[place]!r}" if place is not None else ""
            found.append(f"{table.table}: the source gives {len(wanted)} lines, the target holds {len(held)}{shown}")
        counted = sum(row["rows"] or 0 for row in ledger if row["mapping"] == names[table.table])
        if counted != len(held) - table.others:
            others = f", {table.others} of them other people's" if table.others else ""
            found.append(f"{table.table}: {len(held)} rows{others}; the ledger says {counted}")
    partitions = {tuple(row.values()) for row in await connection.fetch(PARTITIONS, run_id)}
    if partitions != {(row["mapping"], row["partition"]) for row in ledger} or len(ledger) != len(partitions):
        found.append(f"{len(partitions)} partitions, {len(ledger)} ledger rows")
    compared = {(row["mapping"], row["partition"]): row["outcome"] for row in await connection.fetch(PARITY, run_id)}
    if not unverified and compared != dict.fromkeys(partitions, "passed"):
        found.append(f"{len(partitions)} partitions, compared and passed: {list(compared.values()).count('passed')}")
    if not unverified and not await connection.fetchval(PASSED, run_id):
        found.append("the run completed, but no verdict stands that passed")
    return found


async def _beside(connection: Any) -> list[str]:
    """What the plan does not name stands as it stood, and the sequence goes on behind the rows."""
    found = []
    if not await connection.fetchval(NEXT_NOTE):
        found.append("the next number of shop.note's sequence is taken already")
    wanted = hashlib.md5(";".join(sorted(f'("setting {n}",{"x" * n})' for n in range(1, 21))).encode()).hexdigest()
    held = await connection.fetchval(BYSTANDERS.replace("ORDER BY name", 'ORDER BY s::text COLLATE "C"'))
    if held != wanted:
        found.append("shop.setting, which the plan does not name, was changed")
    if await connection.fetchval("SELECT last_value FROM shop.ticket") != 100:
        found.append("the sequence shop.ticket, which the plan does not name, was moved")
    return found


async def chain_breaks(connection: Any, run_id: str) -> list[str]:
    """Recomputes SHA-256 over every entry of the audit trail, in order, from thirty-two zero bytes on."""
    found, previous, position = [], bytes(32), 0
    for row in await connection.fetch(AUDIT, run_id):
        position += 1
        microseconds = (row["at"] - BORN) // timedelta(microseconds=1)
        parts = (run_id, position, microseconds, row["kind"], row["entry_key"], row["body"])
        digest = hashlib.sha256(previous + "\x1f".join(map(str, parts)).encode()).digest()
        if row["position"] != position or row["previous"] != previous or row["digest"] != digest:
            found.append(f"the audit chain breaks at position {position} ({row['entry_key']})")
            break
        previous = digest
    head = await connection.fetchrow(AUDIT_HEAD, run_id)
    if position and (head is None or head["position"] != position or head["digest"] != previous):
        found.append(f"the audit head is {head and head['position']}, the last entry is {position}")
    return found


def in_order(dump: str) -> str:
    """A dump whose rows stand in one order, whatever order they lie in: taken back is not put back in its old place."""
    lines: list[str] = []
    rows: list[str] | None = None
    for line in dump.splitlines():
        if rows is None:
            lines.append(line)
            rows = [] if line.startswith("COPY ") and line.endswith(" FROM stdin;") else None
        elif line == "\\.":
            lines += [*sorted(rows), line]
            rows = None
        else:
            rows.append(line)
    return "\n".join(lines)


def _difference(what: str, before: str, after: str) -> list[str]:
    if before == after:
        return []
    old, new = before.splitlines(), after.splitlines()
    gone = [line for line in old if line not in set(new)][:4]
    come = [line for line in new if line not in set(old)][:4]
    return [f"{what}: gone {gone}, come {come}"]


async def lines(dsn: str, query: str) -> list[bytes]:
    """What COPY writes of a query, line by line."""
    connection = await asyncpg.connect(dsn, server_settings=SAME_TEXT)
    chunks: list[bytes] = []

    async def take(chunk: bytes) -> None:
        chunks.append(chunk)

    try:
        await connection.copy_from_query(query, output=take, format="text")
    finally:
        await connection.close()
    return b"".join(chunks).splitlines()


async def column(dsn: str, query: str) -> list[Any]:
    """The first column of a query."""
    connection = await asyncpg.connect(dsn, server_settings=SAME_TEXT)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def one_value(dsn: str, query: str, *arguments: object) -> Any:
    """One value, over a connection that shares nothing with the product's."""
    connection = await asyncpg.connect(dsn, server_settings=SAME_TEXT)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()
