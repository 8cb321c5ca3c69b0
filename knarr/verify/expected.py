"""What the rows should be: the mapping's expressions, joins, filter and phases as rows of the source.

Written from the plan alone, apart from the code that copies: verification that reuses the copier's SQL confirms the
copier's mistakes (research/mission-anchors.md 5c).
"""

from collections.abc import Sequence

from knarr.errors import PlanError
from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres.identifiers import enclosed, qualified
from knarr.verify.canonical import actual_value, expected_value
from knarr.verify.checksum import Relation
from knarr.verify.ranges import source_range, target_range


def expected_rows(
    mapping: ResolvedMapping, partition: Partition, phases: Sequence[str] = (), through: str = ""
) -> Relation:
    """The source's rows of one partition that must have arrived when phase `through` is done, as the target's types.

    Args:
        mapping: the resolved mapping.
        partition: its range of keys.
        phases: all phases in rollout order; empty: the whole mapping at once.
        through: the last phase that has been moved.

    Raises:
        PlanError: `through` is not one of the phases.
    """
    arguments: list[str] = []
    conditions = source_range(mapping.key, partition, arguments)
    conditions.extend(source_scope(mapping, phases, through))
    return Relation(
        from_sql=mapping.from_clause,
        conditions=tuple(conditions),
        arguments=tuple(arguments),
        key=tuple(expected_value(column) for column in mapping.key),
        columns=tuple(expected_value(column) for column in mapping.columns),
    )


def actual_rows(mapping: ResolvedMapping, partition: Partition) -> Relation:
    """The target's rows of one partition, within the mapping's scope."""
    arguments: list[str] = []
    conditions = target_range(mapping.key, partition, arguments)
    conditions.extend(target_scope(mapping))
    return Relation(
        from_sql=qualified(mapping.target),
        conditions=tuple(conditions),
        arguments=tuple(arguments),
        key=tuple(actual_value(column) for column in mapping.key),
        columns=tuple(actual_value(column) for column in mapping.columns),
    )


def holds_others(mapping: ResolvedMapping, phases: Sequence[str] = (), through: str = "") -> bool:
    """Whether target rows whose keys the source does not have may be there: they are somebody else's.

    So it is with append and merge, until a merge has deleted what is missing, which it does in the last phase.
    """
    is_last = not phases or through == phases[-1]
    return mapping.occupied and not (mapping.delete_missing and is_last)


def source_scope(mapping: ResolvedMapping, phases: Sequence[str], through: str) -> list[str]:
    """Conditions over the source row: the mapping's filter, and what phases up to `through` have moved."""
    conditions = [enclosed(mapping.where)] if mapping.where else []
    if not phases:
        return conditions
    if through not in phases:
        raise PlanError(f"found phase {through!r}, expected one of {', '.join(phases)}")
    if through == phases[-1]:  # whatever earlier phases left has been moved by the last
        return conditions
    moved = phases[: list(phases).index(through) + 1]
    named = [f"{enclosed(mapping.phases[phase])} IS TRUE" for phase in moved if phase in mapping.phases]
    conditions.append(" OR ".join(named) if named else "FALSE")
    return conditions


def target_scope(mapping: ResolvedMapping) -> list[str]:
    """Conditions over the target row: which rows of a shared table are this mapping's."""
    return [enclosed(mapping.scope)] if mapping.scope else []
