"""The two acts: a migration that succeeds, and one that meets a fault and takes itself back."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from knarr.plan.load import LoadedPlan, canonical_json, digest_of
from knarr.verify.models import Finding
from starter import runs, watching
from starter.demo.stage import Stage
from starter.exits import Exit
from starter.following import Ending, Snapshot
from starter.ordering import give
from starter.output import Output
from starter.trails import found_run, write_report
from starter.verdicts import stored_verdict, told
from workflows.messages import Order

# Another team's table in the second target: it must be there afterwards as it was before.
BYSTANDER: Final = """
CREATE SCHEMA billing;
CREATE TABLE billing.invoice (id integer PRIMARY KEY, issued_on date NOT NULL, amount numeric(12,2) NOT NULL);
INSERT INTO billing.invoice SELECT n, date '2026-01-01' + n, n * 1.25 FROM generate_series(1, 500) AS n;
CREATE INDEX ON billing.invoice (issued_on);
"""
CUSTOMER: Final = 42
TAMPER: Final = f"UPDATE shop.customer SET balance = balance + 100 WHERE id = {CUSTOMER};"
BALANCE: Final = f"SELECT balance FROM shop.customer WHERE id = {CUSTOMER};"


class WentWrongError(Exception):
    """An act did not go as told; the message says what was expected and what was seen."""


async def first(output: Output, stage: Stage, plan: LoadedPlan) -> str:
    """Move everything, verify it, check the audit trail, write the report; returns the run's id.

    Raises:
        WentWrongError: the run did not end completed with a verdict that passed, or its trail has faults.
    """
    handle = await _start(output, stage, plan, [])
    ended = await watching.watch(output, stage.settings, stage.service, handle, goodbye="the demo ends", hints=False)
    if ended is not Exit.DONE:
        raise WentWrongError(f"expected a run that completes, saw: {ended.meaning}")
    await _prove(output, stage, handle)
    return handle.id


async def second(output: Output, stage: Stage, plan: LoadedPlan) -> str:
    """Move it again, into another database; tamper with a row before verification; see it found and all taken back.

    Raises:
        WentWrongError: the row was not named with both values, or the target is not what it was.
    """
    database = "shop_again"
    stage.shop.psql(BYSTANDER, database)
    before = _dump(stage, database)
    output.say(f"  the target before: a dump of {len(before.splitlines()):,} lines, SHA-256 {_short(before)}")
    handle = await _start(output, stage, plan, ["verify"])
    paused = await watching.follow(output, stage.service, handle, _paused)
    if paused.exit_code is not Exit.WAITING:
        raise WentWrongError(f"expected a pause before verification, saw: {paused.message}")
    true = stage.shop.psql(BALANCE, database).strip()
    stage.shop.psql(TAMPER, database)
    tampered = stage.shop.psql(BALANCE, database).strip()
    output.say(
        f"\n  paused before verification; somebody tampers with a row:\n    {TAMPER}   -- {true} is now {tampered}\n"
    )
    await give(handle, "resume", Order(actor="demo", reason="the row is tampered with; now verify"))
    ended = await watching.watch(output, stage.settings, stage.service, handle, goodbye="the demo ends", hints=False)
    if ended is not Exit.ROLLED_BACK:
        raise WentWrongError(f"expected a run that rolls itself back, saw: {ended.meaning}")
    finding = await _found(stage, handle.id, database)
    if (finding.expected, finding.found) != (true, tampered):
        raise WentWrongError(f"expected the finding to say {true} and {tampered}, it says: {told(finding)}")
    after = _dump(stage, database)
    if after != before:
        raise WentWrongError(f"the target is not what it was: {_first_difference(before, after)}")
    await _prove(output, stage, handle)
    output.result(f"✓ verification named the row, the column and both values: {told(finding)}")
    output.result(f"✓ the target is what it was before: the dumps are equal, SHA-256 {_short(after)}")
    return handle.id


async def _start(output: Output, stage: Stage, plan: LoadedPlan, pause_before: list[str]) -> runs.RunHandle:
    handle = await runs.start(
        stage.service.client,
        plan,
        task_queue=stage.service.task_queue,
        actor="demo",
        pause_before=pause_before,
        now=datetime.now(UTC),
    )
    output.say(f"  started {handle.id}")
    if stage.stays and not output.err.is_terminal:  # the live screen shows it
        output.say(f"  {stage.service.link(handle.id)}")
    output.say("")
    return handle


def _paused(seen: Snapshot) -> Ending | None:
    if seen.state != "paused" or seen.progress is None:
        return None
    return Ending(Exit.WAITING, "paused", seen.progress.status)


def renamed(plan: LoadedPlan, name: str, target: str) -> LoadedPlan:
    """The same plan under another name and into another target."""
    other = plan.plan.model_copy(update={"name": name, "target": target})
    canonical = canonical_json(other)
    return LoadedPlan(plan=other, canonical=canonical, digest=digest_of(canonical), path=plan.path)


async def _prove(output: Output, stage: Stage, handle: runs.RunHandle) -> None:
    """Check the audit trail against Temporal's history and write the report."""
    found = await found_run(stage.service, handle)
    path = Path("reports") / f"demo-{found.target}.html"
    data = await write_report(stage.settings, found, path)
    if data.doubts:
        raise WentWrongError(f"the evidence does not hold: {data.doubts[0]}")
    if not found.witnesses:
        raise WentWrongError("Temporal's history holds no head of the audit chain: nothing witnesses it")
    entries, seen = len(data.trail.entries), len(found.witnesses)
    counts = f"{entries:,} entries, unbroken; Temporal's history witnesses {seen:,} of them"
    output.result(f"\n✓ audit trail: {counts}")
    output.result(f"✓ report:      {path}")
    if stage.stays:
        output.result(f"✓ Web UI:      {stage.service.link(handle.id)}")


async def _found(stage: Stage, run_id: str, target: str) -> Finding:
    stored = await stored_verdict(stage.settings, run_id, target)
    if stored is None:
        raise WentWrongError("the target keeps no verdict of the run")
    for check in stored.verdict.checks:
        for finding in check.findings:
            if (finding.mapping, finding.key, finding.column) == ("shop.customer", {"id": str(CUSTOMER)}, "balance"):
                return finding
    raise WentWrongError(f"no finding names shop.customer, id = {CUSTOMER}, balance: {stored.verdict.message}")


def _dump(stage: Stage, database: str) -> str:
    """All of a database but Knarr's own schema, which keeps the record of what happened."""
    return stage.shop.pg_dump(database, "--exclude-schema=knarr")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _first_difference(before: str, after: str) -> str:
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    for number, (old, new) in enumerate(pairs, start=1):
        if old != new:
            return f"line {number} of the dump was {old!r} and is {new!r}"
    return f"the dump had {len(before.splitlines()):,} lines and has {len(after.splitlines()):,}"
