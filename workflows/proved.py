"""Checkpoints of single mappings: recorded while their phase is still being verified, as soon as each is proved.

A rollback to such a checkpoint keeps this mapping's rows and keys and those of the mappings proved before it in the
phase. So the order must be one in which no mapping comes before those that it depends on by a foreign key in force: a
mapping waits until these are checkpoints, and if one of them is not proved it never is one. What ties mappings together
does not stay: foreign keys that the run made, sequences (several tables may draw from one), the verdict on the phase;
all of it is made again on the next way forward.
"""

import asyncio
from collections.abc import Coroutine

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.models import (
        Compensation,
        CompensationInput,
        MappingCheckpoint,
        MappingSummary,
        ProofInput,
        ProofResult,
        StepResult,
        SurveyResult,
        VerdictSummary,
    )
    from activities.prove import record_proofs
    from activities.seal import remove_checkpoint
    from workflows.conduct import Conduct
    from workflows.policies import LONG
    from workflows.saga import Checkpoint
    from workflows.settings import PhaseSettings


async def recording_proofs(
    conduct: Conduct, survey: SurveyResult, phase: PhaseSettings, judging: Coroutine[None, None, VerdictSummary]
) -> VerdictSummary:
    """Judges, and meanwhile records each mapping as a checkpoint whose checks have all run and passed.

    Raises what judging or recording raises; both have ended then.
    """
    conduct.checked = []
    waiting: dict[int, MappingSummary] = {}
    here = {mapping.number: mapping for mapping in survey.mappings if phase.name in mapping.phases}
    task = asyncio.create_task(judging)
    try:
        while True:
            await workflow.wait_condition(lambda: task.done() or bool(conduct.checked))
            conduct.saga.stop_if_over()
            if not conduct.checked:
                return await task
            news, conduct.checked = conduct.checked, []
            waiting |= {number: here[number] for number in news if number in here}
            while due := _due(conduct, phase.name, here, waiting):
                for mapping in due:
                    del waiting[mapping.number]
                await _record(conduct, phase.name, due)
    except (Exception, asyncio.CancelledError):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


async def withdraw_proofs(conduct: Conduct, survey: SurveyResult, phase: PhaseSettings, unlike: list[int]) -> None:
    """Mappings that this round has found unlike are no checkpoints, nor are those that depend on them."""
    needs = {mapping.number: set(mapping.depends_on) for mapping in survey.mappings}
    doomed = set(unlike)
    gone: list[int] = []
    for number in (each.mapping for each in conduct.saga.checkpoints if each.phase == phase.name):
        if number in doomed or needs.get(number, set()) & doomed:
            doomed.add(number)
            gone.append(number)
    # An order given before may lead to one of them, and is carried out; from here on none can name it.
    conduct.saga.stop_if_over()
    for number in gone:
        conduct.saga.reopen(_step(phase.name, number))
    for number in reversed(gone):
        name = conduct.checkpoint_name(Checkpoint(phase.name, number))
        given = CompensationInput(run=conduct.run, mapping=number, phase=phase.name, name=name)
        done: StepResult = await workflow.execute_activity(
            remove_checkpoint, given, summary=f"{conduct.name_of(number)} · no longer proved", **LONG
        )
        workflow.logger.info("no longer a checkpoint: %s (audit position %d)", name, done.head.position)
        conduct.saga.stop_if_over()
        conduct.saga.forget(_step(phase.name, number))


def _due(
    conduct: Conduct, phase: str, here: dict[int, MappingSummary], waiting: dict[int, MappingSummary]
) -> list[MappingSummary]:
    """Those that can be recorded now, in the order in which they were checked."""

    def stands(number: int) -> bool:
        return number not in here or conduct.saga.is_done(_step(phase, number))

    return [
        mapping
        for number, mapping in waiting.items()
        if not stands(number) and all(stands(other) for other in mapping.depends_on)
    ]


async def _record(conduct: Conduct, phase: str, due: list[MappingSummary]) -> None:
    names = {mapping.number: conduct.checkpoint_name(Checkpoint(phase, mapping.number)) for mapping in due}
    for number in names:
        undo = Compensation(
            activity="remove_checkpoint", summary="the checkpoint", mapping=number, phase=phase, apart=True
        )
        conduct.saga.register(_step(phase, number), undo)
    given = ProofInput(
        run=conduct.run,
        phase=phase,
        round=conduct.round,
        mappings=[MappingCheckpoint(mapping=number, name=name) for number, name in names.items()],
    )
    first = due[0].name if len(due) == 1 else f"{due[0].name} and {len(due) - 1} more"
    result: ProofResult = await workflow.execute_activity(
        record_proofs, given, summary=f"{first} · verified: a rollback can stop here", **LONG
    )
    for number in names:
        if number in result.proved:
            conduct.saga.finish(_step(phase, number))
            conduct.view.change(number, state="verified")
        else:
            conduct.saga.forget(_step(phase, number))


def _step(phase: str, number: int) -> str:
    return f"proved/{phase}/{number}"
