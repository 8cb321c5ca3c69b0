"""Rollback criteria: figures that are watched, and when the run takes itself back."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from knarr.plan import short_forms
from knarr.plan.model import Model
from knarr.plan.texts import Alias, Duration, Query, holds, refusing


class Guard(Model):
    """A figure that must stay within bounds: the answer of a query, asked again and again while the run goes on.

    A breach takes the run back if `rollback.on` has `guard`; else the run pauses, and resuming it accepts the breach
    for this phase. A query that gives no number, or that nobody answers for a minute, is a breach too.
    """

    name: str = Field(min_length=1, max_length=200, description="what it watches, for people")
    on: Alias = Field(default="target", description="source, target, or the alias of any other connection")
    query: Query = Field(description="a SELECT of one number")
    max: float | None = Field(default=None, description="the largest figure that is well")
    min: float | None = Field(default=None, description="the smallest figure that is well")
    every: Duration = Field(default="10s", description="how often it is asked")
    during: Literal["copy", "soak", "always"] = Field(
        default="soak", description="while rows are copied, while a phase soaks, or from a phase's start to its end"
    )

    @model_validator(mode="before")
    @classmethod
    def _bounds(cls, value: object) -> object:
        return refusing(short_forms.guard, value)


class RollbackCriteria(Model):
    """When the run takes itself back, and how long it can still be taken back after it has succeeded."""

    on: list[Annotated[str, holds(short_forms.criterion)]] = Field(
        default_factory=lambda: ["verification"], description="verification, guard, deadline 6h, errors 20"
    )
    keep_for: Duration = Field(default="0s", description="how long a completed run can still be rolled back")
    changed_since: Literal["stop", "keep theirs", "restore ours"] = Field(
        default="stop",
        description="what a rollback does with a row that somebody else has changed since the run wrote it, or added "
        "to a table that the run makes or fills: it waits for a person to decide, keeps it as they made it, or makes "
        "the table what it was before the run, without it",
    )

    @field_validator("on", mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @property
    def deadline(self) -> float | None:
        """Seconds after which the run takes itself back; None without a deadline."""
        return next((c.seconds for c in map(short_forms.criterion, self.on) if c.kind == "deadline"), None)

    @property
    def errors(self) -> int | None:
        """How many attempts to copy may fail before the run takes itself back; None without such a criterion."""
        return next((c.number for c in map(short_forms.criterion, self.on) if c.kind == "errors"), None)

    @property
    def kinds(self) -> frozenset[str]:
        """Which of verification, guard, deadline and errors are set."""
        return frozenset(short_forms.criterion(text).kind for text in self.on)
