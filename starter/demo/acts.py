"""The two acts: a migration that succeeds, and one that meets a fault and takes itself back."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from knarr.audit.chain import check_chain, read, read_head
from knarr.audit.gather import gather
from knarr.audit.report import render_report
from knarr.plan.load import LoadedPlan, canonical_json, digest_of
from knarr.postgres.session import connect
from knarr.verify.models import Finding
from starter import runs, watching
from starter.demo.stage import Stage
from starter.evidence import witnesses
from starter.exits import Exit
from starter.following import Ending, Snapshot
from starter.ordering import give
from starter.output import Output
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
    output.result("")
    await _prove(output, stage, handle.id, "shop")
    return handle.id


async def second(output: Output, stage: Stage, plan: LoadedPlan) -> str:
    """Move it again, into another database; tamper with a row before verification; see it found and all taken back.

    Raises:
        WentWrongError: the row was not named with both values, or the target is not what it was.
    """
    database = "shop_again"
    stage.shop.psql(BYSTANDER, database)
    before = _dump(stage, database)
    output.say(f"  the target before: a dump of {len(before.splitlines())} lines, SHA-256 {_short(before)}")
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
    output.result("")
    await _prove(output, stage, handle.id, database)
    output.result(f"✓ verification named the row, the column and both values: {told(finding)}")
    output.result(f"✓ the target is what it was before: the dumps are equal, SHA-256 {_short(after)}")
    return handle.id


async def _start(output: Output, stage: Stage, plan: LoadedPlan, pause_before: list[str]) -> runs.RunHandle:
    handle = await runs.start(
        stage.service.client,
        plan,
        task_queue=stage.settings.task_queue,
        actor="demo",
        pause_before=pause_before,
        now=datetime.now(UTC),
    )
    output.say(f"  started {handle.id}")
    if not output.err.is_terminal:  # the live screen shows it
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


async def _prove(output: Output, stage: Stage, run_id: str, target: str) -> None:
    """Check the audit trail against Temporal's history and write the report."""
    dsn = stage.shop.dsn(target)
    seen = await witnesses(stage.service.client, run_id)
    connection = await connect(dsn, application_name="knarr demo", read_only=True)
    try:
        entries, head = await read(connection, run_id), await read_head(connection, run_id)
        data = await gather(connection, run_id, seen)
    finally:
        await connection.close()
    if faults := check_chain(entries, head, seen):
        raise WentWrongError(f"the audit trail has a fault: {faults[0].message}")
    if not seen:
        raise WentWrongError("Temporal's history holds no head of the audit chain: nothing witnesses it")
    path = Path("reports") / f"demo-{target}.html"
    path.parent.mkdir(exist_ok=True)
    path.write_text(render_report(data), encoding="utf-8")
    output.result(
        f"✓ audit trail: {len(entries)} entries, unbroken, witnessed by {len(seen)} heads in Temporal's history"
    )
    output.result(f"✓ report: {path}   Web UI: {stage.service.link(run_id)}")


async def _found(stage: Stage, run_id: str, target: str) -> Finding:
    verdict = await stored_verdict(stage.settings, run_id, target)
    if verdict is None:
        raise WentWrongError("the target keeps no verdict of the run")
    for check in verdict.checks:
        for finding in check.findings:
            if (finding.mapping, finding.key, finding.column) == ("shop.customer", {"id": str(CUSTOMER)}, "balance"):
                return finding
    raise WentWrongError(f"no finding names shop.customer, id = {CUSTOMER}, balance: {verdict.message}")


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
    return f"the dump had {len(before.splitlines())} lines and has {len(after.splitlines())}"
