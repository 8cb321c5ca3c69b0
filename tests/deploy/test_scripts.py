"""The scripts that prepare Temporal: run for real where a real Temporal can run them."""

import os
import subprocess
from pathlib import Path

import pytest

from knarr.local.binaries import temporal_binary
from knarr.local.temporal import SEARCH_ATTRIBUTES, TemporalServer

SCRIPTS = Path(__file__).parents[2] / "deploy" / "temporal"


def prepare(address: str, namespace: str) -> str:
    environment = {
        "PATH": f"{temporal_binary().parent}:{os.defpath}",
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_NAMESPACE": namespace,
        "KNARR_RETENTION": "7d",
    }
    script = ["/bin/sh", str(SCRIPTS / "namespace.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attributes(address: str, namespace: str) -> dict[str, str]:
    listed = subprocess.run(
        [temporal_binary(), "operator", "search-attribute", "list", "--address", address, "--namespace", namespace],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0] in SEARCH_ATTRIBUTES}


def test_the_namespace_gets_the_search_attributes_and_a_second_time_changes_nothing(temporal: TemporalServer) -> None:
    prepare(temporal.address, "deployed")
    assert attributes(temporal.address, "deployed") == SEARCH_ATTRIBUTES
    assert "created" not in prepare(temporal.address, "deployed").lower()
    assert attributes(temporal.address, "deployed") == SEARCH_ATTRIBUTES


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_plain_sh_and_stops_at_the_first_error(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in text
    assert subprocess.run(["/bin/sh", "-n", script], timeout=30, check=False).returncode == 0
    assert os.access(script, os.X_OK)
