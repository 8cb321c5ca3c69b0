"""Verification against its peers, in one run, on the same tables: as ratios, since a machine is never the same twice.

    python bench/verify.py [--rows 100000 1000000] [--rounds 3] [--reladiff PATH] [--pgcopydb PATH] [-o docs/FILE.md]

Two servers of its own on this machine, a pgbench-like table on both, equal and then with 20 rows changed. Each round
shuffles the order; the figure is the median. (a) a full scan of all columns on both sides, (b) reladiff, (c) pgcopydb
compare, where their programs are given, and in any case the bare query that the latter sends to both servers. Peers
come from environments of their own, never from this project's.
"""

import argparse
import asyncio
import os
import platform
import random
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Final

from knarr.local.cluster import Cluster
from knarr.plan.load import parse_plan
from knarr.plan.resolved import ResolvedMapping
from knarr.plan.units import size_bytes
from knarr.postgres.partitions import plan_partitions
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey import survey
from knarr.process import run_and_exit
from knarr.verify.models import CheckResult
from knarr.verify.parity import compare_partition

TABLE: Final = """
CREATE TABLE public.account (
    id integer PRIMARY KEY, branch integer NOT NULL, balance numeric(12,2) NOT NULL, opened timestamptz,
    filler char(84));
INSERT INTO public.account
SELECT n, n % 100, (n::bigint * 7919 % 1000000) / 100.0, timestamptz '2020-01-01 UTC' + n * interval '1 minute',
       'account ' || n
  FROM generate_series(1, {rows}) n;
VACUUM ANALYZE public.account;
"""
CHANGE: Final = "UPDATE public.account SET balance = balance + 1 WHERE id % ({rows} / 20) = 7"
MANY: Final = "UPDATE public.account SET branch = branch + 1 WHERE id % 10 = 3"
SCAN: Final = "SELECT count(id), count(branch), count(balance), count(opened), count(filler) FROM public.account"
# What `pgcopydb compare data` asks of each server (its schema.c): the sum of a 32-bit hash of the whole row's text.
PGCOPYDB: Final = """
SELECT count(1), sum(hashtext((id, branch, balance, opened, filler)::text)::bigint) FROM ONLY public.account
"""
PLAN: Final = """
name: bench
source: legacy
target: shop
mappings: [{target: public.account, source: public.account, mode: fill}]
"""
PARTITIONS_AT_ONCE: Final = 2
LONGEST: Final = 900.0

Method = Callable[[], Awaitable[str]]


class Bench:
    """Both servers, the resolved mapping, and what each method found."""

    def __init__(self, source: Cluster, target: Cluster, arguments: argparse.Namespace) -> None:
        self.dsns = source.dsn("bench"), target.dsn("bench")
        self.arguments = arguments
        self.mapping: ResolvedMapping | None = None

    async def resolve(self) -> None:
        """Surveys both sides once: what a verification costs is asked, not what a survey does."""
        async with Sides(self.dsns) as (source, target):
            plan = parse_plan(PLAN, Path("bench.yaml")).plan
            self.mapping = (await survey(source, target, plan, None)).mappings[0]

    async def knarr(self) -> str:
        """All partitions, two at a time, each pair of sessions taking the next one, as a worker does it."""
        mapping = self.mapping
        assert mapping is not None
        async with AsyncExitStack() as stack:
            pairs = [await stack.enter_async_context(Sides(self.dsns)) for _ in range(PARTITIONS_AT_ONCE)]
            partitions = await plan_partitions(pairs[0][0], mapping, size_bytes("64MiB"))
            rest = iter(partitions)

            async def some(source: Connection, target: Connection) -> list[CheckResult]:
                return [await compare_partition(source, target, mapping, partition) for partition in rest]

            results = list(chain(*await asyncio.gather(*(some(*pair) for pair in pairs))))
        assert not any(result.outcome == "could not run" for result in results), results
        found = sum(result.findings_total for result in results)
        named = sum(len(result.findings) for result in results)
        return f"{found} differ, {named} named by key and column"

    async def scan(self) -> str:
        """What reading every column once costs, on both sides at once, with no comparison."""
        async with Sides(self.dsns) as sides:
            await asyncio.gather(*(side.fetchrow(SCAN) for side in sides))
        return "nothing"

    async def pgcopydb_query(self) -> str:
        """What pgcopydb compare asks, without pgcopydb around it: on both sides at once."""
        async with Sides(self.dsns) as sides:
            rows = await asyncio.gather(*(side.fetchrow(PGCOPYDB) for side in sides))
        return "equal" if rows[0] == rows[1] else "differs, no row named"

    async def reladiff(self) -> str:
        """reladiff -j 4, its best here, with all columns."""
        columns = [word for name in ("branch", "balance", "opened", "filler") for word in ("-c", name)]
        program, (source, target) = self.arguments.reladiff, self.dsns
        command = [program, source, "account", target, "account", "-k", "id", *columns, "-j", "4"]
        out = await asyncio.to_thread(_run, [*command, "--assume-unique-key"], (0, 1))
        return f"{len({line.split()[1] for line in out.splitlines() if line[:2] in ('+ ', '- ')})} keys differ"

    async def pgcopydb(self) -> str:
        """pgcopydb compare data."""
        with tempfile.TemporaryDirectory() as folder:
            command = [self.arguments.pgcopydb, "compare", "data", "--source", self.dsns[0], "--target", self.dsns[1]]
            out = await asyncio.to_thread(_run, [*command, "--dir", folder], (0, 1, 12))
        line = next(line for line in out.splitlines() if "account" in line)
        return "differs, no row named" if "!" in line else "equal"

    def methods(self) -> dict[str, Method]:
        """What is there to be measured."""
        found: dict[str, Method] = {"Knarr": self.knarr, "full scan of all columns": self.scan}
        found["pgcopydb compare's query alone"] = self.pgcopydb_query
        if self.arguments.reladiff:
            found["reladiff -j 4"] = self.reladiff
        if self.arguments.pgcopydb:
            found["pgcopydb compare data"] = self.pgcopydb
        return found


