"""How verification goes about its work: what follows a difference, and how it spares servers that are busy."""

from typing import Literal

from pydantic import Field

from knarr.plan.model import Model
from knarr.plan.texts import Alias, Duration, Query


class Busy(Model):
    """A query that says whether a server is busy; no partition is compared while it is."""

    on: Alias = Field(default="source", description="source, target, or the alias of any other connection")
    query: Query = Field(description="a SELECT of one boolean: true while busy")
    every: Duration = Field(default="5s", description="how often it is asked while it says so")


class Verification(Model):
    """What follows a difference, and when to hold."""

    on_difference: Literal["roll back", "repair", "wait"] = Field(
        default="roll back",
        description="roll back: if `rollback.on` has verification, else wait; repair: rewrite the rows that differ and "
        "verify again, then as roll back; wait: for a person",
    )
    rounds: int = Field(default=3, ge=1, le=10, description="how many times rows are repaired before that is given up")
    pause_while: Busy | None = Field(default=None, description="holds between partitions while a server is busy")
