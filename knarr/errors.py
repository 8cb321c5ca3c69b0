"""The error classes of Knarr, and who may retry which.

    KnarrError
    ├── PlanError            a person must change the plan, the settings or the database; never retried
    │   ├── SurveyRefused    the survey found problems; all of them are listed
    │   └── ClaimRefused     another run holds the target table, or this plan is running already
    ├── DataError            the data is not what the plan promises; carries what was found; never retried
    ├── LostLease            the epoch has moved on: this writer is a zombie and must stop; never retried
    └── TransientError       a server, a lock or the network was in the way; retried with back-off

`classify` (knarr.postgres.failures) turns what PostgreSQL raises into one of these.
"""

import sysconfig
from importlib.machinery import ModuleSpec
from types import FrameType
from typing import ClassVar, Final, Literal

Kind = Literal["plan", "data", "lost lease", "transient"]


class KnarrError(Exception):
    """Base of all errors that Knarr raises on purpose. `str()` is written for the person on duty.

    Args:
        message: what was found, where, and what was expected; never holds a secret, nor a row's values: it crosses
            into workflow history.
        hint: what to do next, or empty; likewise.
        sqlstate: the five-character SQLSTATE behind it, or empty.
        detail: the same with the values in it, in the server's or the function's own words; or empty. For the worker's
            log, the terminal and the target's knarr schema; never for workflow history.
    """

    kind: ClassVar[Kind] = "plan"

    def __init__(self, message: str, *, hint: str = "", sqlstate: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.sqlstate = sqlstate
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}\nNext: {self.hint}" if self.hint else self.message


class PlanError(KnarrError):
    """A person must change something before this can work."""

    kind: ClassVar[Kind] = "plan"


class SurveyRefused(PlanError):
    """The survey found problems that forbid the run; the message lists them all."""


class ClaimRefused(PlanError):
    """Another run holds one of the target tables; the message names it."""


class DataError(KnarrError):
    """The data is not what the plan promises: a poisoned row, a key that is not unique, a difference."""

    kind: ClassVar[Kind] = "data"


class LostLease(KnarrError):
    """The lease's epoch has been raised since this writer was given its work."""

    kind: ClassVar[Kind] = "lost lease"


class TransientError(KnarrError):
    """It may work when tried again: connection lost, lock not available, server restarting, disk full."""

    kind: ClassVar[Kind] = "transient"


# What is installed beside us, not written by us or by a plan's author.
_INSTALLED: Final = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


def raised_at(error: BaseException) -> str:
    """` at MODULE, line N`: the innermost place of ours or of a plan's own code; empty if there is none."""
    place, step = "", error.__traceback__
    while step is not None:
        if module := _module(step.tb_frame):
            place = f" at {module}, line {step.tb_lineno}"
        step = step.tb_next
    return place


def _module(frame: FrameType) -> str:
    # What was compiled from a text may call its file and its module whatever that text says.
    spec, file = frame.f_globals.get("__spec__"), frame.f_code.co_filename
    if not isinstance(spec, ModuleSpec) or spec.origin != file or file.startswith(_INSTALLED):
        return ""
    return spec.name
