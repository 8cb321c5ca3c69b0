"""Merging a million rows into two million and taking it back, in one run on the same tables: as ratios.

    python bench/undo.py [--rows 1000000] [--into 2000000] [-o docs/benchmarks.md]

Two servers of its own on this machine. Half of the source's rows are new, half differ from the target's. (a) the merge
as one would write it by hand: COPY into a temporary table, INSERT ... ON CONFLICT DO UPDATE; it can't be taken back.
(b) Knarr's merge, with its undo log. (c) taking that back: in a process that is killed (SIGKILL) half-way, and in a
second one that goes on from there. The table must then be what it was, by a checksum that shares nothing with Knarr's.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from knarr.local.cluster import Cluster
from knarr.plan.load import parse_plan
from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.plan.units import size_bytes
from knarr.postgres import before, lease, ledger, mappings, partitions, schema
from knarr.postgres.copy import CopyJob
from knarr.postgres.merge import merge_partition
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey import survey
from knarr.postgres.undo import undo_phase
from knarr.process import run_and_exit

TABLE: Final = """
CREATE TABLE public.account (
    id integer PRIMARY KEY, branch integer NOT NULL, balance numeric(12,2) NOT NULL, opened timestamptz,
    filler char(84));
INSERT INTO public.account
SELECT n, n % 100, (n::bigint * 7919 % 1000000) / 100.0 + {more}, timestamptz '2020-01-01 UTC' + n * interval '1 min',
       'account ' || n
  FROM generate_series({first}, {last}) n;
CREATE INDEX ON public.account (branch);
VACUUM ANALYZE public.account;
"""
BY_HAND: Final = """
INSERT INTO public.by_hand SELECT * FROM staged
ON CONFLICT (id) DO UPDATE SET (branch, balance, opened, filler)
    = (excluded.branch, excluded.balance, excluded.opened, excluded.filler)
"""
CHECKSUM: Final = "SELECT count(*) || ' ' || sum(('x' || substr(md5(a::text), 1, 15))::bit(60)::bigint) FROM account a"
PLAN: Final = """
name: bench
source: legacy
target: shop
mappings: [{target: public.account, source: public.account, mode: merge}]
"""
PHASE: Final = "everyone"
PARTITION: Final = "32MiB"
RUN: Final = "bench/1"
HEADING: Final = "## Taking a merge back"


async def run(connection: Connection, script: str) -> None:
    """Statement by statement: VACUUM stands outside of any transaction."""
    for statement in script.split(";"):
        if statement.strip():
            await connection.execute(statement)


async def prepare(source: Connection, target: Connection, rows: int, into: int) -> ResolvedMapping:
    """Fills both tables and does what a run does before its first row."""
    await run(source, TABLE.format(first=into - rows // 2 + 1, last=into + rows - rows // 2, more=1))
    await run(target, TABLE.format(first=1, last=into, more=0))
    plan = parse_plan(PLAN, Path("bench.yaml")).plan
    surveyed = await survey(source, target, plan, None)
    if surveyed.errors:
        raise RuntimeError(str(surveyed.errors))
    [mapping] = surveyed.mappings
    await schema.install(target)
    held = await lease.claim(target, RUN, plan, "0" * 64, [mapping.target])
    await mappings.store_survey(target, held, RUN, surveyed)
    cut = await partitions.plan_partitions(source, mapping, size_bytes(PARTITION))
    await partitions.store_partitions(target, held, RUN, cut)
    return mapping


async def by_hand(source_dsn: str, target: Connection, target_dsn: str) -> float:
    """The merge without Knarr, on a copy of the table; seconds."""
    await target.execute("CREATE TABLE public.by_hand (LIKE public.account INCLUDING ALL)")
    await target.execute("INSERT INTO public.by_hand SELECT * FROM public.account")
    await run(target, "VACUUM ANALYZE public.by_hand; CHECKPOINT")
    source, writer = await connect(source_dsn, application_name="hand"), await connect(target_dsn, application_name="h")
    started = time.monotonic()
    with tempfile.NamedTemporaryFile() as file:
        await source.copy_from_table("account", schema_name="public", output=Path(file.name), format="binary")
        async with writer.transaction():
            await writer.execute("CREATE TEMPORARY TABLE staged (LIKE public.account) ON COMMIT DROP")
            await writer.copy_to_table("staged", source=Path(file.name), format="binary")
            await writer.execute(BY_HAND.replace("FROM staged", "FROM pg_temp.staged"))
    took = time.monotonic() - started
    await source.close()
    await writer.close()
    await run(target, "DROP TABLE public.by_hand; CHECKPOINT")
    return took


async def merge(source: Connection, target: Connection, target_dsn: str, mapping: ResolvedMapping) -> float:
    """Knarr's merge, one partition after the other; seconds, with recording what the table held."""
    held = await lease.read_lease(target, RUN)
    started = time.monotonic()
    await before.record(target, held, RUN, mapping)

    def again() -> None:
        raise RuntimeError("a benchmark does not reconnect")

    for partition in await partitions.load_partitions(target, RUN, 0):
        await merge_partition(
            source,
            target,
            job(held, mapping, partition),
            lambda rows, size: None,
            reconnect=again,  # type: ignore[arg-type]
        )
    return time.monotonic() - started


def job(held: lease.Lease, mapping: ResolvedMapping, partition: Partition) -> CopyJob:
    """One partition's work."""
    return CopyJob(run_id=RUN, lease=held, mapping=mapping, phase=PHASE, phase_order=[PHASE], partition=partition)


