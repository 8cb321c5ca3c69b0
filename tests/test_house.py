"""The house's own rules that no other tool holds: the worker's place, the pins, what may be imported."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOUSE = ("knarr", "activities", "workflows", "starter")
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / name).read_text()))


def normalised(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_worker_does_not_know_the_command_line() -> None:
    assert "starter" not in imported(ROOT / "worker.py")


def test_every_process_ends_by_the_way_out_that_cannot_crash() -> None:
    files = [path for folder in HOUSE for path in (ROOT / folder).rglob("*.py")]
    doors = [path for path in files if "__main__" in path.read_text() or path.name == "__main__.py"]
    # What stands alone (the lifeline's process, the offline checker) cannot have temporalio's threads.
    ours = [path for path in doors if imported(path) & {*HOUSE, "temporalio"}]
    assert ours, "no door found: the search is wrong"
    for path in [*ours, ROOT / "worker.py"]:
        assert "run_and_exit(" in path.read_text(), f"{path.relative_to(ROOT)} must end by knarr.process.run_and_exit"


def test_every_pin_carries_hashes_and_no_file_of_pins_names_a_host() -> None:
    for name in ("requirements.txt", "requirements-runtime.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text, f"{name} names a host; `make lock` writes it without"
        for block in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]:
            assert "--hash=sha256:" in block, f"{name}: {block.splitlines()[0]} has no hash; run `make lock`"


def test_all_that_pyproject_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = {normalised(each) for each in project["project"]["dependencies"]}
    groups = {normalised(each) for group in project["dependency-groups"].values() for each in group}
    build = {normalised(each) for each in project["build-system"]["requires"]}
    assert runtime | groups | build <= pins("requirements.txt").keys()
    assert runtime <= pins("requirements-runtime.txt").keys()


def test_production_gets_the_versions_that_were_tested_and_no_embedded_server() -> None:
    tested, production = pins("requirements.txt"), pins("requirements-runtime.txt")
    assert production.items() <= tested.items()
    embedded = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["embedded"]
    assert not {normalised(each) for each in embedded} & production.keys()
