"""What activities write into the audit trail, inside the transaction of the effect that it tells of."""

from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio import activity

from activities.models import RunContext
from knarr.audit import chain
from knarr.postgres.session import Connection


async def stepped(
    target: Connection, run: RunContext, step: str, summary: str, *, mapping: int = -1, phase: str = ""
) -> chain.AuditHead:
    """Records that a step is done; once for each epoch, since a step that was taken back can be done again."""
    return await _append(target, run, "step", step, summary, mapping, phase)


async def compensated(
    target: Connection,
    run: RunContext,
    step: str,
    summary: str,
    *,
    mapping: int = -1,
    phase: str = "",
    left: Sequence[str] = (),
) -> chain.AuditHead:
    """Records that a step has been taken back, and what is not what it was before."""
    return await _append(target, run, "compensation", step, summary, mapping, phase, left)


async def _append(
    target: Connection,
    run: RunContext,
    kind: str,
    step: str,
    summary: str,
    mapping: int,
    phase: str,
    left: Sequence[str] = (),
) -> chain.AuditHead:
    epoch = run.lease.epoch if run.lease else 0
    took = datetime.now(UTC) - activity.info().started_time
    body: dict[str, object] = {
        "step": step,
        "outcome": "done",
        "summary": summary,
        "seconds": round(took.total_seconds(), 3),
    }
    if mapping >= 0:
        body["mapping"] = mapping
    if phase:
        body["phase"] = phase
    if left:
        body["left"] = list(left)
    key = "/".join([kind, step, str(mapping), phase, str(epoch)])
    return await chain.append(target, run.run_id, key, kind, body)
