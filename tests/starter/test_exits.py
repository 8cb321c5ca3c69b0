"""The exit codes are a promise to scripts: numbers, meanings, and who maps to what."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from knarr.errors import ClaimRefused, DataError, KnarrError, LostLease, PlanError, SurveyRefused, TransientError
from knarr.local.errors import LocalServerError
from starter.cli import cli
from starter.exits import MEANINGS, Exit
from starter.failures import StarterError, explain


def test_the_numbers_are_those_that_scripts_know() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "UNEXPECTED": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "UNREACHABLE": 4,
        "REFUSED": 5,
        "UNCONFIRMED": 6,
        "DIFFERS": 10,
        "ROLLED_BACK": 20,
        "ABORTED": 21,
        "WAITING": 24,
        "DETACHED": 130,
    }


def test_every_exit_code_stands_in_the_help_with_its_meaning() -> None:
    said = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    for code in Exit:
        assert f"{int(code)} {MEANINGS[code]}" in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlanError("x"), Exit.USAGE),
        (SurveyRefused("x"), Exit.REFUSED),
        (ClaimRefused("x"), Exit.REFUSED),
        (DataError("x"), Exit.DIFFERS),
        (LostLease("x"), Exit.UNEXPECTED),
        (TransientError("x"), Exit.UNREACHABLE),
        (LocalServerError("x"), Exit.UNREACHABLE),
        (PlanError("no such database", sqlstate="3D000"), Exit.UNREACHABLE),
        (PlanError("wrong password", sqlstate="28P01"), Exit.UNREACHABLE),
        (PlanError("no such column", sqlstate="42703"), Exit.USAGE),
        (StarterError(Exit.NOT_FOUND, "x"), Exit.NOT_FOUND),
        (ZeroDivisionError("x"), Exit.UNEXPECTED),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else value.name,
)
def test_every_error_has_its_exit_code(error: Exception, code: Exit) -> None:
    assert explain(error).exit_code is code


def test_no_error_class_of_ours_is_left_without_a_decision() -> None:
    def below(kind: type[KnarrError]) -> set[type[KnarrError]]:
        return {kind, *(each for child in kind.__subclasses__() for each in below(child))}

    decided = {explain(kind("x")).exit_code for kind in below(KnarrError) if kind.__init__ is KnarrError.__init__}
    assert Exit.USAGE in decided
    assert decided <= {Exit.USAGE, Exit.REFUSED, Exit.UNREACHABLE, Exit.DIFFERS, Exit.UNEXPECTED}


def test_the_readme_lists_every_exit_code() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for code in Exit:
        assert f"| {int(code)} | {code.meaning} |" in readme
