"""The data map as a person writes it: one plan, its mappings, checks, phases, criteria and limits."""

from typing import Annotated, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from knarr.plan import names, short_forms
from knarr.plan.criteria import Guard, RollbackCriteria
from knarr.plan.downstream import DownstreamCheck
from knarr.plan.model import Model
from knarr.plan.proof import Verification
from knarr.plan.resolved import TableName
from knarr.plan.texts import (
    FUNCTION_PATTERN,
    Alias,
    Duration,
    Expression,
    Joins,
    Name,
    PlanName,
    Predicate,
    Query,
    Size,
    Sql,
    SqlType,
    Table,
    holds,
    refusing,
)

# What `Model.model_validate(..., context=FROM_YAML)` refuses although stored plans have it: columns as a list of pairs.
FROM_YAML: Final = {"from": "yaml"}

Action = Literal["no action", "restrict", "cascade", "set null", "set default"]


def _unique(value: object) -> object:
    return refusing(short_forms.unique, value)


class Column(Model):
    """One target column in full; the short form in YAML is just its expression (`=` means the same name)."""

    expression: Expression = Field(
        default="=", alias="from", description="SQL over the source row; `=`: the source's column of the same name"
    )
    type: SqlType | None = Field(default=None, description="target type as SQL writes it; default: the expression's")
    null: bool | None = Field(default=None, description="false: NOT NULL; default: as the source, true for expressions")
    default: Sql | None = Field(default=None, description="SQL of the column's DEFAULT on the target")
    identity: Literal["by default", "always"] | None = Field(default=None, description="continues after the last row")
    generated: Sql | None = Field(default=None, description="SQL of a stored generated column; it is then not copied")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return refusing(short_forms.column, value)


class ForeignKey(Model):
    """A foreign key of the target table, made and validated after the rows are there.

    The short form is `column, ... -> schema.table(column, ...)`.
    """

    columns: list[Name] = Field(min_length=1, description="columns of this table; one may be written without a list")
    references: Annotated[str, holds(names.parse_reference)] = Field(
        description="schema.table, or schema.table(column, ...)"
    )
    on_delete: Action = Field(default="no action", description="what happens when the row it points at goes")
    on_update: Action = Field(default="no action", description="what happens when the key it points at changes")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return refusing(short_forms.foreign_key, value)

    @property
    def reference(self) -> names.Reference:
        """What it points at."""
        return names.parse_reference(self.references)


class Index(Model):
    """An index of the target table, built after its rows; the short form is a column or a list of columns."""

    columns: list[Annotated[str, holds(short_forms.index_column)]] = Field(
        min_length=1, description="columns or parenthesised expressions; one may be written without a list"
    )
    unique: bool = Field(default=False, description="no two rows may be equal in it")
    method: Literal["btree", "hash", "gin", "gist", "spgist", "brin"] = Field(
        default="btree", description="the index's access method"
    )
    where: Predicate | None = Field(default=None, description="which target rows it holds; default: all")
    name: Name | None = Field(default=None, description="default: made from the table and the columns")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return refusing(short_forms.index, value)


