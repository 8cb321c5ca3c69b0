"""What a run shows of itself: status, progress, the Web UI's current details and search attributes."""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Final

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from activities.models import MappingSummary, RunContext, VerdictSummary
from workflows.details import current_details
from workflows.messages import MappingProgress, MappingState, PartitionsDone, Progress, Shown, State, Status

PHASE: Final = SearchAttributeKey.for_keyword("KnarrPhase")
STATE: Final = SearchAttributeKey.for_keyword("KnarrState")


class View:
    """Keeps what queries answer, and tells Temporal when it has changed."""

    def __init__(self, run: RunContext, started_at: datetime, phases: Sequence[str]) -> None:
        self._run = run
        self._phases = phases
        self._started_at = started_at
        self._published: tuple[str, str] = ("", "")
        self.state: State = "starting"
        self.phase = ""
        self.step = ""
        self.waiting_for = ""
        self.stop = 0  # the last that a person was asked at
        self.message = ""
        self.verdict: VerdictSummary | None = None
        self.mappings: dict[int, MappingProgress] = {}
        self.verified_rows = 0
        self.copy_started_at: datetime | None = None
        self.copy_ended_at: datetime | None = None
        self._rows_before: dict[int, int] = {}
        self._before_recall = (0, 0)
        self.changed = False

    @property
    def started_at(self) -> datetime:
        """When the run started, also after it has continued as new."""
        return self._started_at

    def show(
        self, state: State | None = None, *, phase: str | None = None, step: str | None = None, waiting_for: str = ""
    ) -> None:
        """Changes what is shown; search attributes are sent only when they changed, since each is an event."""
        self.state = state or self.state
        self.phase = self.phase if phase is None else phase
        self.step = self.step if step is None else step
        self.waiting_for = waiting_for
        if self._published != (self.state, self.phase):
            self._published = (self.state, self.phase)
            workflow.upsert_search_attributes([STATE.value_set(self.state), PHASE.value_set(self.phase or "-")])
        self.tell()

    @property
    def shown(self) -> Shown:
        """What the next run of the workflow shows until it has recalled the mappings."""
        rows, estimated_rows = self._totals()
        return Shown(
            state=self.state,
            phase=self.phase,
            step=self.step,
            message=self.message,
            verdict=self.verdict,
            verified_rows=self.verified_rows,
            rows=rows,
            estimated_rows=estimated_rows,
            copy_started_at=self.copy_started_at,
            copy_ended_at=self.copy_ended_at,
        )

    def restore(self, shown: Shown) -> None:
        """Takes up where the run before this one left off, after continue-as-new."""
        self.state, self.phase, self.step = shown.state, shown.phase, shown.step
        self.message, self.verdict = shown.message, shown.verdict
        self.verified_rows = shown.verified_rows
        self._before_recall = shown.rows, shown.estimated_rows
        self.copy_started_at, self.copy_ended_at = shown.copy_started_at, shown.copy_ended_at

    def recalled(self, rows: Mapping[int, int], verified: Container[int], *, going_back: bool) -> None:
        """What the saga knows of the mappings: rows moved so far, and which have been verified."""
        self._rows_before = dict(rows)
        for number, mapping in self.mappings.items():
            if number in rows:
                state: MappingState = "verified" if number in verified else "copied"
                self.change(number, state=state, rows=rows[number], partitions_done=mapping.partitions)
            elif going_back:
                self.change(number, state="taken back")

    def expect(self, mappings: list[MappingSummary]) -> None:
        """Learns from the survey what there is to do; what is known already stays."""
        for mapping in mappings:
            self.mappings.setdefault(
                mapping.number,
                MappingProgress(
                    number=mapping.number,
                    name=mapping.name,
                    state="waiting",
                    rows=0,
                    estimated_rows=mapping.estimated_rows,
                    partitions_done=0,
                    partitions=mapping.partitions,
                ),
            )

    def change(
        self,
        number: int,
        *,
        state: MappingState | None = None,
        rows: int | None = None,
        partitions_done: int | None = None,
    ) -> None:
        """Changes one mapping's progress; the details follow when all that happened at once has been taken in."""
        now = self.mappings[number]
        self.mappings[number] = now.model_copy(
            update={
                "state": state or now.state,
                "rows": now.rows if rows is None else rows,
                "partitions_done": now.partitions_done if partitions_done is None else partitions_done,
            }
        )
        self.changed = True

    def partitions_done(self, done: PartitionsDone) -> None:
        """A child has told how far it is in this phase."""
        rows = self._rows_before.get(done.mapping, 0) + done.rows
        self.change(done.mapping, rows=rows, partitions_done=done.partitions)

    def moved(self, number: int, rows: int, partitions: int) -> None:
        """All rows of a mapping's phase have been moved."""
        rows += self._rows_before.get(number, 0)
        self._rows_before[number] = rows
        self.change(number, rows=rows, partitions_done=partitions)

    def copying(self) -> None:
        """Copying begins or goes on; the clock leaves out what lies between two phases."""
        if self.copy_started_at and self.copy_ended_at:
            self.copy_started_at = workflow.now() - (self.copy_ended_at - self.copy_started_at)
        self.copy_started_at = self.copy_started_at or workflow.now()
        self.copy_ended_at = None

    def taken_back(self, rows: dict[int, int], verdict: VerdictSummary | None) -> None:
        """What stands after a rollback to a checkpoint: rows by mapping, all of them verified, and the last verdict."""
        self._rows_before = dict(rows)
        for number, mapping in self.mappings.items():
            stands = number in rows
            self.mappings[number] = mapping.model_copy(
                update={
                    "state": "verified" if stands else "waiting",
                    "rows": rows.get(number, 0),
                    "partitions_done": mapping.partitions if stands else 0,
                }
            )
        self.verdict = verdict
        self.verified_rows = sum(rows.values())

    def removed(self, number: int, rows: int) -> None:
        """Rows of a phase that a compensation has taken off the target; the rest is of other phases."""
        left = self._rows_before[number] = max(0, self._rows_before.get(number, 0) - rows)
        self.change(number, state="taken back", rows=left, partitions_done=0)

    def rows_verified(self, rows: int) -> None:
        """Verification has told how far it is."""
        self.verified_rows = rows
        self.changed = True

    def judged(self, verdict: VerdictSummary) -> None:
        """A verdict stands."""
        self.verdict = verdict
        self.verified_rows = verdict.rows
        for number in self.mappings:
            self.change(number, state="verified" if verdict.passed else None)
        self.show(step="verified" if verdict.passed else "verification failed")

    def status(self, checkpoints: list[str]) -> Status:
        """The answer to the query `status`."""
        rows, estimated_rows = self._totals()
        return Status(
            run_id=self._run.run_id,
            plan=self._run.plan,
            source=self._run.source,
            target=self._run.target,
            state=self.state,
            phase=self.phase,
            step=self.step,
            waiting_for=self.waiting_for,
            stop=self.stop if self.state == "waiting for a person" else 0,
            checkpoints=checkpoints,
            started_at=self._started_at,
            updated_at=workflow.now(),
            rows=rows,
            estimated_rows=estimated_rows,
            verdict=self.verdict,
            message=self.message,
        )

    def progress(self, checkpoints: list[str]) -> Progress:
        """The answer to the query `progress`."""
        return Progress(
            status=self.status(checkpoints),
            mappings=list(self.mappings.values()),
            verified_rows=self.verified_rows,
            copy_started_at=self.copy_started_at,
            copy_ended_at=self.copy_ended_at,
        )

    def tell(self) -> None:
        """Gives the Web UI what it shows now."""
        self.changed = False
        now = self.progress([])
        workflow.set_current_details(current_details(now, self._phases, workflow.info().namespace))

    def _totals(self) -> tuple[int, int]:
        if not self.mappings:
            return self._before_recall
        known = self.mappings.values()
        return sum(mapping.rows for mapping in known), sum(mapping.estimated_rows for mapping in known)
