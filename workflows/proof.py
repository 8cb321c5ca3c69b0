"""The forward step that proves a phase: every row and rule compared, until the verdict passes or somebody decides."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.models import Compensation, RepairInput, RepairResult, SurveyResult, VerdictSummary
    from activities.repair import repair_rows
    from knarr.wording import counted
    from workflows.conduct import Conduct
    from workflows.messages import Verifiable, VerificationInput
    from workflows.policies import LONG
    from workflows.proved import recording_proofs, withdraw_proofs
    from workflows.rows import in_order
    from workflows.settings import PhaseSettings
    from workflows.verification import VerificationWorkflow


class VerificationDiffersError(Exception):
    """The verdict did not pass, and the plan says to roll back."""

    def __init__(self, verdict: VerdictSummary) -> None:
        super().__init__(difference(verdict))


def difference(verdict: VerdictSummary) -> str:
    """A verdict that did not pass, in one line: how many findings, and the first of them."""
    first = verdict.first_findings[0] if verdict.first_findings else "no finding could be computed"
    found = f"{counted(verdict.findings, 'finding')} in {counted(verdict.failed, 'check')}"
    return f"verification failed: {found}; first: {first}"


async def verify_rows(conduct: Conduct, survey: SurveyResult, phase: PhaseSettings) -> None:
    """All that has been moved, on both sides.

    What follows a difference is the plan's choice: the unlike rows are rewritten and all is verified again, a bounded
    number of times; then, or at once, everything is taken back, or a person decides. Each mapping that is proved is a
    checkpoint at once; one that a later round finds unlike is none any more.

    Raises VerificationDiffersError, or HistoryIsLongError before it has begun.
    """
    conduct.leave_room()
    repairs = 0
    while True:
        await conduct.gate("verify")
        conduct.view.show("running", step="verify")
        conduct.round += 1
        verdict = await conduct.saga.step(
            f"verify/{phase.name}/{conduct.round}",
            VerdictSummary,
            lambda: recording_proofs(conduct, survey, phase, _verdict(conduct, survey, phase)),
            undo=Compensation(activity="withdraw_verdict", summary=f"{phase.name} · the verdict", phase=phase.name),
        )
        conduct.view.judged(verdict)
        if verdict.passed:
            return
        await withdraw_proofs(conduct, survey, phase, verdict.unlike)
        if verdict.repairable and repairs < conduct.settings.repair_rounds:
            repairs += 1
            await _repair(conduct, phase, verdict, repairs)
            continue
        if conduct.settings.roll_back_on_difference:
            raise VerificationDiffersError(verdict)
        if await conduct.ask_a_person(difference(verdict)) == "skip":
            await conduct.recorded()
            return


async def _repair(conduct: Conduct, phase: PhaseSettings, verdict: VerdictSummary, repairs: int) -> None:
    """Rewrites the rows that the verdict found unlike. No compensation of its own: these are the copy's rows, in the
    copy's ledger, and the copy's compensation takes them back.
    """
    await conduct.gate("repair")
    allowed = conduct.settings.repair_rounds
    note = f"round {conduct.round}: {difference(verdict)}"
    conduct.controls.note("decision", "repair", "plan", note, f"repair {repairs} of {allowed}, then verify again")
    conduct.view.show("running", step="repair")
    given = RepairInput(run=conduct.run, phase=phase.name, round=conduct.round, mappings=verdict.repairable)
    repaired: RepairResult = await workflow.execute_activity(
        repair_rows, given, summary=f"{phase.name} · rewrite unlike rows · repair {repairs} of {allowed}", **LONG
    )
    for why in repaired.failed:
        workflow.logger.warning("not repaired: %s", why)


async def _verdict(conduct: Conduct, survey: SurveyResult, phase: PhaseSettings) -> VerdictSummary:
    names = [settings.name for settings in conduct.settings.phases]
    so_far = set(names[: names.index(phase.name) + 1])
    is_last = phase == conduct.settings.phases[-1]
    verdict: VerdictSummary = await conduct.child(
        VerificationWorkflow.run,
        VerificationInput(
            run=conduct.run,
            phase=phase.name,
            round=conduct.round,
            mappings=[
                Verifiable(number=mapping.number, name=mapping.name, partitions=mapping.partitions)
                for mapping in in_order([mapping for mapping in survey.mappings if so_far & set(mapping.phases)])
            ],
            cross_checks=survey.cross_checks if is_last else [],
            downstream_checks=survey.downstream_checks if is_last else [],
            window=conduct.settings.verified_at_once,
            paused=conduct.controls.paused,
        ),
        name=f"verify {phase.name}",
        summary=f"{phase.name} · every row and every rule · round {conduct.round}",
    )
    return verdict