class Sides:
    """A pinned session on each side."""

    def __init__(self, dsns: tuple[str, str]) -> None:
        self._dsns = dsns
        self._open: list[Connection] = []

    async def __aenter__(self) -> tuple[Connection, Connection]:
        self._open = [await connect(dsn, application_name="bench", read_only=True) for dsn in self._dsns]
        return self._open[0], self._open[1]

    async def __aexit__(self, *_: object) -> None:
        for connection in self._open:
            await connection.close()


def _run(command: list[str], good: tuple[int, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    if done.returncode not in good:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


async def measured(bench: Bench, rows: int, what: str) -> list[str]:
    """A table's lines: the median of each method's seconds, its ratio to ours, and what it found."""
    methods, chance = bench.methods(), random.Random(rows)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, str] = {}
    for _ in range(bench.arguments.rounds):
        for name in chance.sample(list(methods), len(methods)):
            started = time.perf_counter()
            found[name] = await methods[name]()
            seconds[name].append(time.perf_counter() - started)
    ours = statistics.median(seconds["Knarr"])
    lines = []
    for name, taken in seconds.items():
        median = statistics.median(taken)
        spread = f"{min(taken):.2f}–{max(taken):.2f}"
        lines.append(f"| {rows:,} | {what} | {name} | {median:.2f} ({spread}) | {median / ours:.2f} | {found[name]} |")
        print(lines[-1], flush=True)
    return lines


async def many(bench: Bench, rows: int) -> str:
    """A tenth of all rows changed: how long it takes to count them all and name the first."""
    started = time.perf_counter()
    found = await bench.knarr()
    line = f"| {rows:,} | every tenth row changed | Knarr | {time.perf_counter() - started:.2f} | | {found} |"
    print(line, flush=True)
    return line


async def bench(arguments: argparse.Namespace) -> int:
    """All sizes, one after the other; prints and, if asked, writes the table."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="knarr-bench-") as folder:
        clusters = [
            Cluster.start(Path(folder) / side, settings={"max_wal_size": "4GB"}) for side in ("source", "target")
        ]
        try:
            version = clusters[0].version
            for rows in arguments.rows:
                for cluster in clusters:
                    cluster.create_database("bench")
                    cluster.psql(TABLE.format(rows=rows), "bench")
                one = Bench(clusters[0], clusters[1], arguments)
                await one.resolve()
                lines += await measured(one, rows, "equal")
                clusters[1].psql(CHANGE.format(rows=rows), "bench")
                lines += await measured(one, rows, "20 rows changed")
                clusters[1].psql(MANY, "bench")
                lines.append(await many(one, rows))
                for cluster in clusters:
                    cluster.drop_database("bench")
        finally:
            for cluster in clusters:
                cluster.destroy()
    head = [
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, "
        f"PostgreSQL {version}, Python {platform.python_version()}, {arguments.rounds} rounds in shuffled order, "
        f"both servers on this machine; load average {os.getloadavg()[1]:.1f} (5 min) when it ended; "
        f"most memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB.",
        "",
        "| rows | target | method | median s (min–max) | ratio to Knarr | found |",
        "|---|---|---|---|---|---|",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    return 0


def main() -> None:
    """Reads the command line; never returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reladiff", help="path of the program")
    parser.add_argument("--pgcopydb", help="path of the program, 0.13 or newer")
    parser.add_argument("-o", "--output", type=Path)
    run_and_exit(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