class Transform(Model):
    """A Python function that takes a batch of rows and gives one back; short form: `module:function`."""

    function: str = Field(pattern=FUNCTION_PATTERN, description="module:function, in the plan's folder or PYTHONPATH")
    columns: list[Name] | None = Field(
        default=None, description="target columns it reads and writes; default: all but the key"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return refusing(short_forms.transform, value)


class Mapping(Model):
    """One target table and how its rows come from a source."""

    target: Annotated[str, holds(names.parse_target)] = Field(
        description="schema.table; may be left out for `source: schema.*`"
    )
    source: Annotated[str, holds(names.parse_source)] = Field(
        description="schema.table [alias], or schema.* for a whole schema as it is"
    )
    joins: Joins | None = Field(default=None, description="JOIN clauses, as SQL writes them")
    where: Predicate | None = Field(default=None, description="which source rows belong to the mapping")
    key: dict[Name, Expression] = Field(default_factory=dict, description="target column: expression; unique, not null")
    columns: dict[Name, Column] | None = Field(default=None, description="left out: the table's columns as they are")
    mode: Literal["create", "fill", "append", "merge"] = Field(
        default="create",
        description="create: the run makes the table; fill: it is there and empty; append: it has rows, all keys are "
        "new; merge: rows whose key is there are updated, others inserted",
    )
    delete_missing: bool = Field(
        default=False, description="merge: target rows (of the scope) that the source does not have are deleted"
    )
    primary_key: list[Name] | None = Field(default=None, description="default: the key's columns; [] for none")
    unique: list[Annotated[list[Name], BeforeValidator(_unique), Field(min_length=1)]] = Field(
        default_factory=list, description="lists of columns that together are unique"
    )
    indexes: list[Index] = Field(default_factory=list, description="built after the rows")
    foreign_keys: list[ForeignKey] = Field(default_factory=list, description="made and validated after the rows")
    constraints: dict[Name, Predicate] = Field(default_factory=dict, description="name: CHECK over the target row")
    rules: dict[str, Predicate] = Field(default_factory=dict, description="name: predicate every target row must meet")
    transform: Transform | None = Field(default=None, description="Python between source and target")
    scope: Predicate | None = Field(default=None, description="which target rows are its own, if others share it")
    except_: list[Name] = Field(default_factory=list, alias="except", description="with schema.*: tables left out")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return refusing(short_forms.mapping, value)

    @field_validator("key", "columns", mode="before")
    @classmethod
    def _pairs(cls, value: object, info: ValidationInfo) -> object:
        return value if info.context == FROM_YAML else short_forms.pairs(value)

    @field_serializer("key", "columns", mode="wrap", when_used="json")
    def _keep_order(self, value: object, handler: SerializerFunctionWrapHandler) -> list[list[object]] | None:
        # jsonb, and JSON with sorted keys, lose the order of an object's keys; here it is the order of the columns.
        written: dict[str, object] | None = handler(value)
        return None if written is None else [[name, column] for name, column in written.items()]

    @property
    def source_name(self) -> names.SourceName:
        """The source's table and alias, or its whole schema."""
        return names.parse_source(self.source)

    @property
    def whole_schema(self) -> bool:
        """True for `source: schema.*`."""
        return self.source_name.whole_schema

    @property
    def target_schema(self) -> str:
        """The target's schema."""
        return names.parse_target(self.target).schema_name

    @property
    def target_table(self) -> TableName | None:
        """The target table; None for `schema.*`."""
        return names.parse_target(self.target).table_name

    def all_columns(self) -> dict[str, Column] | None:
        """Key columns first, then the others, each in full; None when the table's columns are taken as they are.

        A column that stands under `key` has the key's expression, whatever else `columns` says about it.
        """
        if self.columns is None:
            return None
        keyed = {
            name: self.columns.get(name, Column()).model_copy(update={"expression": expression})
            for name, expression in self.key.items()
        }
        return keyed | {name: column for name, column in self.columns.items() if name not in keyed}


class CrossCheck(Model):
    """A query on each side whose answers must agree: same rows, in any order, within a tolerance."""

    name: str = Field(min_length=1, description="what it shows, for people")
    source: Query = Field(description="a SELECT on the source")
    target: Query = Field(description="a SELECT on the target")
    tolerance: float = Field(default=0.0, ge=0, description="largest absolute difference of two numbers")


class Phase(Model):
    """A part of the rows that is moved, verified and released together."""

    phase: PlanName = Field(description="its name: lower case, digits, hyphens")
    where: dict[Table, Predicate] = Field(
        default_factory=dict, description="mapping's target: predicate over the source row; empty: all that remain"
    )
    soak: Duration | None = Field(default=None, description="how long to wait after verification")
    approve: Literal["automatic", "manual"] = Field(default="automatic", description="manual: waits for a person")


class Parallelism(Model):
    """How much may happen at once."""

    mappings: int = Field(default=2, ge=1, le=64, description="mappings at once")
    partitions: int = Field(default=2, ge=1, le=64, description="partitions of one mapping at once")
    verify: int = Field(default=2, ge=1, le=64, description="partitions verified at once")


class Limits(Model):
    """Ceilings that keep servers and people breathing."""

    partition_size: Size = Field(default="512MiB", description="bytes of one partition, the unit of work and of retry")
    findings: int = Field(default=100, ge=1, le=10_000, description="shown for each check; all are counted")
    lock_timeout: Duration = Field(default="30s", description="how long a statement may wait for a lock")
    statement_timeout: Duration = Field(default="6h", description="how long a statement may run; at most 6h")
    verify_rows_per_second: int | None = Field(
        default=None, ge=1, description="pace of verification, over all partitions at once; default: as fast as it goes"
    )


class Plan(Model):
    """The whole data map. `knarr check` holds it against both databases before anything is written."""

    name: PlanName = Field(description="lower case, digits, hyphens; runs are named after it")
    description: str = Field(default="", description="for people")
    source: Alias = Field(description="connection that is only read; an alias, no address, no secret")
    target: Alias = Field(description="connection that is written to; an alias, no address, no secret")
    types: dict[Table, list[str]] = Field(default_factory=dict, description="schema.type: labels of an enum to create")
    mappings: list[Mapping] = Field(min_length=1, description="one target table each")
    checks: list[CrossCheck] = Field(default_factory=list, description="compared across both databases")
    downstream: list[DownstreamCheck] = Field(
        default_factory=list, description="what consumers of the data must see after the last phase"
    )
    verification: Verification = Field(
        default_factory=Verification, description="what follows a difference, and when verification holds"
    )
    rollout: list[Phase] = Field(
        default_factory=lambda: [Phase(phase="everyone")], min_length=1, description="phases, in order"
    )
    guards: list[Guard] = Field(default_factory=list, description="figures that are watched while the run goes on")
    rollback: RollbackCriteria = Field(default_factory=RollbackCriteria, description="when the run takes itself back")
    parallelism: Parallelism = Field(default_factory=Parallelism, description="how much may happen at once")
    limits: Limits = Field(default_factory=Limits, description="ceilings")
