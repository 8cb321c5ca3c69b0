"""What people and programs say to a run, and what it answers: inputs, updates, signals and queries."""

from datetime import datetime
from typing import Literal, NamedTuple

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
REFUSED = "OrderRefused"  # the type of the error by which a run refuses an order
UPDATES = ("pause", "resume", "abort", "approve", "complete", "rollback", "retry", "skip")


class Decision(NamedTuple):
    """One order or criterion, for the audit trail."""

    kind: Literal["operator", "decision"]
    action: str
    actor: str
    reason: str
    answer: str
    accepted: bool


class Order(Message):
    """What an operator says to a run: who, and why. Every order is validated and audited."""

    actor: str = Field(min_length=1, max_length=200)
    reason: str = Field(default="", max_length=2_000)


class RollbackOrder(Order):
    """Take the run back: to a checkpoint by name, or to the start."""

    to: str = Field(
        default="",
        description="a checkpoint's name (PHASE, or PHASE/MAPPING for the rows of that phase up to that mapping), or "
        "start; empty: the last phase that was verified if there is one, else the start, and the start too when the "
        "run has moved everything and is kept open. A mapping's checkpoint is only gone back to by its name",
    )


class AnswerOrder(Order):
    """What a person decides about a stop: `retry` or `skip`."""

    stop: int = Field(default=0, ge=0, description="the number of the stop that this answers; 0: whichever stands now")


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
    stop: int = Field(default=0, description="the number of the stop that a person is waited for at; 0: of none")
    checkpoints: list[str] = Field(
        default_factory=list, description="PHASE or PHASE/MAPPING, in the order in which they were verified"
    )
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
    epoch: int = Field(default=0, description="the epoch that the child works under; 0: a child of before")


class Pausing(Message):
    """A parent tells its children to hold or to go on (signal `hold`)."""

    paused: bool


class SagaState(Message):
    """What a saga needs to go on in a new run of the same workflow: what is registered, what is done.

    A step of a mapping is three numbers, so that thousands of mappings fit into one payload.
    """

    kinds: list[tuple[str, Compensation]] = Field(
        default_factory=list, description="steps that differ only by their mapping: name without its number, undo"
    )
    steps: list[tuple[int, int, int | None]] = Field(
        default_factory=list,
        description="in the order of registration: place in `kinds`, mapping or -1, what it counted; None: not done",
    )
    results: dict[str, JsonValue] = Field(default_factory=dict, description="step: its result, where it is needed")


class Turn(Message):
    """Why the run turns back, how far, and how it is to end then."""

    kind: Literal["abort", "rollback", "failure"]
    to: str = Field(description="a checkpoint's name, or start")
    actor: str
    reason: str
    error_type: str = ""

    @property
    def ends_as(self) -> Literal["aborted", "rolled back"]:
        """The state that the run's record closes with when everything is taken back."""
        return "aborted" if self.kind == "abort" else "rolled back"


class Shown(Message):
    """What a run shows of itself, carried along; how far each mapping is follows from the saga and the survey."""

    state: State
    phase: str
    step: str
    message: str
    verdict: VerdictSummary | None
    verified_rows: int
    rows: int
    estimated_rows: int
    copy_started_at: datetime | None
    copy_ended_at: datetime | None


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
    """What the workflow hands to itself across continue-as-new: numbers. Names are recalled from the target's knarr

    schema, so that this stays far below Temporal's 2 MB for a payload with thousands of mappings.
    """

    run: RunContext
    settings: RunSettings
    saga: SagaState
    shown: Shown
    paused: bool
    pause_before: list[str]
    started_at: datetime
    decided: int
    round: int
    skipped: list[str] = Field(default_factory=list, description="compensations that a person left out")
    left: list[str] = Field(default_factory=list, description="what is not what it was, since others have written")
    errors: dict[str, int] = Field(default_factory=dict, description="failed attempts to copy, by phase and mapping")
    clock_from: datetime | None = Field(default=None, description="since when the deadline counts, if not the start")
    turn: Turn | None = Field(default=None, description="the run is being taken back")
    raised: bool = Field(default=True, description="whether the epoch has been raised for `turn`")
    cancelled: bool = Field(default=False, description="whether Temporal's cancellation came before")
    stops: int = Field(default=0, description="how often a person has been asked")
    asked: str = Field(default="", description="the problem of the last stop, which nobody has answered; or empty")
    unrecorded: list[Decision] = Field(default_factory=list, description="what could not be put on record yet")


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


class Verifiable(Message):
    """A mapping, for verification."""

    number: int
    name: str
    partitions: int


class VerificationInput(Message):
    """Verification of everything moved up to and including a phase (child workflow)."""

    run: RunContext
    phase: str
    round: int
    mappings: list[Verifiable]
    cross_checks: list[str]
    downstream_checks: list[str] = Field(default_factory=list)
    window: int = Field(ge=1)
    paused: bool = False
    next_unit: int = 0
    rows: int = 0


class VerifiedRows(Message):
    """Verification tells its parent how far it is (signal `verified_rows`)."""

    rows: int
    round: int
    checked: list[int] = Field(default_factory=list, description="mappings whose checks have all run since it told")
    epoch: int = Field(default=0, description="the epoch that the child works under; 0: a child of before")
