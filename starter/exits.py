"""Exit codes: the one list of how a command can end, for scripts."""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """How a command ended. Scripts may rely on these numbers."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    REFUSED = 5
    UNCONFIRMED = 6
    DIFFERS = 10
    ROLLED_BACK = 20
    ABORTED = 21
    WAITING = 24
    DETACHED = 130

    @property
    def meaning(self) -> str:
        """One line for --help and the README."""
        return MEANINGS[self]


MEANINGS: Final[dict[Exit, str]] = {
    Exit.DONE: "done",
    Exit.UNEXPECTED: "unexpected: a bug, or a run that ended in a way that has no number here",
    Exit.USAGE: "the plan, a setting or the command line is wrong",
    Exit.NOT_FOUND: "there is no such run",
    Exit.UNREACHABLE: "Temporal or PostgreSQL can't be reached",
    Exit.REFUSED: "refused: by the survey, by another run's claim, or by the run itself",
    Exit.UNCONFIRMED: "not confirmed: the answer was no, or there was no terminal to ask on",
    Exit.DIFFERS: "verification or the audit found differences",
    Exit.ROLLED_BACK: "the run was rolled back",
    Exit.ABORTED: "the run was aborted and unwound",
    Exit.WAITING: "the run waits for a person",
    Exit.DETACHED: "detached by Ctrl-C; the run goes on",
}
