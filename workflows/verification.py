"""Verification of all that has been moved: a child that compares partitions, then everything else, then concludes."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from temporalio import workflow

from workflows.window import Piece, sliding_window

with workflow.unsafe.imports_passed_through():
    from activities.models import VerdictSummary, VerifyInput
    from activities.verify import (
        conclude_verification,
        verify_cross_check,
        verify_downstream,
        verify_integrity,
        verify_partitions,
        verify_rules,
    )
    from workflows.messages import Pausing, VerificationInput, VerifiedRows
    from workflows.policies import LONG, VERIFY

REPORTS: Final = 50


class Unit(NamedTuple):
    """One activity's worth of verification."""

    kind: str
    name: str
    mapping: int = -1
    partition: int = -1


def units(verification: VerificationInput) -> list[Unit]:
    """Everything that must be checked, in an order that never changes within a run: one mapping after the other."""
    found: list[Unit] = []
    for mapping in verification.mappings:
        found += [Unit("partition", mapping.name, mapping.number, number) for number in range(mapping.partitions)]
        found.append(Unit("integrity", mapping.name, mapping.number))
        found.append(Unit("rules", mapping.name, mapping.number))
    found += [Unit("cross check", name) for name in verification.cross_checks]
    found += [Unit("downstream", name) for name in verification.downstream_checks]
    return found


@workflow.defn(name="VerifyPhase")
class VerificationWorkflow:
    """Runs every unit through a sliding window, then derives the verdict from what the units stored."""

    @workflow.init
    def __init__(self, verification: VerificationInput) -> None:
        self._input = verification
        self._units = units(verification)
        self._paused = verification.paused
        self._rows = verification.rows
        self._done = verification.next_unit
        self._reported = verification.next_unit
        self._left = Counter(unit.mapping for unit in self._units[verification.next_unit :])
        self._checked: list[int] = []

    @workflow.run
    async def run(self, verification: VerificationInput) -> VerdictSummary:
        """Returns the verdict, passed or not. Raises ActivityError when it could not be computed at all."""
        started = await sliding_window(verification.window, self._pieces(), may_start=self._may_start)
        next_unit = verification.next_unit + started
        if next_unit < len(self._units):
            if self._checked:
                await self._tell()
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(
                verification.model_copy(
                    update={"next_unit": next_unit, "rows": self._rows, "paused": self._paused},
                )
            )
        return await workflow.execute_activity(
            conclude_verification,
            self._unit_input(Unit("verdict", "verdict")),
            summary=f"verdict on {len(self._units)} units",
            **LONG,
        )

    @workflow.signal
    def hold(self, pausing: Pausing) -> None:
        """The parent pauses or resumes: no unit starts while paused; those under way end."""
        self._paused = pausing.paused

    async def _may_start(self) -> bool:
        await workflow.wait_condition(lambda: not self._paused)
        return not workflow.info().is_continue_as_new_suggested()

    def _pieces(self) -> Iterable[Piece]:
        for unit in self._units[self._input.next_unit :]:

            async def verify(unit: Unit = unit) -> None:
                await self._verify(unit)

            yield verify

    async def _verify(self, unit: Unit) -> None:
        activity = {
            "partition": verify_partitions,
            "integrity": verify_integrity,
            "rules": verify_rules,
            "cross check": verify_cross_check,
            "downstream": verify_downstream,
        }[unit.kind]
        of = f" {unit.partition + 1}" if unit.kind == "partition" else ""
        result = await workflow.execute_activity(
            activity, self._unit_input(unit), summary=f"{unit.name} · {unit.kind}{of}", **VERIFY
        )
        self._done += 1
        self._rows += result.rows
        self._left[unit.mapping] -= 1
        if unit.mapping >= 0 and not self._left[unit.mapping]:
            self._checked.append(unit.mapping)
        await self._report()

    def _unit_input(self, unit: Unit) -> VerifyInput:
        return VerifyInput(
            run=self._input.run,
            phase=self._input.phase,
            round=self._input.round,
            mapping=unit.mapping,
            first=unit.partition,
            last=unit.partition,
            check=unit.name,
        )

    async def _report(self) -> None:
        total = len(self._units)
        if self._done < total and (self._done - self._reported) * REPORTS < total:
            return
        await self._tell()

    async def _tell(self) -> None:
        self._reported = self._done
        parent = workflow.info().parent
        if parent is None:
            return
        checked, self._checked = self._checked, []
        await workflow.get_external_workflow_handle(parent.workflow_id).signal(
            "verified_rows",
            VerifiedRows(
                rows=self._rows,
                round=self._input.round,
                checked=checked,
                epoch=self._input.run.lease.epoch if self._input.run.lease else 0,
            ),
        )
