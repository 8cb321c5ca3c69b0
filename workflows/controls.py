"""What operators have asked of a run: every order is held against the run's state, applied or refused with a reason."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from temporalio.exceptions import ApplicationError

from workflows.messages import REFUSED, Accepted, AnswerOrder, Decision, Order, RollbackOrder, State, Turn

SHOWN_OF_A_PROBLEM: Final = 200

ENDED: frozenset[State] = frozenset({"completed", "rolled back", "aborted", "refused"})


class Stop(NamedTuple):
    """What a person is asked. The number is what tells an answer to it from one to the stop before."""

    number: int
    problem: str
    no_skip: str  # why this can't be skipped, or empty

    def __str__(self) -> str:
        line = self.problem.partition("\n")[0]
        return f"stop {self.number}: {line if len(line) <= SHOWN_OF_A_PROBLEM else line[:SHOWN_OF_A_PROBLEM] + '…'}"


class Controls:
    """The switches of a run. The workflow's handlers turn them; its main loop looks at them."""

    def __init__(
        self, *, paused: bool, decided: int, stops: int = 0, asked: str = "", unrecorded: Sequence[Decision] = ()
    ) -> None:
        self.paused = paused
        self.turn: Turn | None = None
        self.approved = False
        self.completed = False
        self.completing = False
        self.answer: Literal["retry", "skip"] | None = None
        self.stops = stops
        # What nobody had answered when the run continued as new: should it come again, it is the same stop.
        self.stop: Stop | None = Stop(stops, asked, "") if asked else None
        self._over = ""  # how the stop ended, once it has
        self.decided = decided
        self.unrecorded: list[Decision] = list(unrecorded)

    def refusal(self, action: str, order: Order, state: State, checkpoints: list[str]) -> str | None:
        """Why the order makes no sense now, for the person who gave it; None when it does."""
        if state in ENDED:
            return f"the run has ended: {state}"
        if self.completing and action not in {"retry", "skip"}:
            return "the run has completed; it can no longer be taken back"
        if action in {"pause", "resume", "abort", "rollback"} and (state == "unwinding" or self.turn is not None):
            return f"the run is taking itself back{self._why()}; that is not interrupted"
        answers = {"approve": "waiting for approval", "complete": "kept open"}
        if action in answers and state != answers[action]:
            return f"nothing to {action}: the run is {state}, not {answers[action]}"
        if action in {"retry", "skip"} and state != "waiting for a person":
            if isinstance(order, AnswerOrder) and self.stop and self._over and order.stop == self.stop.number:
                return f"stop {self.stop.number} is over: {self._over}"
            return f"nothing to {action}: the run is {state}, it does not wait for a person"
        if action in {"retry", "skip"}:
            return self._no_answer(action, order)
        if action == "pause" and self.paused:
            return "the run is paused already"
        if action == "resume" and not self.paused:
            return f"nothing to resume: the run is {state}, not paused"
        if isinstance(order, RollbackOrder) and order.to not in {"", "start", *checkpoints}:
            known = ", ".join(["start", *checkpoints])
            return f"there is no checkpoint {order.to!r}; there are: {known}"
        return None

    def _no_answer(self, action: str, order: Order) -> str | None:
        """Why the order is no answer to what the run waits with now."""
        if action == "skip" and not order.reason:
            return "skip needs a reason: it is what an auditor will read"
        if self.stop is None:
            return f"nothing to {action}: the run does not ask anything"
        if isinstance(order, AnswerOrder) and order.stop not in {0, self.stop.number}:
            return f"it answers stop {order.stop}, and the run is at {self.stop}"
        if self._over:
            return f"stop {self.stop.number} is over: {self._over}"
        if action == "skip" and self.stop.no_skip:
            return f"stop {self.stop.number} can't be skipped: {self.stop.no_skip}. Mend it, then retry"
        return None

    def validate(self, action: str, order: Order, state: State, checkpoints: list[str]) -> None:
        """Raises ApplicationError (type OrderRefused) with the reason; an update is then rejected."""
        refusal = self.refusal(action, order, state, checkpoints)
        if self.completed and action in {"pause", "abort", "rollback"}:
            refusal = "the run is completing; it can no longer be taken back"
        if refusal:
            raise ApplicationError(refusal, type=REFUSED, non_retryable=True)

    def take(self, action: str, order: Order, state: State, checkpoints: list[str]) -> Accepted:
        """Turns the switch, or notes that the order was refused.

        Raises ApplicationError (type OrderRefused) with the reason.
        """
        try:
            self.validate(action, order, state, checkpoints)
        except ApplicationError as refused:
            self.note("operator", action, order.actor, order.reason, refused.message, accepted=False)
            raise
        return self.apply(action, order, state, checkpoints)

    def _why(self) -> str:
        return f" ({self.turn.kind} by {self.turn.actor})" if self.turn else ""

    def apply(self, action: str, order: Order, state: State, checkpoints: list[str]) -> Accepted:
        """Turns the switch. The order has been validated."""
        message = "noted"
        match action:
            case "pause":
                self.paused, state = True, "paused"
                message = "paused: no new partition starts; those under way end"
            case "resume":
                self.paused, state = False, "running"
                message = "resumed"
            case "approve":
                self.approved, message = True, "approved"
            case "complete":
                self.completed, message = True, "completed: it can no longer be taken back"
            case "retry" | "skip":
                self.answer = "retry" if action == "retry" else "skip"
                self._over = f"{order.actor} has answered with {action}"
                message = "trying again" if action == "retry" else "skipped; the report says what was not taken back"
                message += f" ({self.stop})"
            case "abort" | "rollback":
                to = how_far(order, state, checkpoints)
                kind: Literal["abort", "rollback"] = "abort" if action == "abort" else "rollback"
                self.turn = Turn(kind=kind, to=to, actor=order.actor, reason=order.reason)
                self.paused, state = False, "unwinding"
                message = (
                    "taking everything back, then the run ends"
                    if to == "start"
                    else f"going back to checkpoint {to}; `resume` goes forward from there, `rollback --to start` "
                    "takes everything back"
                )
            case _:
                raise ValueError(f"unknown order {action!r}")
        self.note("operator", action, order.actor, order.reason, message)
        return Accepted(state=state, message=message)

    def ask(self, problem: str, no_skip: str = "") -> Stop:
        """Opens a stop. One that nobody answered and that comes again is the same, so an answer to it still fits.

        Args:
            no_skip: why it can't be skipped; empty: it can.
        """
        if self.stop is None or self._over or self.stop.problem != problem:
            self.stops += 1
        self.stop, self.answer, self._over = Stop(self.stops, problem, no_skip), None, ""
        return self.stop

    def take_answer(self) -> Literal["retry", "skip"]:
        """The answer that a person gave, once; `retry` when nobody has."""
        answer, self.answer = self.answer or "retry", None
        return answer

    @property
    def asked(self) -> str:
        """The problem that a person is asked about, as long as nobody has answered and it has not passed; or empty."""
        return self.stop.problem if self.stop and not self._over else ""

    @property
    def answered(self) -> bool:
        """Whether the last stop is over, by an answer or by itself."""
        return bool(self._over)

    def passed(self) -> None:
        """What a person was asked about has passed by itself: should the same come again, it is another stop."""
        self._over = self._over or "it has passed by itself"

    def turn_back(self, kind: Literal["abort", "rollback"], actor: str, reason: str) -> None:
        """The run turns back for a reason of its own: a deadline, or Temporal's cancellation."""
        self.turn = Turn(kind=kind, to="start", actor=actor, reason=reason)
        self.note("decision", kind, actor, reason, "taking everything back")

    def note(
        self,
        kind: Literal["operator", "decision"],
        action: str,
        actor: str,
        reason: str,
        answer: str,
        accepted: bool = True,
    ) -> None:
        """Keeps a decision until it is in the audit trail."""
        self.unrecorded.append(Decision(kind, action, actor, reason, answer, accepted))


def how_far(order: Order, state: State, checkpoints: Sequence[str]) -> str:
    """The checkpoint that an order to go back means, or start.

    Unnamed, it is the last phase that was verified. A mapping's checkpoint, though it be later, is only meant by its
    name: a phase is released as a whole, and while one waits for approval all its mappings are proved, so that going
    back to the last of them would keep the very rows that somebody wants gone. In a run that is kept open everything
    was verified, and going back can only mean all of it.
    """
    if not isinstance(order, RollbackOrder):
        return "start"
    if order.to:
        return order.to
    phases = [name for name in checkpoints if "/" not in name]  # which no phase's name has
    return phases[-1] if phases and state != "kept open" else "start"
