"""The doors through which operators reach a run: updates that are validated and answered, signals, queries."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from workflows.conduct import Conduct
    from workflows.messages import (
        Accepted,
        AnswerOrder,
        Order,
        PartitionsDone,
        Progress,
        RollbackOrder,
        Status,
        VerifiedRows,
    )

# Who gave an order that came as a bare signal, e.g. by `temporal workflow signal --name pause`.
BY_SIGNAL: Final = Order(actor="signal")

# A worker that first hears of a run by an update may be handed it together with what the task before had taken in, and
# before that; a replay is handed one after the other (temporalio/sdk-rust #1146). All that an order sets going at once
# must not depend on which it was. So an update only starts a timer, and the order is carried out when that has fired,
# which takes Temporal's server a second. (A local activity would take no time, but is cut off when a worker that keeps
# no workflows drops the run.) A run that took an order on older code has that in its history, and goes on without this
# until it continues as new.
ORDERS_BY_THEMSELVES: Final = "an order is carried out in a workflow task of its own"
A_MOMENT: Final = timedelta(milliseconds=1)


class TakesOrders:
    """A workflow that can be paused, resumed, aborted, approved, completed, rolled back, and asked where it is.

    Orders are carried out one after the other, as they came. An update that makes no sense now is rejected with the
    reason and leaves no event. What can't be rejected, a signal or an update that another order has overtaken, is
    written to the audit trail as refused.
    """

    conduct: Conduct

    def __init__(self) -> None:
        self._under_way = 0
        self._turn = asyncio.Lock()

    def _check(self, action: str, order: Order) -> None:
        if not self._under_way:  # else those that are under way decide, once they are carried out
            self.conduct.controls.validate(action, order, self.conduct.view.state, self.conduct.orderable)

    async def _apply(self, action: str, order: Order) -> Accepted:
        """Carries an order out. Raises ApplicationError (type OrderRefused) when another has overtaken it."""
        if workflow.patched(ORDERS_BY_THEMSELVES):
            return await self._in_turn(action, order, after=A_MOMENT)
        return self.conduct.controls.apply(action, order, self.conduct.view.state, self.conduct.orderable)

    async def _signalled(self, action: str, order: Order) -> None:
        with contextlib.suppress(ApplicationError):
            if self._under_way:
                await self._in_turn(action, order)
            else:
                self._take(action, order)

    async def _in_turn(self, action: str, order: Order, *, after: timedelta | None = None) -> Accepted:
        self._under_way += 1
        try:
            async with self._turn:
                if after:
                    await workflow.sleep(after, summary=f"{action} by {order.actor}")
                return self._take(action, order)
        finally:
            self._under_way -= 1

    def _take(self, action: str, order: Order) -> Accepted:
        return self.conduct.controls.take(action, order, self.conduct.view.state, self.conduct.orderable)

    @workflow.update
    async def pause(self, order: Order) -> Accepted:
        """No new partition starts; those under way end."""
        return await self._apply("pause", order)

    @workflow.update
    async def resume(self, order: Order) -> Accepted:
        """Goes on after a pause, or forward again from a checkpoint."""
        return await self._apply("resume", order)

    @workflow.update
    async def abort(self, order: Order) -> Accepted:
        """Takes everything back and ends the run as canceled."""
        return await self._apply("abort", order)

    @workflow.update
    async def rollback(self, order: RollbackOrder) -> Accepted:
        """Takes the run back to a checkpoint or to the start; by default to the last phase that was verified."""
        return await self._apply("rollback", order)

    @workflow.update
    async def approve(self, order: Order) -> Accepted:
        """Lets a phase that waits for approval go on."""
        return await self._apply("approve", order)

    @workflow.update
    async def complete(self, order: Order) -> Accepted:
        """Ends the time in which a run that succeeded can still be taken back."""
        return await self._apply("complete", order)

    @workflow.update
    async def retry(self, order: AnswerOrder) -> Accepted:
        """Tries again what is stuck."""
        return await self._apply("retry", order)

    @workflow.update
    async def skip(self, order: AnswerOrder) -> Accepted:
        """Leaves what is stuck as it is, where the run can do without; needs a reason, and the report says so."""
        return await self._apply("skip", order)

    @pause.validator
    def _pause_makes_sense(self, order: Order) -> None:
        self._check("pause", order)

    @resume.validator
    def _resume_makes_sense(self, order: Order) -> None:
        self._check("resume", order)

    @abort.validator
    def _abort_makes_sense(self, order: Order) -> None:
        self._check("abort", order)

    @rollback.validator
    def _rollback_makes_sense(self, order: RollbackOrder) -> None:
        self._check("rollback", order)

    @approve.validator
    def _approve_makes_sense(self, order: Order) -> None:
        self._check("approve", order)

    @complete.validator
    def _complete_makes_sense(self, order: Order) -> None:
        self._check("complete", order)

    @retry.validator
    def _retry_makes_sense(self, order: AnswerOrder) -> None:
        self._check("retry", order)

    @skip.validator
    def _skip_makes_sense(self, order: AnswerOrder) -> None:
        self._check("skip", order)

    @workflow.signal(name="pause")
    async def pause_signal(self, order: Order = BY_SIGNAL) -> None:
        """The same as the update, for those who have only signals."""
        await self._signalled("pause", order)

    @workflow.signal(name="resume")
    async def resume_signal(self, order: Order = BY_SIGNAL) -> None:
        """The same as the update, for those who have only signals."""
        await self._signalled("resume", order)

    @workflow.signal(name="abort")
    async def abort_signal(self, order: Order = BY_SIGNAL) -> None:
        """The same as the update, for those who have only signals."""
        await self._signalled("abort", order)

    @workflow.signal
    def partitions_done(self, done: PartitionsDone) -> None:
        """A mapping's child tells how far it is."""
        if self.conduct.is_of_before(done.epoch):
            return
        self.conduct.view.partitions_done(done)
        self.conduct.count_errors(done.phase, done.mapping, done.errors)

    @workflow.signal
    def verified_rows(self, verified: VerifiedRows) -> None:
        """Verification tells how far it is, and of which mappings all checks have run."""
        if self.conduct.is_of_before(verified.epoch):
            return
        self.conduct.view.rows_verified(verified.rows)
        if verified.round == self.conduct.round:
            self.conduct.checked += verified.checked

    @workflow.query
    def status(self) -> Status:
        """Where the run is, what it waits for, and the command that answers."""
        return self.conduct.status()

    @workflow.query
    def progress(self) -> Progress:
        """How far the run is, mapping by mapping."""
        return self.conduct.progress()
