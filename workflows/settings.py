"""What a workflow needs to know of the plan: phases, waits and limits, small enough to be carried along."""

from typing import Self

from pydantic import Field

from activities.models import Message
from knarr.plan.models import Plan
from knarr.plan.units import seconds


class PhaseSettings(Message):
    """One phase of the rollout: how long it soaks, and whether a person must approve it."""

    name: str
    soak_seconds: float = Field(ge=0)
    manual: bool


class RunSettings(Message):
    """The plan's choices that steer the saga. Everything about data stays in the target's knarr schema."""

    phases: list[PhaseSettings]
    mappings_at_once: int
    partitions_at_once: int
    verified_at_once: int
    roll_back_on_difference: bool
    deadline_seconds: float | None
    keep_seconds: float

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Reads the settings off a plan that has been validated."""
        criteria = plan.rollback.on
        deadlines = [seconds(criterion.split()[1]) for criterion in criteria if criterion.startswith("deadline ")]
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
            roll_back_on_difference="verification" in criteria,
            deadline_seconds=min(deadlines) if deadlines else None,
            keep_seconds=seconds(plan.rollback.keep_for),
        )
