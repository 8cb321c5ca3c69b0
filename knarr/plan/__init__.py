"""The data map: what a person writes, read with care, and what the survey makes of it."""

from knarr.plan.criteria import Guard, RollbackCriteria
from knarr.plan.downstream import DownstreamCheck
from knarr.plan.load import LoadedPlan, canonical_json, digest_of, load_plan, parse_plan
from knarr.plan.models import (
    Column,
    CrossCheck,
    ForeignKey,
    Index,
    Limits,
    Mapping,
    Parallelism,
    Phase,
    Plan,
    Transform,
)
from knarr.plan.names import (
    Reference,
    SourceName,
    check_name,
    parse_reference,
    parse_source,
    parse_table,
    write_name,
    write_table,
)
from knarr.plan.problems import PlanProblems, Problem, Refusal, did_you_mean, nearest
from knarr.plan.proof import Verification
from knarr.plan.schema import plan_json_schema
from knarr.plan.units import seconds, size_bytes

__all__ = [
    "Column",
    "CrossCheck",
    "DownstreamCheck",
    "ForeignKey",
    "Guard",
    "Index",
    "Limits",
    "LoadedPlan",
    "Mapping",
    "Parallelism",
    "Phase",
    "Plan",
    "PlanProblems",
    "Problem",
    "Reference",
    "Refusal",
    "RollbackCriteria",
    "SourceName",
    "Transform",
    "Verification",
    "canonical_json",
    "check_name",
    "did_you_mean",
    "digest_of",
    "load_plan",
    "nearest",
    "parse_plan",
    "parse_reference",
    "parse_source",
    "parse_table",
    "plan_json_schema",
    "seconds",
    "size_bytes",
    "write_name",
    "write_table",
]
