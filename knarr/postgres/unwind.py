"""Ending a run whose workflow is gone, from what the target's knarr schema knows of it: taken back, or let stand.

Unwinding has the same effects in the same order as the saga's compensations, by the same functions. Every step holds
when it is done already, so an unwinding that was killed is begun again; nothing is asked of Temporal here.
"""

from collections.abc import Callable, Sequence
from graphlib import TopologicalSorter
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from knarr.audit import chain
from knarr.errors import PlanError
from knarr.plan.models import Plan
from knarr.plan.resolved import ResolvedMapping, Stage
from knarr.postgres import lease, mappings, objects, others, remove, runs, schema, sequences, undo, undo_log
from knarr.postgres.doubt import ReachSource
from knarr.postgres.failures import classified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.selection import phase_predicate
from knarr.postgres.sequences import Reset
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction

LAST: Final[tuple[Stage, ...]] = ("foreign keys",)
AFTER_ROWS: Final[tuple[Stage, ...]] = ("keys", "indexes", "constraints")
BEFORE_ROWS: Final[tuple[Stage, ...]] = ("before", "table")
# There may be none to drop, as where a run merges.
SPOKEN: Final = {LAST: "foreign keys", AFTER_ROWS: "keys, indexes and constraints", BEFORE_ROWS: "tables and types"}

UNSEAL: Final = "UPDATE knarr.run SET state = 'running' WHERE run_id = $1 AND state = 'sealed'"
TAKEN_OVER: Final = "SELECT EXISTS (SELECT FROM knarr.audit WHERE run_id = $1 AND entry_key = $2)"
REMOVE_CHECKPOINTS: Final = "DELETE FROM knarr.checkpoint WHERE run_id = $1 RETURNING name"
WITHDRAW: Final = "UPDATE knarr.verdict SET withdrawn = true WHERE run_id = $1 AND NOT withdrawn RETURNING phase"


