"""What a report holds: every fact about one run, as plain frozen models that JSON can carry.

Verdicts and check results are read as documents into small models of this room, so that a report written by an older
or newer version of the verification can still be opened.
"""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from knarr.audit.chain import AuditEntry, AuditHead, ChainFault

SCHEMA_VERSION: Final = 1

Outcome = Literal[
    "proved", "accepted", "differs", "running", "being taken back", "rolled back", "aborted", "not taken back",
    "not verified", "altered",
]  # fmt: skip

# Values of any type are shown to people, never computed with; verification decides how it writes them.
Shown = Annotated[str | None, BeforeValidator(lambda value: value if value is None else str(value))]
ShownKey = Annotated[dict[str, Shown], BeforeValidator(lambda value: value or {})]


class Facts(BaseModel):
    """What this module writes: immutable, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Document(BaseModel):
    """What another room wrote: immutable, more fields than these are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class FindingFacts(Document):
    """One difference, by mapping, key and column."""

    mapping: Shown = None
    kind: str = ""
    key: ShownKey = Field(default_factory=dict)
    column: Shown = None
    expected: Shown = None
    found: Shown = None
    hint: str = ""


class CheckFacts(Document):
    """One check by name, as a verdict sums it up: the partitions of one mapping's parity check are one check."""

    phase: str = ""
    round: int = 1
    kind: str
    name: str
    mapping: int = -1
    outcome: str
    message: str = ""
    partitions: int = Field(default=0, description="0: not partitioned")
    unlike_partitions: list[int] = Field(default_factory=list)
    source_rows: int | None = None
    target_rows: int | None = None
    source_checksum: Shown = None
    target_checksum: Shown = None
    findings_total: int = 0
    findings: list[FindingFacts] = Field(default_factory=list)
    seconds: float = 0.0
    sql: list[str] = Field(default_factory=list)
    compared: list[str] = Field(default_factory=list)
    method: str = ""
    results_digest: str = ""

    @property
    def passed(self) -> bool:
        """Only the one word counts; whatever else stands there is a failure."""
        return self.outcome == "passed"


class StoredCheck(Facts):
    """One result as it is stored: its row's key and outcome, and the document that verification wrote, untouched."""

    phase: str
    round: int
    kind: str
    name: str
    mapping: int
    partition: int
    outcome: str
    computed_at: datetime
    result: dict[str, JsonValue]


class VerdictFacts(Facts):
    """A phase's verdict as verification wrote it, and the digest that the audit trail holds of it."""

    phase: str
    round: int
    passed: bool
    withdrawn: bool
    digest: str
    document: dict[str, JsonValue]


class RunFacts(Facts):
    """The run as its row tells it; times in UTC."""

    run_id: str
    plan_name: str
    plan_hash: str
    description: str = ""
    state: str
    source: str
    target: str
    started_at: datetime
    ended_at: datetime | None = None


class SaidFacts(Facts):
    """What the run's workflow last said of itself; empty where Temporal was not asked."""

    state: str = ""
    waiting_for: str = ""
    message: str = ""


class ChangeFacts(Facts):
    """What became of a table that had rows of its own."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        """For people: 5,000 inserted, 15,000 updated, 0 deleted."""
        return f"{self.inserted:,} inserted, {self.updated:,} updated, {self.deleted:,} deleted"


class MappingFacts(Facts):
    """One mapping, its copy summed over partitions and phases. `seconds` is work, so more than the clock's."""

    number: int
    name: str
    source: str
    mode: str
    key: list[str] = Field(default_factory=list)
    columns: int = 0
    transform: str | None = None
    rules: list[str] = Field(default_factory=list, description="names of the rules that its rows must meet")
    phases: list[str] = Field(default_factory=list, description="phases that name it; the last takes all that remains")
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    changes: ChangeFacts | None = Field(default=None, description="append and merge: by the ledger, repairs included")
    partitions_copied: int = 0
    partitions_planned: int = 0


class ObjectFacts(Facts):
    """One object that the run made on the target."""

    mapping: int
    stage: str
    kind: str
    name: str


class EnvironmentFacts(Facts):
    """Where it happened: versions and identities as the servers gave them."""

    source_version: str = ""
    target_version: str = ""
    source_identity: str = ""
    target_identity: str = ""
    knarr_version: str = ""
    python_version: str = ""
    warnings: list[str] = Field(default_factory=list, description="what the survey noticed and let pass")


class TrailFacts(Facts):
    """The audit trail, whole, so that whoever holds the report can check it alone."""

    entries: list[AuditEntry] = Field(default_factory=list)
    head: AuditHead | None = None
    witnesses: list[AuditHead] = Field(default_factory=list)
    faults: list[ChainFault] = Field(default_factory=list)


class SignatureFacts(Facts):
    """Whether the signatures of the trail's verdicts were checked, with which key, and what came of it."""

    key_id: str | None = Field(default=None, description="of the key that they were checked with; None: not checked")
    verdicts: int = Field(default=0, description="in the trail: each must be signed")
    claimed: dict[str, int] = Field(
        default_factory=dict, description="verdicts by the id of the key that they say signed them; a mere claim"
    )
    doubts: list[str] = Field(default_factory=list, description="a sentence for each verdict that the key did not sign")


class ReportData(Facts):
    """Everything that a report says. Its JSON (`knarr.audit.report.report_json`) and its HTML tell the same."""

    document: Literal["knarr report"] = "knarr report"
    schema_version: Literal[1] = SCHEMA_VERSION
    generated_at: datetime
    outcome: Outcome
    headline: str = Field(description="the verdict in a sentence, for everybody")
    explanation: str = Field(description="what stands behind the sentence, still for everybody")
    doubts: list[str] = Field(default_factory=list, description="why evidence in this report can't be relied on")
    run: RunFacts
    said: SaidFacts = Field(default_factory=SaidFacts)
    environment: EnvironmentFacts
    mappings: list[MappingFacts]
    checks: list[StoredCheck] = Field(description="every result of every round, one a partition")
    verdicts: list[VerdictFacts]
    objects: list[ObjectFacts]
    plan: dict[str, JsonValue]
    trail: TrailFacts
    signatures: SignatureFacts = Field(default_factory=SignatureFacts)

    def mapping_name(self, number: int) -> str:
        """A mapping's name for people; -1 is the run as a whole."""
        return next((mapping.name for mapping in self.mappings if mapping.number == number), "")
