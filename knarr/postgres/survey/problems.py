"""The one list that every check of the survey writes what it found to."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from knarr.plan.resolved import SurveyProblem
from knarr.postgres.survey.ask import Failure
from knarr.telemetry.scrub import scrub


class Problems:
    """Collects errors and warnings, each once, in the order in which they were found."""

    def __init__(self) -> None:
        self.found: list[SurveyProblem] = []

    @property
    def errors(self) -> list[SurveyProblem]:
        """Those that forbid the run."""
        return [problem for problem in self.found if problem.severity == "error"]

    def error(self, where: str, found: str, *, expected: str = "", hint: str = "", examples: str = "") -> None:
        """Something that forbids the run.

        Args:
            examples: keys, or a server's words that may quote a row; for a terminal, never for workflow history, which
                all else goes to.
        """
        self._add(
            SurveyProblem(
                severity="error", where=where, found=found, expected=expected, hint=hint, examples=scrub(examples)
            )
        )

    def refused(self, where: str, failure: Failure, *, expected: str, hint: str = "") -> None:
        """SQL of the plan that a server does not take; the server's own hint unless there is a better one."""
        self.error(where, str(failure), expected=expected, hint=hint or failure.hint, examples=failure.words)

    def warn(self, where: str, found: str, *, expected: str = "", hint: str = "") -> None:
        """Something that a person should know before the run."""
        self._add(SurveyProblem(severity="warning", where=where, found=found, expected=expected, hint=hint))

    def _add(self, problem: SurveyProblem) -> None:
        if problem not in self.found:
            self.found.append(problem)


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?`, or nothing when no known name is near."""
    candidates = list(known)
    folded = {candidate.lower(): candidate for candidate in candidates}
    near = get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not near and (close := get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)):
        near = [folded[close[0]]]
    return f"Did you mean '{near[0]}'?" if near else ""


def listed(names: Sequence[str], most: int = 10) -> str:
    """The names with commas; of a long list the first and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
