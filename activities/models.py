"""What crosses between workflows and activities: references, names and counts; never rows, never secrets."""

from pydantic import BaseModel, ConfigDict, Field

from knarr.audit.chain import AuditHead
from knarr.postgres.lease import Lease


class Message(BaseModel):
    """Immutable, nothing unknown: what both sides of a boundary rely on."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanDocument(Message):
    """A plan as canonical JSON with its SHA-256. It crosses once, at the start; later only references do."""

    digest: str
    canonical: str


class RunContext(Message):
    """Which run this is and what it may write with. Connections are aliases that the worker resolves."""

    run_id: str
    plan: str = Field(description="the plan's name")
    source: str
    target: str
    lease: Lease | None = Field(default=None, description="None before the target is claimed")


class ClaimInput(Message):
    """The first step: install the knarr schema, record the run, take the lease and the tables."""

    run: RunContext
    plan: PlanDocument


class ClaimResult(Message):
    """The lease, and the audit chain's head after the claim."""

    lease: Lease
    head: AuditHead


class RunInput(Message):
    """A step that concerns the run as a whole."""

    run: RunContext


class MappingInput(Message):
    """A step that concerns one mapping in one phase."""

    run: RunContext
    mapping: int
    phase: str


class StepResult(Message):
    """What most steps say: how many things they did, and the audit chain's head as witness for history."""

    count: int = 0
    head: AuditHead
    left: list[str] = Field(default_factory=list, description="what a compensation could not make what it was before")


class MappingSummary(Message):
    """What a workflow knows of a mapping: its number, its name, how much there is to do."""

    number: int
    name: str
    partitions: int
    estimated_rows: int
    estimated_bytes: int
    depends_on: list[int] = Field(default_factory=list)
    foreign_keys: int = 0
    phases: list[str] = Field(description="phases that move rows of this mapping, in rollout order")


class SurveyResult(Message):
    """The surveyed run in numbers. Everything else stands in the target's knarr schema."""

    mappings: list[MappingSummary]
    cross_checks: list[str]
    downstream_checks: list[str] = Field(default_factory=list)
    warnings: int
    head: AuditHead


class CopyInput(Message):
    """A run of consecutive partitions of one mapping: each is one transaction, one ledger row."""

    run: RunContext
    mapping: int
    phase: str
    first: int
    last: int


class CopyProgress(Message):
    """Heartbeat details of a copy: where it is and what it has moved, the open partition included."""

    mapping: int
    partition: int
    rows: int
    bytes: int


class CopyResult(Message):
    """Rows and bytes of the partitions copied, whether in this attempt or found done in the ledger."""

    partitions: int
    rows: int
    bytes: int
    head: AuditHead | None = None
    attempt: int = Field(default=1, description="which attempt this was: those before it failed, or were lost")


class VerifyInput(Message):
    """One unit of verification: a run of partitions, a mapping's integrity and rules, or a cross check."""

    run: RunContext
    phase: str
    round: int
    mapping: int = -1
    first: int = 0
    last: int = -1
    check: str = ""


class VerifyProgress(Message):
    """Heartbeat details of a verification."""

    mapping: int
    partition: int
    rows: int


class VerifyResult(Message):
    """How many checks ran, how many passed, how many rows were compared, how many findings there are."""

    checks: int
    passed: int
    rows: int
    findings: int


class VerdictSummary(Message):
    """The verdict in numbers and in a few lines for people; the document stands in the knarr schema."""

    passed: bool
    checks: int
    failed: int
    rows: int
    findings: int
    first_findings: list[str] = Field(description="at most five lines: where, how many, of what kind, in which columns")
    digest: str
    head: AuditHead
    repairable: list[int] = Field(default_factory=list, description="mappings with unlike rows that can be rewritten")
    unlike: list[int] = Field(default_factory=list, description="mappings of which a check did not pass")


class RepairInput(Message):
    """Rows that one round of verification found unlike, by mapping."""

    run: RunContext
    phase: str
    round: int
    mappings: list[int]


class RepairResult(Message):
    """How many partitions were repaired, how many rows rewritten in them, and which mappings could not be mended."""

    partitions: int
    rows: int
    failed: list[str] = Field(default_factory=list, description="mapping: why; one line each")
    head: AuditHead | None = None


class CheckpointInput(Message):
    """A named point in the saga whose data has been verified."""

    run: RunContext
    name: str


class MappingCheckpoint(Message):
    """A mapping, and the name of the checkpoint that it is to become when its rows of a phase are proved."""

    mapping: int
    name: str


class ProofInput(Message):
    """Mappings whose checks of one round of verification have all run."""

    run: RunContext
    phase: str
    round: int
    mappings: list[MappingCheckpoint]


class ProofResult(Message):
    """Those of them whose checks have all passed, by number: they are checkpoints now."""

    proved: list[int]
    head: AuditHead | None = None


class DecisionInput(Message):
    """Something an operator or a rollback criterion decided, for the audit trail."""

    run: RunContext
    key: str = Field(description="unique within the run; a retried activity appends once")
    kind: str = Field(description="operator or decision")
    action: str
    actor: str
    reason: str
    answer: str
    accepted: bool


class GuardInput(Message):
    """Guards of the plan by name, and for how long they are watched; 0: each is asked once."""

    run: RunContext
    phase: str
    guards: list[str]
    seconds: float = Field(ge=0)


class Breach(Message):
    """A guard whose figure is out of bounds, or has none."""

    guard: str
    figure: float | None = Field(description="None: the query gave no number, or could not be asked")
    reason: str = Field(description="one line: which bound was broken by which figure")


class GuardResult(Message):
    """The first breaches that were met, or none when the time was over."""

    breaches: list[Breach]
    head: AuditHead | None = None


class EndInput(Message):
    """How the run ended: completed, rolled back, aborted."""

    run: RunContext
    state: str


class RaiseResult(Message):
    """The lease with its new epoch; None when the run holds no lease (its claim never happened)."""

    lease: Lease | None


class Compensation(Message):
    """What takes one step back: an activity by name, for a mapping and phase (or the whole run)."""

    activity: str
    summary: str = Field(description="what is taken back, without the mapping's name: that is looked up when needed")
    mapping: int = -1
    phase: str = ""
    name: str = ""
    apart: bool = Field(default=False, description="whether the step can stay while other mappings' are taken back")


class CompensationInput(Message):
    """A compensation with the lease of the moment: the epoch was raised before anything is undone."""

    run: RunContext
    mapping: int = -1
    phase: str = ""
    name: str = ""
