"""The order in which tables with foreign keys already in force must be filled."""

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed


def fill_order(inquiry: Inquiry) -> dict[int, list[int]]:
    """For each mapping the numbers of those whose rows must be there first; a circle becomes a problem."""
    written: defaultdict[TableName, list[int]] = defaultdict(list)
    for one in inquiry.sketches:
        if not one.creates:
            written[one.target].append(one.number)
    needs: dict[int, list[int]] = {one.number: [] for one in inquiry.sketches}
    for one in inquiry.sketches:
        if one.creates or one.target_table is None:
            continue
        for constraint in one.target_table.constraints:
            if constraint.foreign_table is None or constraint.foreign_table not in written:
                continue
            if constraint.foreign_table == one.target:
                inquiry.problems.warn(
                    one.where("target"),
                    f"foreign key {constraint.name} points at its own table and is in force while rows arrive",
                    hint="a row that points at a later partition stops the copy: drop the key for the time of the run",
                )
                continue
            needs[one.number] += written[constraint.foreign_table]
    needs = {number: sorted(set(first) - {number}) for number, first in needs.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = [write_table(inquiry.sketches[number].target) for number in error.args[1]]
        inquiry.problems.error(
            inquiry.sketches[error.args[1][0]].where("target"),
            f"foreign keys of the target go round in a circle: {listed(circle)}",
            expected="an order in which the tables can be filled",
            hint="drop one of the foreign keys for the time of the run, and make it again after",
        )
    return needs