async def undo_here(dsn: str) -> int:
    """In a process of its own: takes the merge back and tells, a line a batch, how far it is and what memory it has."""
    target = await connect(dsn, application_name="bench undo")
    mapping = await mappings.load_mapping(target, RUN, 0)
    held = await lease.read_lease(target, RUN)
    started = time.monotonic()
    first = peak()

    def tell(entries: int) -> None:
        told = {"entries": entries, "seconds": time.monotonic() - started, "first": first, "peak": peak()}
        print(json.dumps(told), flush=True)

    await undo_phase(target, held, RUN, mapping, PHASE, on_progress=tell)
    tell(-1)
    await target.close()
    return 0


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def undo_killed_once(dsn: str, entries: int) -> tuple[float, int, int, int]:
    """Takes it back in two processes, of which the first is killed.

    Returns seconds, entries that the first took back, and by how much a process grew and how large it was, in bytes.
    """
    command = [sys.executable, __file__, "--undo-here", dsn]
    total, done, growth, most = 0.0, 0, 0, 0
    for kill_at in (entries // 2, None):
        last: dict[str, float] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = json.loads(line)
                if kill_at is not None and last["entries"] >= kill_at:
                    process.send_signal(signal.SIGKILL)
                    break
        if kill_at is not None:
            done = int(last["entries"])
        elif process.returncode:
            raise RuntimeError(f"the second process ended with {process.returncode}")
        total += last["seconds"]
        growth, most = max(growth, int(last["peak"] - last["first"])), max(most, int(last["peak"]))
    return total, done, growth, most


async def bench(rows: int, into: int) -> str:
    """The whole benchmark; its section in markdown."""
    with tempfile.TemporaryDirectory(prefix="knarr-bench-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # noqa: PTH101 (the servers run as another account)
        clusters = [Cluster.start(Path(folder) / name, durable=False) for name in ("source", "target")]
        try:
            dsns = [cluster.create_database("bench") for cluster in clusters]
            source, target = [await connect(dsn, application_name="bench") for dsn in dsns]
            mapping = await prepare(source, target, rows, into)
            was = await target.fetchval(CHECKSUM)
            hand = await by_hand(dsns[0], target, dsns[1])
            merged = await merge(source, target, dsns[1], mapping)
            [row] = await target.fetch(
                "SELECT sum(inserted)::bigint AS i, sum(updated)::bigint AS u, count(*) AS n FROM knarr.ledger"
            )
            size = await target.fetchval("SELECT pg_total_relation_size('knarr.undo')")
            await lease.raise_epoch(target, RUN)
            back, first, growth, most = await asyncio.to_thread(undo_killed_once, dsns[1], rows)
            same = await target.fetchval(CHECKSUM) == was
            left = await ledger.phase_totals(target, RUN, 0)
            version = await target.fetchval("SHOW server_version")
            await source.close()
            await target.close()
        finally:
            for cluster in clusters:
                cluster.destroy()
    if not same or left:
        raise RuntimeError("the table is not what it was")
    lines = [
        HEADING,
        "",
        f"`python bench/undo.py --rows {rows} --into {into}`, {datetime.now(UTC):%Y-%m-%d}, PostgreSQL {version}, "
        f"{platform.machine()}, Python {platform.python_version()}; one run, ratios are what counts.",
        "",
        f"{rows:,} rows of about 130 bytes merged into {into:,} with two indexes: {row['i']:,} inserted, {row['u']:,} "
        f"updated, in {row['n']} partitions one after the other.",
        "",
        "| what | seconds | ratio |",
        "| --- | ---: | ---: |",
        f"| by hand: COPY, INSERT ... ON CONFLICT DO UPDATE; can't be taken back | {hand:.1f} | {hand / merged:.2f} |",
        f"| Knarr's merge, with undo log and the record of what was there | {merged:.1f} | 1.00 |",
        f"| taking it back, killed by SIGKILL after {first:,} entries and begun again, with its proof | {back:.1f} "
        f"| {back / merged:.2f} |",
        "",
        f"The undo log took {size / 2**20:,.0f} MiB. The process that took it back had {most / 2**20:,.0f} MiB at "
        f"most, {growth / 2**20:.1f} MiB more than when it began. The table was then what it was, by an MD5 of every "
        "row.",
        "",
    ]
    return "\n".join(lines)


def put(section: str, file: Path) -> None:
    """Writes the section into the document, over an older one of the same heading."""
    text = file.read_text(encoding="utf-8") if file.exists() else "# Benchmarks\n"
    start = text.find(f"\n{HEADING}\n")
    if start < 0:
        file.write_text(f"{text.rstrip()}\n\n{section}", encoding="utf-8")
        return
    end = text.find("\n## ", start + 1)
    rest = text[end:] if end >= 0 else "\n"
    file.write_text(f"{text[:start].rstrip()}\n\n{section.rstrip()}\n{rest}", encoding="utf-8")


def main() -> int:
    """Parses the arguments, runs, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--into", type=int, default=2_000_000)
    parser.add_argument("-o", "--output", type=Path, help="a markdown file whose section is written anew")
    parser.add_argument("--undo-here", metavar="DSN", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.undo_here:
        return asyncio.run(undo_here(given.undo_here))
    section = asyncio.run(bench(given.rows, given.into))
    print(section)
    if given.output:
        given.output.parent.mkdir(exist_ok=True)
        put(section, given.output)
    return 0


if __name__ == "__main__":
    run_and_exit(main)
