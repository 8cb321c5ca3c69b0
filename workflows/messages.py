"""What people and programs say to a run, and what it answers: inputs, updates, signals and queries."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from activities.models import Compensation, MappingSummary, Message, PlanDocument, RunContext, VerdictSummary
from workflows.settings import RunSettings

State = Literal[
    "starting",
    "running",
    "paused",
    "soaking",
    "waiting for approval",
    "waiting for a person",
    "unwinding",
    "at checkpoint",
    "kept open",
    "completed",
    "rolled back",
    "aborted",
    "refused",
]

MappingState = Literal["waiting", "copying", "building", "copied", "verified", "taken back"]

SIGNALS = ("pause", "resume", "abort")
UPDATES = ("pause", "resume", "abort", "approve", "complete", "rollback", "retry", "skip")


class Order(Message):
    """What an operator says to a run: who, and why. Every order is validated and audited."""

    actor: str = Field(min_length=1, max_length=200)
    reason: str = Field(default="", max_length=2_000)


class RollbackOrder(Order):
    """Take the run back: to a checkpoint by name, or to the start."""

    to: str = Field(
        default="",
        description="a checkpoint's name, or start; empty: the last checkpoint if there is one, else the start, and "
        "the start too when the run has moved everything and is kept open",
    )


class Accepted(Message):
    """The answer to an order: what the run does now."""

    state: State
    message: str


class MappingProgress(Message):
    """How far one mapping is, in the current phase."""

    number: int
    name: str
    state: MappingState
    rows: int
    estimated_rows: int
    partitions_done: int
    partitions: int


class Status(Message):
    """Where a run is (query `status`)."""

    run_id: str
    plan: str
    source: str
    target: str
    state: State
    phase: str
    step: str
    waiting_for: str = Field(default="", description="what the run waits for, and the command that answers; or empty")
    checkpoints: list[str] = Field(default_factory=list)
    started_at: datetime
    updated_at: datetime
    rows: int
    estimated_rows: int
    verdict: VerdictSummary | None = None
    message: str = ""


class Progress(Message):
    """How far a run is, mapping by mapping (query `progress`)."""

    status: Status
    mappings: list[MappingProgress]
    verified_rows: int
    copy_started_at: datetime | None
    copy_ended_at: datetime | None


class PartitionsDone(Message):
    """A mapping's child tells its parent how far it is (signal `partitions_done`)."""

    mapping: int
    phase: str
    partitions: int
    rows: int
    bytes: int
    errors: int = Field(default=0, description="attempts that failed, of the partitions that are done")


class Pausing(Message):
    """A parent tells its children to hold or to go on (signal `hold`)."""

    paused: bool


class SagaState(Message):
    """What a saga needs to go on in a new run of the same workflow: what is registered, what is done."""

    registered: list[tuple[str, Compensation]] = Field(default_factory=list, description="step key, in order")
    done: dict[str, JsonValue] = Field(default_factory=dict, description="step key: its result")
    checkpoints: dict[str, int] = Field(default_factory=dict, description="name: how many were registered then")


class MigrationInput(Message):
    """The start of a run. `resumed` is set by the workflow itself when it continues as new."""

    plan_name: str
    source: str
    target: str
    pause_before: list[str] = Field(
        default_factory=list, description="steps before which the run pauses: copy, verify, seal"
    )
    plan: PlanDocument  # the Web UI shows fields in this order, and this one fills its box
    resumed: "Resumed | None" = None


class Resumed(Message):
    """What the workflow hands to itself across continue-as-new."""

    run: RunContext
    settings: RunSettings
    saga: SagaState
    progress: Progress
    paused: bool
    pause_before: list[str]
    started_at: datetime
    decided: int
    round: int
    skipped: list[str] = Field(default_factory=list, description="compensations that a person left out")
    errors: dict[str, int] = Field(default_factory=dict, description="failed attempts to copy, by phase and mapping")
    clock_from: datetime | None = Field(default=None, description="since when the deadline counts, if not the start")


class MoveInput(Message):
    """One mapping's rows of one phase (child workflow)."""

    run: RunContext
    mapping: MappingSummary
    phase: str
    window: int = Field(ge=1, description="partitions at once")
    paused: bool = False
    next_partition: int = 0
    rows: int = 0
    bytes: int = 0
    errors: int = Field(default=0, description="attempts that have failed so far")
    errors_allowed: int | None = Field(default=None, description="the parent is told of each error; None: it is not")


class Moved(Message):
    """What a mapping's child moved."""

    partitions: int
    rows: int
    bytes: int
    errors: int = Field(default=0, description="attempts that failed on the way")


class VerificationInput(Message):
    """Verification of everything moved up to and including a phase (child workflow)."""

    run: RunContext
    phase: str
    round: int
    mappings: list[MappingSummary]
    cross_checks: list[str]
    downstream_checks: list[str] = Field(default_factory=list)
    window: int = Field(ge=1)
    paused: bool = False
    next_unit: int = 0
    rows: int = 0


class VerifiedRows(Message):
    """Verification tells its parent how far it is (signal `verified_rows`)."""

    rows: int
    mapping: int = -1