class Unwound(BaseModel):
    """What an unwinding took back; zeros where an earlier one, or the run itself, had done so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    changes: int = Field(default=0, description="entries of the undo log, for tables that had rows")
    objects: int
    sequences: int
    verdicts: int
    left: list[str] = Field(default_factory=list, description="what is not as it was, since others have written")


async def unwind(
    target: Connection,
    reach_source: ReachSource,
    run_id: str,
    *,
    actor: str,
    reason: str,
    on_step: Callable[[str], None] = lambda step: None,
) -> Unwound:
    """Takes everything back that the run did to the target, and closes its record as 'rolled back'.

    The epoch is raised first: whatever still writes for the run, a frozen worker or a workflow that somebody started
    again, can't commit from then on.

    Args:
        reach_source: gives the run's source; asked only when the target alone can't tell which phase a row is of.
        on_step: told what is being done, for people.

    Raises:
        PlanError: the run is not known here, something outside the run depends on what it made, or a privilege lacks.
        LostLease: the run has completed and let go of the target; one that was rolled back gives zeros.
        DataError: rows are not as the run left them; the message names the table. What was taken back stays so.
        TransientError: a server was in the way.
    """
    await schema.upgrade(target)
    record = await runs.load_run(target, run_id)
    if record.state in ("rolled back", "aborted"):
        return Unwound(rows=0, objects=0, sequences=0, verdicts=0)
    on_step("ending whatever still writes")
    answer = "taking everything back from the ledger, without Temporal"
    held = await _take_over(target, run_id, "unwind", actor, reason, answer)
    unwinding = _Unwinding(target, reach_source, run_id, held, record.plan, on_step)
    verdicts = await unwinding.withdraw()
    resolved = await mappings.load_mappings(target, run_id)
    dropped = rows = moved = 0
    for mapping in reversed(resolved):
        dropped += await unwinding.drop(mapping.number, mapping.name, LAST)
    for phase in reversed(unwinding.phases):
        for mapping in reversed(_in_order(resolved)):
            moved += await unwinding.reset_sequences(mapping, phase)
            if unwinding.is_first(mapping, phase):
                # Later phases are found by key, and want its index.
                dropped += await unwinding.drop(mapping.number, mapping.name, AFTER_ROWS)
            rows += await unwinding.remove_rows(mapping, phase)
    for mapping in reversed(resolved):
        dropped += await unwinding.drop(mapping.number, mapping.name, BEFORE_ROWS)
    dropped += await unwinding.drop(objects.OF_THE_RUN, "the run", BEFORE_ROWS)
    on_step("releasing the tables")
    await lease.release(target, run_id, "rolled back")
    return Unwound(
        rows=rows,
        changes=unwinding.changes,
        objects=dropped,
        sequences=moved + unwinding.sequences,
        verdicts=verdicts,
        left=unwinding.left,
    )


def _in_order(resolved: Sequence[ResolvedMapping]) -> list[ResolvedMapping]:
    """As rows were written: what foreign keys in force point at before what points at it."""
    by_number = {mapping.number: mapping for mapping in resolved}
    order = TopologicalSorter({number: mapping.depends_on for number, mapping in by_number.items()}).static_order()
    return [by_number[number] for number in order if number in by_number]


async def let_stand(target: Connection, run_id: str, *, actor: str, reason: str) -> int:
    """Ends a run that was sealed, as `complete` does: its rows stay, and its tables are free; again is a no-op.

    Returns how many entries of the undo log were dropped.

    Raises:
        PlanError: the run is not known here, or was not sealed: nobody has proved what stands there.
        LostLease: it has been rolled back.
        TransientError: the server was in the way.
    """
    record = await runs.load_run(target, run_id)
    if record.state == "completed":
        return 0
    if record.state != "sealed":
        raise PlanError(
            f"run {run_id} is {record.state}, not sealed: no verdict on all of it stands, so it can't be let stand",
            hint="take it back: knarr doctor --unwind RUN",
        )
    answer = "completed without Temporal: it can no longer be taken back"
    held = await _take_over(target, run_id, "complete", actor, reason, answer)
    dropped = await undo_log.drop_undo_log(target, held, run_id, limits=record.plan.limits)
    await lease.release(target, run_id, "completed")
    return dropped


async def _take_over(target: Connection, run_id: str, action: str, actor: str, reason: str, answer: str) -> Lease:
    """Puts on record who wants what, and takes the right to write away from everybody else."""
    standing = await lease.read_lease(target, run_id)
    body = {"action": action, "actor": actor, "reason": reason, "accepted": True, "answer": answer}
    with classified(f"recording: {action}"):
        async with transaction(target):
            if await target.fetchval(TAKEN_OVER, run_id, f"doctor {action}/{standing.epoch - 1}"):
                # The standing epoch is an earlier attempt's: what was decided under it is the answer to its stop.
                await others.carry_on(target, run_id, standing.epoch, standing.epoch + 1)
            await chain.append(target, run_id, f"doctor {action}/{standing.epoch}", "operator", body)
    return await lease.raise_epoch(target, run_id, reason=f"knarr doctor: {action}")


class _Unwinding:
    """One unwinding: its connections and its lease, and the steps that it is made of."""

    def __init__(
        self,
        target: Connection,
        reach_source: ReachSource,
        run_id: str,
        held: Lease,
        plan: Plan,
        on_step: Callable[[str], None],
    ) -> None:
        self._target = target
        self._reach_source = reach_source
        self._run_id = run_id
        self._lease = held
        self._plan = plan
        self._on_step = on_step
        self.left: Final[list[str]] = []
        self.sequences = 0
        self.changes = 0
        self.phases: Final = [phase.phase for phase in plan.rollout]

    def is_first(self, mapping: ResolvedMapping, phase: str) -> bool:
        """Whether this is the first phase that has rows of the mapping: its keys were built after them."""
        having = [name for name in self.phases if phase_predicate(mapping, self.phases, name) is not None]
        return having[:1] == [phase]

    async def withdraw(self) -> int:
        """The seal, the checkpoints and the verdicts no longer stand; returns how many verdicts stood."""
        self._on_step("withdrawing the verdicts")
        with classified("withdrawing the verdicts"):
            async with fenced(self._target, self._lease, limits=self._plan.limits):
                await self._target.execute(UNSEAL, self._run_id)
                checkpoints = await self._target.fetch(REMOVE_CHECKPOINTS, self._run_id)
                verdicts = await self._target.fetch(WITHDRAW, self._run_id)
                summary = f"{len(verdicts)} verdicts withdrawn, {len(checkpoints)} checkpoints removed"
                await self._record("verify", summary)
        return len(verdicts)

    async def drop(self, mapping: int, name: str, stages: tuple[Stage, ...]) -> int:
        """Objects of one mapping, or of the run, newest first; each is audited where it is dropped."""
        self._on_step(f"{name}: looking for {SPOKEN[stages]} that the run made")
        return await objects.drop_objects(
            self._target,
            self._lease,
            self._run_id,
            mapping,
            list(stages),
            changed_since=self._plan.rollback.changed_since,
            limits=self._plan.limits,
        )

    async def reset_sequences(self, mapping: ResolvedMapping, phase: str) -> int:
        """Sequences stand where they stood before the phase; those of a table that was filled go with its rows."""
        if not mapping.occupied:
            return 0
        reset = await sequences.reset_sequences(
            self._target, self._lease, self._run_id, mapping.number, phase, limits=self._plan.limits
        )
        if reset != Reset():
            self._on_step(f"{mapping.name}: sequences: {reset}")
            with classified("recording the sequences"):
                async with fenced(self._target, self._lease):
                    await self._record("sequences", str(reset), mapping=mapping, phase=phase, left=reset.stay)
            self.left.extend(reset.stay)
        return reset.put_back

    async def remove_rows(self, mapping: ResolvedMapping, phase: str) -> int:
        """The phase's rows of one mapping, with their ledger rows; changes to a table that had rows count apart."""
        self._on_step(f"{mapping.name}: taking back the rows of phase {phase}")
        if mapping.occupied:
            undone = await undo.undo_phase(
                self._target,
                self._lease,
                self._run_id,
                mapping,
                phase,
                changed_since=self._plan.rollback.changed_since,
                limits=self._plan.limits,
            )
            self.left.extend(undone.left)
            self.changes += undone.entries
            return 0
        removed = await remove.remove_rows(
            self._target,
            self._reach_source,
            self._lease,
            self._run_id,
            mapping,
            phase,
            self.phases,
            changed_since=self._plan.rollback.changed_since,
            limits=self._plan.limits,
        )
        self.left.extend(removed.left)
        self.sequences += removed.sequences
        return removed.rows

    async def _record(
        self,
        step: str,
        summary: str,
        *,
        mapping: ResolvedMapping | None = None,
        phase: str = "",
        left: Sequence[str] = (),
    ) -> None:
        body: dict[str, object] = {"step": step, "outcome": "done", "summary": summary}
        body |= {"mapping": mapping.number} if mapping else {}
        body |= {"phase": phase} if phase else {}
        body |= {"left": list(left)} if left else {}
        number = mapping.number if mapping else -1
        key = f"unwind/{step}/{number}/{phase}/{self._lease.epoch}"
        await chain.append(self._target, self._run_id, key, "compensation", body)
