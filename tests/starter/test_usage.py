"""What the command line answers to mistakes: text on stderr, a document on stdout with --json, the exit code."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from knarr.plan.load import load_plan
from starter.cli import cli
from starter.exits import Exit
from starter.places import Places

GOOD = """\
name: demo
source: old
target: new
mappings:
  - {target: shop.thing, source: public.thing t, key: {id: t.id}, columns: {id: t.id}}
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server, no connection, nothing of the developer's: commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("KNARR_CONNECTION_OLD", "KNARR_CONNECTION_NEW", "KNARR_STATE_DIR", "KNARR_WEB_UI", "TEMPORAL_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/dev/null")


def knarr(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def document(result: Result) -> dict[str, object]:
    """The one document on stdout: json refuses a second one behind it."""
    found = json.loads(result.stdout)
    assert found["schema_version"] == 1
    assert isinstance(found, dict)
    return found


def test_no_arguments_show_the_help_and_are_a_usage_error() -> None:
    result = knarr()
    assert result.exit_code == Exit.USAGE
    assert "Usage: knarr" in result.stderr
    assert result.stdout == ""


def test_an_unknown_command_is_a_usage_error() -> None:
    result = knarr("lunch")
    assert result.exit_code == Exit.USAGE
    assert "error: No such command 'lunch'" in result.stderr
    assert "next: knarr --help" in result.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("staus", "Did you mean one of: 'pause', 'start', 'status'?"),
        ("rollbak", "Did you mean 'rollback'?"),
        ("resum", "Did you mean 'resume'?"),
        ("status --jsn", "Did you mean '--json'?"),
        ("verify --sincelast", "Did you mean '--since-last'?"),
    ],
)
def test_a_word_that_is_nearly_right_is_answered_with_the_right_one(typed: str, meant: str) -> None:
    result = knarr(*typed.split())
    assert result.exit_code == Exit.USAGE
    assert meant in result.stderr


def test_a_word_that_is_like_no_other_is_not_guessed_at() -> None:
    assert "Did you mean" not in knarr("xyzzy").stderr


def test_an_unknown_option_is_a_usage_error_with_a_document() -> None:
    result = knarr("status", "shop-v2", "--json", "--color")
    assert result.exit_code == Exit.USAGE
    found = document(result)
    assert found["kind"] == "error"
    assert found["exit_code"] == Exit.USAGE
    assert "--color" in str(found["error"])


def test_skip_wants_a_reason() -> None:
    result = knarr("skip", "shop-v2")
    assert result.exit_code == Exit.USAGE
    assert "--reason" in result.stderr


@pytest.mark.parametrize("command", ["check", "run", "start", "verify", "runbook"])
def test_a_plan_that_is_not_there_is_named(command: str) -> None:
    result = knarr(command, "shop.yaml")
    assert result.exit_code == Exit.USAGE
    assert "shop.yaml" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["check", "run", "start", "verify", "runbook"])
def test_every_problem_of_a_plan_is_listed_and_counted(command: str) -> None:
    Path("bad.yaml").write_text(GOOD.replace("source: old", "sauce: old").replace("name: demo", "name: DEMO!"))
    result = knarr(command, "bad.yaml", "--json")
    assert result.exit_code == Exit.USAGE
    found = document(result)
    problems = found["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 2 + ("source" in str(problems[2:]))
    assert all(str(problem).startswith("bad.yaml:") for problem in problems)
    assert "sauce" in str(problems)
    assert all(str(problem) in result.stderr for problem in problems)


@pytest.mark.parametrize("command", ["check", "run", "verify", "runbook"])
def test_an_alias_that_leads_nowhere_names_the_variable(command: str) -> None:
    Path("good.yaml").write_text(GOOD)
    result = knarr(command, "good.yaml")
    assert result.exit_code == Exit.USAGE
    assert "KNARR_CONNECTION_OLD" in result.stderr
    assert not Path(".knarr").exists()


def test_a_database_that_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("good.yaml").write_text(GOOD)
    monkeypatch.setenv("KNARR_CONNECTION_OLD", "postgresql://user:s3cret-word@127.0.0.1:1/old")
    monkeypatch.setenv("KNARR_CONNECTION_NEW", "postgresql://user:s3cret-word@127.0.0.1:1/new")
    result = knarr("check", "good.yaml", "--json")
    assert result.exit_code == Exit.UNREACHABLE
    assert document(result)["exit_code"] == Exit.UNREACHABLE
    assert "s3cret-word" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "shop-v2"],
        ["watch", "shop-v2"],
        ["list"],
        ["pause", "shop-v2"],
        ["abort", "shop-v2", "--yes"],
        ["report", "shop-v2"],
        ["audit", "shop-v2"],
        ["start", "good.yaml"],
        ["worker"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_temporal_that_does_not_answer_is_named_with_the_way_to_start_one(arguments: list[str]) -> None:
    Path("good.yaml").write_text(GOOD)
    result = knarr(*arguments, "--json")
    assert result.exit_code == Exit.UNREACHABLE
    assert "no Temporal server answers at 127.0.0.1:1 (TEMPORAL_ADDRESS)" in result.stderr
    assert "next: start one: knarr up" in result.stderr
    assert document(result)["exit_meaning"] == Exit.UNREACHABLE.meaning


def test_a_profile_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_PROFILE", "nobody-made-this")
    result = knarr("list")
    assert result.exit_code == Exit.USAGE
    assert "nobody-made-this" in result.stderr


def test_a_step_that_is_none_is_refused_before_anything_is_started() -> None:
    Path("good.yaml").write_text(GOOD)
    result = knarr("run", "good.yaml", "--pause-before", "lunch")
    assert result.exit_code == Exit.USAGE
    assert "'lunch'" in result.stderr
    assert not Path(".knarr").exists()


def test_an_unexpected_error_shows_no_traceback_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("knarr.plan.schema.plan_json_schema", lambda: broken(None))
    quiet, loud = knarr("schema"), knarr("schema", "--debug")
    assert quiet.exit_code == loud.exit_code == Exit.UNEXPECTED
    assert "error: ZeroDivisionError: a bug" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_the_schema_is_a_json_schema_that_knows_mappings() -> None:
    result = knarr("schema")
    assert result.exit_code == Exit.DONE
    assert "mappings" in json.loads(result.stdout)["properties"]


def test_the_schema_can_go_to_a_file() -> None:
    result = knarr("schema", "-o", "plan.schema.json", "--json")
    assert document(result)["file"] == "plan.schema.json"
    assert "mappings" in Path("plan.schema.json").read_text()


@pytest.mark.parametrize("example", ["tpch/shop.yaml", "chinook/chinook.yaml"])
def test_the_examples_are_plans(example: str) -> None:
    assert load_plan(Path(__file__).parents[2] / "examples" / example).plan.mappings


def test_the_schema_beside_the_examples_is_the_one_that_is_printed() -> None:
    """Mend it by: knarr schema -o examples/plan.schema.json"""
    beside = Path(__file__).parents[2] / "examples" / "plan.schema.json"
    assert beside.read_text(encoding="utf-8") == knarr("schema").stdout


def test_what_the_survey_says_of_a_plan_is_shown_with_the_files_line() -> None:
    Path("good.yaml").write_text(GOOD)
    places = Places(Path("good.yaml"))
    assert places.found("mappings[0].columns.id (shop.thing)") == "good.yaml:5: mappings[0].columns.id (shop.thing)"
    assert places.found("mappings[0].columns.gone (shop.thing)").startswith("good.yaml:5: ")
    assert places.found("source old") == "source old"
