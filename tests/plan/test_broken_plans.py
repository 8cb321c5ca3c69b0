"""Every broken plan under broken/ gives exactly the message beside it."""

from pathlib import Path
from typing import Final

import pytest

from knarr.errors import PlanError
from knarr.plan import PlanProblems, load_plan

BROKEN: Final = Path(__file__).parent / "broken"
PLANS: Final = sorted(path.name for path in BROKEN.glob("*.yaml"))


def problems_of(path: Path) -> PlanProblems:
    with pytest.raises(PlanProblems) as raised:
        load_plan(path)
    return raised.value


@pytest.mark.parametrize("name", PLANS)
def test_a_broken_plan_gives_exactly_its_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)

    message = str(problems_of(Path(name)))

    assert message == Path(name).with_suffix(".expected").read_text(encoding="utf-8").rstrip("\n")


def test_every_message_belongs_to_a_plan() -> None:
    assert len(PLANS) >= 24
    assert sorted(path.stem for path in BROKEN.glob("*.expected")) == sorted(Path(name).stem for name in PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_problems_come_in_the_order_of_the_file(name: str) -> None:
    lines = [problem.line or 0 for problem in problems_of(BROKEN / name).problems]

    assert lines == sorted(lines)


def test_a_problem_is_a_plan_error_with_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)

    raised = problems_of(Path("unknown-key-in-column.yaml"))

    assert isinstance(raised, PlanError)
    (problem,) = raised.problems
    assert (problem.file, problem.line, problem.column) == ("unknown-key-in-column.yaml", 11, 14)
    assert problem.path == "mappings[0].columns.city.form"
    assert problem.found == "the unknown key 'form'"
    assert problem.expected == "a key of a column"
    assert problem.hint == "Did you mean 'from'?"


def test_fifty_problems_are_shown_and_all_are_counted() -> None:
    raised = problems_of(BROKEN / "sixty-problems.yaml")

    assert len(raised.problems) == 50
    assert raised.total == 60


def test_a_missing_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").touch()

    assert str(problems_of(tmp_path / "shop.yml")) == (
        f"{tmp_path}/shop.yml: found no such file, expected a plan in YAML. Did you mean 'shop.yaml'?"
    )


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert str(problems_of(tmp_path)) == f"{tmp_path}: found a directory, expected a plan in YAML"
    assert str(problems_of(Path("/dev/zero"))) == "/dev/zero: found a device, pipe or socket, expected a file"
    assert "found a file that can't be read" in str(problems_of(Path("a\0b.yaml")))
    assert "found a file that can't be read" in str(problems_of(Path("x" * 5000)))


def test_a_password_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    for address in ("postgresql://me:s3cr@t@host/db", "host=db password=s3cr@t"):
        plan.write_text(f"name: x\nsource: '{address}'\ntarget: '{address}'\nmappings: [{{source: public.*}}]\n")

        assert "s3cr" not in str(problems_of(plan))
        assert problems_of(plan).total == 2
