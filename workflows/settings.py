"""What a workflow needs to know of the plan: phases, waits and limits, small enough to be carried along."""

from typing import Literal, Self

from pydantic import Field

from activities.models import Message
from knarr.plan.models import Plan
from knarr.plan.units import seconds


class PhaseSettings(Message):
    """One phase of the rollout: how long it soaks, and whether a person must approve it."""

    name: str
    soak_seconds: float = Field(ge=0)
    manual: bool


class GuardSettings(Message):
    """One guard: what the workflow needs to know to have it watched."""

    name: str
    during: Literal["copy", "soak", "always"]


class RunSettings(Message):
    """The plan's choices that steer the saga. Everything about data stays in the target's knarr schema."""

    phases: list[PhaseSettings]
    mappings_at_once: int
    partitions_at_once: int
    verified_at_once: int
    roll_back_on_difference: bool
    repair_rounds: int = Field(default=0, description="how many times unlike rows are rewritten; 0: never")
    deadline_seconds: float | None
    keep_seconds: float
    guards: list[GuardSettings] = Field(default_factory=list)
    roll_back_on_breach: bool = False
    errors_allowed: int | None = Field(default=None, description="attempts to copy that may fail; None: any number")

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Reads the settings off a plan that has been validated."""
        proof = plan.verification
        return cls(
            phases=[
                PhaseSettings(
                    name=phase.phase,
                    soak_seconds=seconds(phase.soak) if phase.soak else 0.0,
                    manual=phase.approve == "manual",
                )
                for phase in plan.rollout
            ],
            mappings_at_once=plan.parallelism.mappings,
            partitions_at_once=plan.parallelism.partitions,
            verified_at_once=plan.parallelism.verify,
            roll_back_on_difference="verification" in plan.rollback.kinds and proof.on_difference != "wait",
            repair_rounds=proof.rounds if proof.on_difference == "repair" else 0,
            deadline_seconds=plan.rollback.deadline,
            keep_seconds=seconds(plan.rollback.keep_for),
            guards=[GuardSettings(name=guard.name, during=guard.during) for guard in plan.guards],
            roll_back_on_breach="guard" in plan.rollback.kinds,
            errors_allowed=plan.rollback.errors,
        )
