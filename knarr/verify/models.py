"""What verification finds and says: findings, check results and verdicts, as frozen documents."""

import hashlib
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from knarr.audit.canonical import digest_of

CheckKind = Literal["parity", "integrity", "rule", "cross", "downstream"]
Outcome = Literal["passed", "failed", "could not run"]
FindingKind = Literal[
    "missing",  # the target lacks the row
    "extra",  # the target holds a row that the mapping does not give
    "doubled",  # the target holds the row once more than the mapping gives it
    "changed",  # one column of a row is not what the mapping gives
    "null key",
    "orphan",  # a foreign key points nowhere
    "constraint",  # a constraint, index or NOT NULL is broken, not validated or not usable
    "sequence",  # the next value of a sequence is already in use
    "object",  # an object of the plan is not there
    "rule",
    "cross",
    "downstream",
    "coverage",  # a part of the rows was checked by nobody
]

SHOWN_CHARACTERS: Final = 200


class Evidence(BaseModel):
    """Immutable, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(Evidence):
    """One discrepancy: where, what was expected, what was found, what to do. Values are text; None is SQL's NULL."""

    mapping: str = Field(description="target table, or empty")
    kind: FindingKind
    key: dict[str, str | None] = Field(default_factory=dict, description="key column: value; empty if there is no key")
    column: str | None = Field(default=None, description="the column it concerns; None: the row as a whole")
    expected: str | None = None
    found: str | None = None
    hint: str = ""


class CheckKey(Evidence):
    """What names a check within one verification of one phase; the primary key of its result."""

    kind: CheckKind
    name: str
    mapping: int = Field(default=-1, description="-1: of the run as a whole")
    partition: int = Field(default=-1, description="-1: of the mapping as a whole")

    def __str__(self) -> str:
        part = "" if self.partition < 0 else f", partition {self.partition}"
        return f"{self.kind} check {self.name!r}{part}"


class CheckResult(CheckKey):
    """What one check computed. `findings` is capped, `counts` and `findings_total` never are."""

    outcome: Outcome
    message: str = Field(default="", description="for people: what was compared, or why it could not be")
    source_rows: int | None = None
    target_rows: int | None = None
    source_checksum: str | None = None
    target_checksum: str | None = None
    counts: dict[str, int] = Field(
        default_factory=dict, description="kind of finding: how many; a changed row counts once, not once a column"
    )
    findings_total: int = 0
    findings: list[Finding] = Field(default_factory=list)
    seconds: float = 0.0
    sql: list[str] = Field(default_factory=list, description="the statements behind it, in order")
    compared: list[str] = Field(default_factory=list, description="what was held against what, a line each")
    method: str = Field(default="", description="parity: the hash that both servers were found to agree on")
    lower: list[str] | None = Field(
        default=None, description="parity: the partition's bounds, for the proof of coverage"
    )
    upper: list[str] | None = None
    source_snapshot: str = Field(default="", description="when the source was read, and what it could see")
    target_snapshot: str = ""

    @property
    def check(self) -> CheckKey:
        """The key alone."""
        return CheckKey(kind=self.kind, name=self.name, mapping=self.mapping, partition=self.partition)


class CheckSummary(Evidence):
    """One check in the verdict; the partitions of one mapping's parity check are one check."""

    kind: CheckKind
    name: str
    mapping: int
    outcome: Outcome
    message: str
    partitions: int = Field(description="0: not partitioned")
    unlike_partitions: list[int] = Field(default_factory=list, description="the first hundred that did not pass")
    source_rows: int | None = None
    target_rows: int | None = None
    source_checksum: str | None = Field(default=None, description="sum over the partitions")
    target_checksum: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    findings_total: int = 0
    findings: list[Finding] = Field(default_factory=list)
    seconds: float = 0.0
    sql: list[str] = Field(default_factory=list)
    compared: list[str] = Field(default_factory=list)
    method: str = ""
    results_digest: str = Field(description="SHA-256 over the canonical JSON of the results behind it, in order, hex")


class Verdict(Evidence):
    """The outcome of verifying one phase (or, alone, the whole plan): every check by name, and what it found."""

    document: Literal["knarr verdict"] = "knarr verdict"
    schema_version: Literal[1] = 1
    run_id: str = Field(description="empty: verified alone, without a run")
    phase: str
    round: int
    plan_name: str
    plan_hash: str
    passed: bool
    message: str = Field(description="the verdict in one sentence")
    checks: list[CheckSummary]
    findings_total: int
    source_version: str = ""
    target_version: str = ""
    source_identity: str = ""
    target_identity: str = ""
    knarr_version: str = ""
    started_at: datetime
    ended_at: datetime

    @property
    def digest(self) -> str:
        """SHA-256 of the document's canonical JSON, hex; it is in the row and in the audit trail, too."""
        return digest_of(self.model_dump(mode="json"))


def shorten(text: str | None) -> str | None:
    """A value as findings show it: whole up to 200 characters, else its start, its length and its SHA-256.

    knarr.verify.checksum says the same in SQL, so that a long value never leaves its server.
    """
    if text is None or len(text) <= SHOWN_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters, sha256 {digest})"
