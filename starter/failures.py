"""From an exception to an exit code and a text for people: nothing else in the starter decides that."""

from dataclasses import dataclass, field

from knarr.errors import ClaimRefused, DataError, KnarrError, LostLease, SurveyRefused, TransientError
from knarr.local.errors import LocalServerError
from knarr.wording import counted
from starter.exits import Exit


class StarterError(Exception):
    """Something the command line itself found: carries its exit code, what was found and what to do next."""

    def __init__(self, exit_code: Exit, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Complaint:
    """What is printed for an exception, and how the process ends."""

    exit_code: Exit
    message: str
    hint: str = ""
    problems: list[str] = field(default_factory=list)


def exit_of(error: KnarrError) -> Exit:
    """The exit code of one of our own errors."""
    # 28: wrong password or role; 3D: no such database. Plan errors for a run, but here nobody was reached.
    if isinstance(error, TransientError | LocalServerError) or error.sqlstate[:2] in {"28", "3D"}:
        return Exit.UNREACHABLE
    if isinstance(error, SurveyRefused | ClaimRefused):
        return Exit.REFUSED
    if isinstance(error, DataError):
        return Exit.DIFFERS
    if isinstance(error, LostLease):
        return Exit.UNEXPECTED
    return Exit.USAGE


def explain(error: BaseException) -> Complaint:
    """What to print for any exception that left a command."""
    if isinstance(error, StarterError):
        return Complaint(error.exit_code, error.message, error.hint)
    if isinstance(error, KnarrError):
        from knarr.plan.problems import PlanProblems

        if isinstance(error, PlanProblems):
            return Complaint(
                Exit.USAGE,
                f"{counted(len(error.problems), 'problem')} in the plan; nothing was written",
                error.hint or "mend what is listed above, then: knarr check PLAN",
                [str(problem) for problem in error.problems],
            )
        # The terminal may show what history may not.
        return Complaint(exit_of(error), error.detail or error.message, error.hint)
    return _foreign(error)


def _foreign(error: BaseException) -> Complaint:
    """Exceptions of others: Temporal's, the operating system's, bugs."""
    from temporalio.service import RPCError, RPCStatusCode

    if isinstance(error, RPCError):
        if error.status is RPCStatusCode.NOT_FOUND:
            return Complaint(Exit.NOT_FOUND, f"Temporal does not know it: {error.message}", "what there is: knarr list")
        if error.status in {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}:
            return Complaint(
                Exit.UNREACHABLE, f"Temporal does not answer: {error.message}", "is the server up? knarr up starts one"
            )
        if error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}:
            return Complaint(
                Exit.UNREACHABLE,
                f"Temporal refused these credentials: {error.message}",
                "check TEMPORAL_API_KEY, TEMPORAL_TLS_* or the profile in TEMPORAL_PROFILE",
            )
    text = str(error).strip().splitlines()
    return Complaint(
        Exit.UNEXPECTED,
        f"{type(error).__name__}: {text[0] if text else 'no message'}",
        "this was not foreseen; run it again with --debug for the traceback",
    )
