"""What the README says is true: its plans are plans, its commands and options exist, its files are there."""

import re
from pathlib import Path
from typing import Final

import pytest

from knarr.plan.load import parse_plan
from knarr.settings import Settings
from starter.cli import COMMANDS, cli
from starter.exits import Exit

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
# What a fragment of a plan leaves out, so that it can be read alone.
REST: Final = {
    "name": "name: fragment",
    "source": "source: legacy",
    "target": "target: shop",
    "mappings": "mappings: [{target: shop.thing, source: public.thing t, key: {id: t.id}, columns: {id: =}}]",
}


def plans() -> list[str]:
    """Every YAML snippet, fragments made whole."""
    snippets = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [
        "".join(f"{line}\n" for key, line in REST.items() if not re.search(rf"^{key}:", snippet, re.MULTILINE))
        + snippet
        for snippet in snippets
    ]


def code() -> list[str]:
    """Every line of code and every text between backticks, without the comments behind them."""
    blocks = re.findall(r"^ {4}(.*)$", README, re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    return [text.partition("#")[0] for text in blocks] + [
        " ".join(text.split()) for text in re.findall("`([^`]+)`", prose)
    ]


def commands() -> list[str]:
    """Every `knarr COMMAND ...`."""
    return sorted({text.strip() for text in code() if re.match(r"knarr [a-z]", text)})


@pytest.mark.parametrize("text", plans(), ids=lambda text: re.sub(r"\W+", " ", text.splitlines()[-1])[:30].strip())
def test_every_plan_of_the_readme_is_a_plan(text: str) -> None:
    assert parse_plan(text, Path("README.md")).plan.mappings


def test_the_plan_that_is_explained_shows_a_table_and_a_whole_schema() -> None:
    loaded = parse_plan(plans()[0], Path("README.md"))
    assert [mapping.target for mapping in loaded.plan.mappings] == ["shop.order", "archive.*"]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_exists_with_its_options(command: str) -> None:
    name, *words = command.split()[1:]
    assert name in COMMANDS
    found = cli.get_command(cli.make_context("knarr", [name]), name)
    assert found is not None
    known = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_the_readme_shows_every_command_that_people_give() -> None:
    shown = {command.split()[1] for command in commands()}
    assert shown | {"worker"} == set(COMMANDS)  # worker: `python worker.py` there, which does the same


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    wanted = {word for text in code() for word in re.findall(r"\bmake ([a-z]+)", text)}
    assert wanted >= {"demo", "test", "setup"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in wanted)


def test_every_variable_of_the_readme_is_read_somewhere() -> None:
    places = [ROOT / "worker.py", *(ROOT / "knarr").rglob("*.py"), *(ROOT / "starter").rglob("*.py")]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in places)
    for name in set(re.findall(r"KNARR_[A-Z_]+[A-Z]", README)):
        field = name.removeprefix("KNARR_").lower()
        is_setting = field in Settings.model_fields or re.search(rf"^    {field}: ", sources, re.MULTILINE)
        assert name in sources or is_setting or name.startswith("KNARR_CONNECTION_"), name


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_exit_codes_of_the_readme_are_those_of_the_commands() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)
    assert rows == [(str(int(code)), code.meaning) for code in Exit]
