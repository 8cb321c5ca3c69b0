"""The plan after the survey: every wildcard expanded, every column typed, every object spelled out in SQL.

It is stored in the target (`knarr.mapping`), so workflows carry only numbers. Nothing here is for people to write.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Stage = Literal["before", "table", "keys", "indexes", "constraints", "foreign keys"]
STAGES: tuple[Stage, ...] = ("before", "table", "keys", "indexes", "constraints", "foreign keys")


class Frozen(BaseModel):
    """Immutable, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TableName(Frozen):
    """A table by schema and name, unquoted. `str()` gives schema.name for people; SQL goes through identifiers."""

    schema_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema_name}.{self.name}"


class ResolvedColumn(Frozen):
    """One target column that is copied: its source expression and the types on both sides."""

    name: str
    expression: str = Field(description="SQL over the source row, without cast")
    source_type: str = Field(description="format_type() of the expression on the source")
    target_type: str = Field(description="format_type() on the target, with typmod, schema-qualified if not built in")
    base_type: str = Field(description="target_type with domains stripped: what goes over the wire")
    category: Literal["builtin", "enum", "other"] = Field(description="how to cast: enum and other go as text")
    not_null: bool
    collatable: bool
    uncuttable: bool = Field(
        default=False, description="in a key: no range may end between two values of it (knarr.postgres.survey.cuts)"
    )


class ResolvedSequence(Frozen):
    """A sequence of the target that must continue after the rows; sequence names are taken from the catalogue later."""

    column: str
    source_sequence: str | None = Field(default=None, description="quoted name on the source whose position counts too")


class DatabaseObject(Frozen):
    """One object that the run creates on the target, with the exact statements that make it and take it back."""

    kind: Literal[
        "schema",
        "enum",
        "domain",
        "composite",
        "sequence",
        "table",
        "primary key",
        "unique",
        "index",
        "check",
        "exclusion",
        "not null",
        "foreign key",
        "comment",
    ]
    name: str = Field(description="for people, e.g. shop.order, or order_pkey on shop.order")
    stage: Stage
    create: str
    drop: str = Field(description="holds when the object is not there (IF EXISTS)")
    probe: str = Field(description="SELECT that yields one row if the object exists")


class ResolvedMapping(Frozen):
    """One mapping, ready to be executed: everything a copy or a verification needs to know."""

    number: int = Field(ge=0, description="position in the run; the name in every key")
    target: TableName
    source_table: TableName
    source_alias: str = Field(description="alias of the source table in `from_clause`, unquoted")
    from_clause: str = Field(description="SQL after FROM: table, alias and joins")
    where: str | None
    key: list[ResolvedColumn] = Field(description="key columns in order; empty: no key, one partition")
    columns: list[ResolvedColumn] = Field(description="all copied columns in target order, the key's included")
    mode: Literal["create", "fill", "append", "merge"]
    binary: bool = Field(description="COPY format: every type has the same wire form on both sides")
    transform: str | None = None
    transform_columns: list[str] = Field(default_factory=list)
    rules: dict[str, str] = Field(default_factory=dict)
    scope: str | None = None
    delete_missing: bool = Field(default=False, description="merge: target rows that the source lacks are deleted")
    phases: dict[str, str] = Field(default_factory=dict, description="phase name: predicate over the source row")
    objects: list[DatabaseObject] = Field(default_factory=list)
    sequences: list[ResolvedSequence] = Field(default_factory=list)
    depends_on: list[int] = Field(default_factory=list, description="mappings whose rows must be there first (fill)")
    estimated_rows: int = Field(ge=0)
    estimated_bytes: int = Field(ge=0)

    @property
    def occupied(self) -> bool:
        """True for append and merge: the target has rows of its own, and an undo log tells what became of them."""
        return self.mode in ("append", "merge")

    @property
    def name(self) -> str:
        """The mapping's name for people: its target table."""
        return str(self.target)


class Partition(Frozen):
    """A contiguous range of a mapping's key: lower <= key < upper. Bounds are the key columns' values as text.

    `lower` None: from the start; `upper` None: to the end. Row comparison over all key columns, in key order;
    collatable columns compare under COLLATE "C" so that source and target agree where a range ends.
    """

    mapping: int = Field(ge=0)
    number: int = Field(ge=0)
    lower: list[str] | None
    upper: list[str] | None
    estimated_rows: int = Field(ge=0)


class SurveyProblem(Frozen):
    """One thing the survey found: what, where, what was expected, what to do."""

    severity: Literal["error", "warning"]
    where: str = Field(description="mapping, column or connection it concerns")
    found: str
    expected: str = ""
    hint: str = ""
    examples: str = Field(default="", description="keys, or words that may quote a row; never for workflow history")


class Survey(Frozen):
    """What the survey learnt: the resolved mappings, and every problem, not the first alone."""

    source_version: str
    target_version: str
    source_identity: str = Field(description="system identifier and database name")
    target_identity: str
    mappings: list[ResolvedMapping]
    objects: list[DatabaseObject] = Field(description="objects of the run as a whole: schemas, enums")
    problems: list[SurveyProblem]

    @property
    def errors(self) -> list[SurveyProblem]:
        """The problems that forbid the run."""
        return [problem for problem in self.problems if problem.severity == "error"]
