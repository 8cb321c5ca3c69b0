"""The forward steps about rows: every mapping of a phase is copied and built, several at once."""

import heapq
from collections import defaultdict
from collections.abc import Iterable

from temporalio import workflow

from workflows.window import Piece, sliding_window

with workflow.unsafe.imports_passed_through():
    from activities.build import build_keys, set_sequences
    from activities.models import Compensation, MappingSummary, SurveyResult
    from knarr.wording import counted
    from workflows.conduct import Conduct
    from workflows.messages import Moved, MoveInput
    from workflows.move import MoveMappingWorkflow
    from workflows.settings import PhaseSettings
    from workflows.stops import HistoryIsLongError


async def move_rows(conduct: Conduct, survey: SurveyResult, phase: PhaseSettings) -> None:
    """Copies and builds every mapping that has rows in this phase, the largest first, several at once.

    Raises HistoryIsLongError when the rest is to be moved by the next run of the workflow.
    """
    await conduct.gate("copy")
    conduct.view.copying()
    conduct.view.show("running", step="copy")
    here = in_order([mapping for mapping in survey.mappings if phase.name in mapping.phases])
    moved = [mapping for mapping in here if not _is_moved(conduct, mapping, phase.name)]

    async def may_start() -> bool:
        await conduct.gate("next mapping")
        return not workflow.info().is_continue_as_new_suggested()

    pieces = _moves(conduct, moved, phase.name)
    started = await sliding_window(conduct.settings.mappings_at_once, pieces, may_start=may_start)
    if started < len(moved):
        raise HistoryIsLongError
    conduct.view.copy_ended_at = workflow.now()


def _moves(conduct: Conduct, moved: list[MappingSummary], phase: str) -> Iterable[Piece]:
    here = {mapping.number for mapping in moved}
    for mapping in moved:
        waits_for = [f"move/{phase}/{other}" for other in mapping.depends_on if other in here]

        async def move(mapping: MappingSummary = mapping, waits_for: list[str] = waits_for) -> None:
            saga = conduct.saga
            await workflow.wait_condition(lambda: all(saga.is_done(step) for step in waits_for))
            undo = Compensation(
                activity="remove_rows", summary="its rows", mapping=mapping.number, phase=phase, apart=True
            )
            await saga.count(f"move/{phase}/{mapping.number}", lambda: _copy(conduct, mapping, phase), undo=undo)
            await _build(conduct, mapping, phase)

        yield move


def _is_moved(conduct: Conduct, mapping: MappingSummary, phase: str) -> bool:
    number, saga = mapping.number, conduct.saga
    steps = f"move/{phase}/{number}", f"build/{number}", f"sequences/{phase}/{number}"
    return all(saga.is_done(step) for step in steps)


async def _copy(conduct: Conduct, mapping: MappingSummary, phase: str) -> int:
    conduct.view.change(mapping.number, state="copying", partitions_done=0)
    size = f"about {counted(mapping.estimated_rows, 'row')} · {counted(mapping.partitions, 'partition')}"
    moved: Moved = await conduct.child(
        MoveMappingWorkflow.run,
        MoveInput(
            run=conduct.run,
            mapping=mapping,
            phase=phase,
            window=conduct.settings.partitions_at_once,
            paused=conduct.controls.paused,
            errors_allowed=conduct.settings.errors_allowed,
        ),
        name=mapping.name,
        summary=f"{mapping.name} · {size}",
    )
    conduct.view.moved(mapping.number, moved.rows, moved.partitions)
    conduct.count_errors(phase, mapping.number, moved.errors)
    return moved.rows


async def _build(conduct: Conduct, mapping: MappingSummary, phase: str) -> None:
    """Keys, indexes and checks after the rows: built before them they cost 1.75 to 1.95 times the copy."""
    await conduct.gate("build")
    step, number = conduct.step, mapping.number
    conduct.view.change(number, state="building")
    await step(f"build/{number}", build_keys, "keys, indexes, checks", mapping, phase, undo="drop_keys")
    sequences = f"sequences/{phase}/{number}"
    await step(sequences, set_sequences, "sequences", mapping, phase, undo="reset_sequences")
    conduct.view.change(number, state="copied")


def in_order(mappings: list[MappingSummary]) -> list[MappingSummary]:
    """The largest first, but none before those whose rows it depends on."""
    here = {mapping.number: mapping for mapping in mappings}
    missing = {
        number: {other for other in mapping.depends_on if other in here and other != number}
        for number, mapping in here.items()
    }
    followers: defaultdict[int, list[int]] = defaultdict(list)
    for number, first in missing.items():
        for other in first:
            followers[other].append(number)
    ordered: list[MappingSummary] = []
    ready = [(-mapping.estimated_bytes, mapping.number) for mapping in mappings if not missing[mapping.number]]
    heapq.heapify(ready)
    while ready:
        _, number = heapq.heappop(ready)
        ordered.append(here[number])
        for follower in followers[number]:
            missing[follower].remove(number)
            if not missing[follower]:
                heapq.heappush(ready, (-here[follower].estimated_bytes, follower))
    return ordered
