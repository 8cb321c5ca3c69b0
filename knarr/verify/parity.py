"""Parity: every row and every column of one partition, on both sides at once, inside the databases.

One pass on each side sums row hashes by bucket of keys. Only unlike buckets give up their keys and hashes, which are
merged; only unlike rows are fetched, and compared column by column.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres.session import Connection
from knarr.postgres.transform import source_digest
from knarr.verify import checksum
from knarr.verify.among import narrowed_sums
from knarr.verify.at_once import both, in_turn
from knarr.verify.attempt import attempted
from knarr.verify.counting import find
from knarr.verify.expected import actual_rows, expected_rows, holds_others
from knarr.verify.models import CheckKey, CheckResult, Finding, shorten
from knarr.verify.neighbours import narrowed
from knarr.verify.sides import Rows, Side, SqlSide, Sums
from knarr.verify.snapshot import snapshot
from knarr.verify.transformed import TransformedSide
from knarr.verify.unlike import Differences, Unlike, merge

Progress = Callable[[int], None]

# Several partitions are compared at once already, as many as the plan allows these servers; workers beside would be
# more than it says, and made five million rows 8 % slower on two cores.
ALONE: Final = "SET LOCAL max_parallel_workers_per_gather = 0"

_HINTS: Final = {
    "missing": "copy the row again; if it is one that was deleted at the source since, the source was not quiet",
    "extra": "remove the row, or give the mapping a `scope` if the table holds rows of others",
    "doubled": "remove the surplus row; a primary key or a unique index on the target would have refused it",
    "changed": "write the expected value, or correct the mapping's expression if the found one is right",
}


async def compare_partition(
    source: Connection,
    target: Connection,
    mapping: ResolvedMapping,
    partition: Partition,
    *,
    phases: Sequence[str] = (),
    through: str = "",
    shown: int = 100,
    folder: Path | None = None,
    on_progress: Progress | None = None,
) -> CheckResult:
    """Holds what the source says the partition should be against what the target holds; writes nothing.

    Args:
        source: pinned session, not in a transaction.
        target: likewise.
        mapping: the resolved mapping; its Python transform, if any, is computed again here.
        partition: the range of keys.
        phases: all phases in rollout order; empty: everything has been moved.
        through: the last phase that has been moved.
        folder: where the plan lies, for its transforms; None: the working directory.
        shown: how many findings the result holds at most; all are counted.
        on_progress: told how many rows of the source have been read so far.

    Raises:
        TransientError: a server or the network was in the way; anything else becomes `could not run`.
    """
    key = CheckKey(kind="parity", name=mapping.name, mapping=mapping.number, partition=partition.number)
    result = await attempted(
        key, lambda: _compare(key, source, target, mapping, partition, phases, through, shown, folder, on_progress)
    )
    return result.model_copy(update={"lower": partition.lower, "upper": partition.upper})


async def _compare(
    key: CheckKey,
    source: Connection,
    target: Connection,
    mapping: ResolvedMapping,
    partition: Partition,
    phases: Sequence[str],
    through: str,
    shown: int,
    folder: Path | None,
    on_progress: Progress | None,
) -> CheckResult:
    started = time.monotonic()
    wanted, held = expected_rows(mapping, partition, phases, through), actual_rows(mapping, partition)
    mask = checksum.bucket_mask(partition.estimated_rows)
    others = holds_others(mapping, phases, through)
    async with snapshot(source) as source_seen, snapshot(target) as target_seen:
        if partition.lower or partition.upper:
            await both(source.execute(ALONE), target.execute(ALONE))
        method = await agree_on_method(source, target)
        found = SqlSide(target, held, method)
        expected: Side = SqlSide(source, wanted, method)
        pair = both
        if mapping.transform:  # its rows are hashed by the target, on the connection that reads the other side
            expected = TransformedSide(source, target, wanted, mapping, method, folder=folder, on_progress=on_progress)
            pair = in_turn
        expected_sums, found_sums = await pair(expected.sums(mask), found.sums(mask))
        if others:
            found_sums = await narrowed_sums(
                source, target, wanted, held, method, mask, expected_sums, found_sums, found.statements
            )
        source_total = sum(expected_sums.values(), Sums())
        target_total = sum(found_sums.values(), Sums())
        if on_progress:
            on_progress(source_total.rows)
        buckets = sorted(
            bucket
            for bucket in expected_sums.keys() | found_sums.keys()
            if expected_sums.get(bucket, Sums()) != found_sums.get(bucket, Sums())
        )
        differences, findings = Differences(shown), []
        if buckets:
            if isinstance(expected, SqlSide) and not others:
                there = await narrowed(expected, found, mapping, partition, mask, buckets)
                differences, *rows = await find(*there, mask, buckets, shown)
            else:
                entries = expected.entries(mask, buckets), found.entries(mask, buckets)
                differences = await merge(*entries, shown, pair, others=others)
                hashes = sorted({unlike.key_hash for unlike in differences.kept})
                rows = [*await pair(expected.rows(mask, buckets, hashes), found.rows(mask, buckets, hashes))]
            findings = _name(mapping, rows[0], rows[1], buckets, differences, shown)
    return CheckResult(
        **key.model_dump(),
        outcome="failed" if buckets else "passed",
        message=_message(mapping, source_total, target_total, differences),
        source_rows=source_total.rows,
        target_rows=target_total.rows,
        source_checksum=source_total.checksum,
        target_checksum=target_total.checksum,
        counts=dict(differences.counts),
        findings_total=max(differences.counts.total(), 1 if buckets else 0),
        findings=findings,
        seconds=time.monotonic() - started,
        sql=[*expected.statements, *found.statements],
        compared=_compared(mapping, phases, through, folder),
        method=method,
        source_snapshot=source_seen,
        target_snapshot=target_seen,
    )


async def agree_on_method(source: Connection, target: Connection) -> checksum.Method:
    """Asks both servers for the same hashes and the same texts, and picks the hash that both give alike.

    Raises:
        DataError: the servers write the same values differently, so nothing could be concluded.
    """
    texts = await both(source.fetchval(checksum.PROBE_TEXTS), target.fetchval(checksum.PROBE_TEXTS))
    checksum.require_same_text(*texts)
    encodings = await both(source.fetchval(checksum.ENCODING), target.fetchval(checksum.ENCODING))
    strings = checksum.probes(encodings == ("UTF8", "UTF8"))
    ours, theirs = await both(
        source.fetchrow(checksum.PROBE_HASHES, strings), target.fetchrow(checksum.PROBE_HASHES, strings)
    )
    if ours is None or theirs is None:
        raise RuntimeError("the probe of the hash function returned no row")
    records = False
    if min(side.get_server_version().major for side in (source, target)) >= checksum.RECORDS_SINCE:
        hashes = await both(source.fetchval(checksum.PROBE_RECORDS), target.fetchval(checksum.PROBE_RECORDS))
        records = hashes[0] == hashes[1]
    return checksum.choose_method(ours["encoding"], theirs["encoding"], ours["hashes"], theirs["hashes"], records)


def _name(
    mapping: ResolvedMapping,
    wanted: Rows,
    held: Rows,
    buckets: Sequence[int],
    differences: Differences,
    shown: int,
) -> list[Finding]:
    """The findings, by key and column, of the differences that were kept."""
    findings = []
    for unlike in sorted(differences.kept, key=lambda unlike: [part or "" for part in unlike.key]):
        findings.extend(_findings(mapping, unlike, wanted, held))
    if not differences.kept:  # sums differ, rows do not: a collision, or a source that moves under one snapshot
        findings.append(
            Finding(
                mapping=mapping.name,
                kind="changed",
                expected="equal checksums of equal rows",
                found=f"unlike checksums in buckets {buckets[:20]}, yet no unlike row",
                hint="report this: an expression of the mapping gives another value each time it is asked",
            )
        )
    return findings[:shown]


def _findings(mapping: ResolvedMapping, unlike: Unlike, wanted: Rows, held: Rows) -> list[Finding]:
    names = [column.name for column in mapping.columns]
    key = {column.name: shorten(text) for column, text in zip(mapping.key, unlike.key, strict=True)}
    expected = wanted.get((unlike.key, unlike.expected)) if unlike.expected else None
    found = held.get((unlike.key, unlike.found)) if unlike.found else None
    hint = _HINTS[unlike.kind]
    if unlike.count > 1:
        hint = f"{unlike.count:,} rows alike: {hint}"
    if unlike.kind == "changed" and expected and found:
        cells = [cell for cell in zip(names, expected, found, strict=True) if cell[1] != cell[2]]
        if cells:
            return [
                Finding(mapping=mapping.name, kind="changed", key=key, column=c, expected=e, found=f, hint=hint)
                for c, e, f in cells
            ]
    return [
        Finding(
            mapping=mapping.name,
            kind=unlike.kind,
            key=key,
            expected=_row(names, expected) if unlike.expected else None,
            found=_row(names, found) if unlike.found else None,
            hint=hint,
        )
    ]


def _row(names: Sequence[str], cells: Sequence[str | None] | None) -> str | None:
    if cells is None:
        return "a row that did not come back when it was asked for again"
    return shorten(json.dumps(dict(zip(names, cells, strict=True)), ensure_ascii=False))


def _message(mapping: ResolvedMapping, source: Sums, target: Sums, differences: Differences) -> str:
    if not differences.counts and source == target:
        return f"{target.rows:,} rows, all as the source says"
    named = ", ".join(f"{count:,} {kind}" for kind, count in sorted(differences.counts.items())) or "unlike checksums"
    return f"{mapping.name}: {named}; the source gives {source.rows:,} rows, the target holds {target.rows:,}"


def _compared(mapping: ResolvedMapping, phases: Sequence[str], through: str, folder: Path | None) -> list[str]:
    lines = [f"{len(mapping.columns)} columns: {', '.join(column.name for column in mapping.columns)}"]
    if not mapping.key:
        lines.append("no key: rows are compared as a multiset, so a changed row is one missing and one extra")
    if mapping.scope:
        lines.append(f"only target rows in the mapping's scope: {mapping.scope}")
    if holds_others(mapping, phases, through):
        lines.append("only target rows whose keys the source has: the others are somebody else's")
    if mapping.transform:
        digest = source_digest(mapping.transform, folder)
        lines.append(f"expected rows were recomputed by {mapping.transform}; its file's SHA-256 is {digest}")
    if phases and through != phases[-1]:
        lines.append(f"the rows moved through phase {through}")
    return lines
