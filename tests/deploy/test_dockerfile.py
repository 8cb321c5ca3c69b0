"""The image: linted, run as nobody special, made of the packages of the house and of nothing else."""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_holds_every_package_of_the_house() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    house = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    assert set(COPIED) - {"requirements-runtime.txt"} == set(house)


def test_all_that_is_copied_exists_and_passes_the_ignore_file() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*", "what is not named must stay out: .env, .knarr and .git hold secrets"
    let_in = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert set(COPIED) == let_in
    for path in COPIED:
        assert (ROOT / path).exists()


def test_the_process_is_not_root_and_is_asked_for_its_health() -> None:
    user = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number: Kubernetes cannot prove that a name is not root"
    assert "HEALTHCHECK" in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE
