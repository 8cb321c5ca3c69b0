"""A Temporal server of our own: where it listens, what it knows, what outlives it."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from knarr.local.binaries import temporal_binary
from knarr.local.errors import LocalServerError
from knarr.local.lifeline import command_line
from knarr.local.ports import free_port
from knarr.local.temporal import SEARCH_ATTRIBUTES, TemporalServer
from tests.servers import next_line, python, wait_until_gone

OWNER = """
import sys, time
from pathlib import Path
from knarr.local.temporal import TemporalServer
server = TemporalServer.start(Path(sys.argv[1]), port=None, ui=False)
print(server._lifeline.server_pid, server._lifeline._process.pid, flush=True)
time.sleep(300)
"""


def ask(server: TemporalServer, *command: str) -> str:
    """What the `temporal` program answers about `server`."""
    done = subprocess.run(
        [temporal_binary(), *command, "--address", server.address, "--namespace", server.namespace, "--output", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def start_workflow(server: TemporalServer, workflow_id: str) -> None:
    ask(server, "workflow", "start", "--type", "Any", "--task-queue", "any", "--workflow-id", workflow_id)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with python(OWNER, str(tmp_path)) as process:
        yield process


def test_it_knows_our_search_attributes_when_it_is_up(temporal: TemporalServer) -> None:
    known = json.loads(ask(temporal, "operator", "search-attribute", "list"))
    assert {name: known["customAttributes"].get(name) for name in SEARCH_ATTRIBUTES} == dict.fromkeys(
        SEARCH_ATTRIBUTES, "INDEXED_VALUE_TYPE_KEYWORD"
    )


def test_a_workflow_outlives_a_killed_server_on_the_same_port(tmp_path: Path) -> None:
    with TemporalServer.start(tmp_path, port=None, ui=False) as server:
        start_workflow(server, "kept")
        address = server.address
        server.kill()
        assert not server.alive
        server.restart()
        assert server.address == address
        assert json.loads(ask(server, "workflow", "describe", "--workflow-id", "kept"))
    with TemporalServer.start(tmp_path, port=None, ui=False) as server:
        assert json.loads(ask(server, "workflow", "describe", "--workflow-id", "kept"))


def test_the_web_ui_is_served_where_it_says(tmp_path: Path) -> None:
    with (
        TemporalServer.start(tmp_path, persistent=False, namespace="other", port=None, ui_port=None) as server,
        closing(http.client.HTTPConnection(server.ui_url.removeprefix("http://"), timeout=5)) as connection,
    ):
        connection.request("GET", "/api/v1/namespaces/other")
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["namespaceInfo"]["name"] == "other"


def test_a_port_in_use_is_passed_over_and_a_free_one_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted, wanted_ui = taken.getsockname()[1], free_port()
        with TemporalServer.start(tmp_path, persistent=False, port=wanted, ui_port=wanted_ui) as server:
            assert server.port != wanted
            assert server.ui_url == f"http://127.0.0.1:{wanted_ui}"


def test_starts_at_the_same_moment_do_not_take_each_others_ports(tmp_path: Path) -> None:
    wanted, wanted_ui = free_port(), free_port()

    def start(name: str) -> TemporalServer:
        return TemporalServer.start(tmp_path / name, persistent=False, port=wanted, ui_port=wanted_ui)

    with ThreadPoolExecutor() as threads:
        servers = list(threads.map(start, ["one", "two", "three"]))
    try:
        assert all(server.alive for server in servers)
        assert len({server.address for server in servers}) == 3
        assert len({server.ui_url for server in servers}) == 3
    finally:
        for server in servers:
            server.stop()


def test_a_killed_owner_takes_its_server_along(owner: "subprocess.Popen[str]") -> None:
    server = int(next_line(owner).split()[0])
    owner.send_signal(signal.SIGKILL)
    wait_until_gone(server)


def test_a_server_that_outlived_owner_and_lifeline_is_taken_over(
    owner: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    server, lifeline = map(int, next_line(owner).split())
    owner.send_signal(signal.SIGSTOP)
    os.kill(lifeline, signal.SIGKILL)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert str(tmp_path) in command_line(server)
    with TemporalServer.start(tmp_path, port=None, ui=False) as taken_over:
        assert command_line(server) == ""
        start_workflow(taken_over, "it works")


def test_a_second_owner_is_refused(owner: "subprocess.Popen[str]", tmp_path: Path) -> None:
    next_line(owner)
    with pytest.raises(LocalServerError, match=rf"belongs to another process, pid {owner.pid}\."):
        TemporalServer.start(tmp_path, port=None, ui=False)


def test_a_server_that_cannot_start_quotes_its_log(tmp_path: Path) -> None:
    (tmp_path / "temporal.db").write_text("this is no database")
    with pytest.raises(LocalServerError, match=r"does not start on port (.|\n)*file is not a database"):
        TemporalServer.start(tmp_path, port=None, ui=False)
