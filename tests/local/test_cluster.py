"""A PostgreSQL server of our own lives exactly as long as its owner, and keeps what it was given."""

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from knarr.local.account import run_options, service_account
from knarr.local.cluster import Cluster, remove
from knarr.local.errors import LocalServerError
from knarr.local.folders import stand_ins_of
from knarr.local.lifeline import command_line
from knarr.local.ports import free_port
from tests.servers import UNLIKE, new_folder, next_line, python, wait_until_gone

OWNER = """
import sys, time
from pathlib import Path
from knarr.local.cluster import Cluster
cluster = Cluster.start(Path(sys.argv[1]), durable=False)
cluster.create_database("kept")
print((cluster.data / "postmaster.pid").read_text().splitlines()[0], cluster._lifeline._process.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def state_dir() -> Iterator[Path]:
    folder = new_folder()
    yield folder / "postgres"
    remove(folder / "postgres")
    folder.rmdir()


@pytest.fixture
def owner(state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    with python(OWNER, str(state_dir)) as process:
        yield process


def pids(owner: "subprocess.Popen[str]") -> tuple[int, int]:
    """The server's and the lifeline's."""
    server, lifeline = next_line(owner).split()
    return int(server), int(lifeline)


def test_a_killed_owner_takes_its_server_along(owner: "subprocess.Popen[str]", state_dir: Path) -> None:
    server, _ = pids(owner)
    assert str(state_dir) in command_line(server)
    owner.send_signal(signal.SIGKILL)
    wait_until_gone(server)
    with Cluster.start(state_dir) as cluster:
        assert cluster.psql("SELECT count(*) FROM pg_database WHERE datname = 'kept'") == "1\n"


def test_a_server_that_outlived_owner_and_lifeline_is_taken_over(
    owner: "subprocess.Popen[str]", state_dir: Path
) -> None:
    server, lifeline = pids(owner)
    owner.send_signal(signal.SIGSTOP)  # so that it cannot tell its lifeline anything
    os.kill(lifeline, signal.SIGKILL)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert str(state_dir) in command_line(server)
    with Cluster.start(state_dir) as cluster:
        assert command_line(server) == ""
        assert cluster.psql("SELECT count(*) FROM pg_database WHERE datname = 'kept'") == "1\n"


def test_a_second_owner_is_refused_and_the_first_ones_server_lives(
    owner: "subprocess.Popen[str]", state_dir: Path
) -> None:
    server, _ = pids(owner)
    with pytest.raises(LocalServerError, match=rf"belongs to another process, pid {owner.pid}\."):
        Cluster.start(state_dir)
    with pytest.raises(LocalServerError, match="belongs to another process"):
        remove(state_dir)
    assert str(state_dir) in command_line(server)


def test_a_stale_pid_file_stands_in_nobodys_way(state_dir: Path) -> None:
    with Cluster.start(state_dir, durable=False) as cluster:
        cluster.psql("CREATE TABLE kept AS SELECT 42 AS answer")
        cluster.kill()
        assert (cluster.data / "postmaster.pid").exists()
    with Cluster.start(state_dir, durable=False) as cluster:
        assert cluster.psql("SELECT answer FROM kept") == "42\n"


def test_a_stranger_with_the_stale_files_pid_is_left_alone(state_dir: Path) -> None:
    with Cluster.start(state_dir, durable=False) as cluster:
        cluster.kill()
        pid_file = cluster.data / "postmaster.pid"
    # As the server's own account: only then would PostgreSQL take it for a running server.
    options = run_options(service_account(), Path("/"))
    with subprocess.Popen(["/bin/sleep", "300"], **options) as stranger:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        try:
            with Cluster.start(state_dir, durable=False) as cluster:
                assert cluster.psql("SELECT 1") == "1\n"
            survived = stranger.poll() is None
        finally:
            stranger.kill()
    assert survived


def test_what_a_killed_initdb_left_is_made_anew(state_dir: Path) -> None:
    with Cluster.start(state_dir, durable=False) as cluster:
        data = cluster.data
    data.rename(data.with_name(data.name + ".new"))
    (data.with_name(data.name + ".new") / "PG_VERSION").write_text("18\n")
    with Cluster.start(state_dir, durable=False) as cluster:
        assert cluster.psql("SELECT 1") == "1\n"
        assert not data.with_name(data.name + ".new").exists()


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        numbers = iter([taken.getsockname()[1], taken.getsockname()[1]])
        monkeypatch.setattr("knarr.local.cluster.free_port", lambda: next(numbers, None) or free_port())
        with Cluster.start(state_dir, durable=False) as cluster:
            assert cluster.port != taken.getsockname()[1]
            assert cluster.psql("SELECT 1") == "1\n"


def test_a_wanted_port_that_is_taken_is_an_error_that_says_so(state_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LocalServerError, match=r"does not start(.|\n)*Address already in use"):
            Cluster.start(state_dir, durable=False, port=taken.getsockname()[1])


def test_a_setting_that_the_server_refuses_is_quoted_from_its_log(state_dir: Path) -> None:
    with pytest.raises(LocalServerError, match=r"does not start(.|\n)*no_such_setting"):
        Cluster.start(state_dir, durable=False, settings={"no_such_setting": "1"})


def test_below_a_closed_home_it_runs_and_leaves_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    cluster = Cluster.start(tmp_path / "postgres", durable=False)
    assert cluster.psql("SELECT 1") == "1\n"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    elsewhere = stand_ins_of("data", tmp_path / "postgres")
    assert len(elsewhere) == (0 if service_account() is None else 1)
    cluster.destroy()
    assert list(tmp_path.iterdir()) == []
    assert [path for path in elsewhere if path.exists()] == []


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_restart_keeps_the_port_and_what_was_committed(cluster: Cluster, source_dsn: str, mode: str) -> None:
    database = source_dsn.rsplit("/", 1)[1].partition("?")[0]
    cluster.psql(f"CREATE TABLE kept AS SELECT '{mode}' AS mode", database)
    port = cluster.port
    cluster.restart(mode)  # type: ignore[arg-type]
    assert cluster.port == port
    assert cluster.psql("SELECT mode FROM kept", database) == f"{mode}\n"


async def test_the_dsn_serves_asyncpg_whatever_the_developers_variables_say(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGHOST": "nowhere", "PGPORT": "1", "PGDATABASE": "x", "PGSSLMODE": "require"}.items():
        monkeypatch.setenv(name, value)
    connection = await asyncpg.connect(cluster.dsn())
    try:
        assert await connection.fetchval("SELECT current_user") == "postgres"
    finally:
        await connection.close()
    assert cluster.psql("SELECT 1") == "1\n"


async def test_a_wrong_password_is_refused(cluster: Cluster) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(cluster.dsn(), password="guessed")


async def test_a_database_may_have_any_name(cluster: Cluster) -> None:
    name = 'Émile\'s "shop"; DROP/%20?#'
    dsn = cluster.create_database(name)
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT current_database()") == name
        cluster.drop_database(name)  # though somebody is connected
        assert (
            cluster.psql("SELECT count(*) FROM pg_database WHERE datname = :'name'", variables={"name": name}) == "0\n"
        )
    finally:
        await connection.close()


def test_a_database_made_from_a_template_has_its_tables(cluster: Cluster) -> None:
    cluster.create_database("pattern")
    cluster.psql("CREATE TABLE filled AS SELECT generate_series(1, 3) AS n", "pattern")
    cluster.create_database("copy of it", template="pattern")
    assert cluster.psql("SELECT sum(n) FROM filled", "copy of it") == "6\n"
    cluster.drop_database("copy of it")
    cluster.drop_database("pattern")
    cluster.drop_database("pattern")


def test_two_dumps_of_one_state_are_one_text(cluster: Cluster, source_dsn: str) -> None:
    database = source_dsn.rsplit("/", 1)[1].partition("?")[0]
    cluster.psql("CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, 'é');", database)
    first = cluster.pg_dump(database)
    assert first == cluster.pg_dump(database)
    assert "é" in first
    cluster.psql("UPDATE t SET note = 'e'", database)
    assert first != cluster.pg_dump(database)
    assert "INSERT INTO public.t VALUES (1, 'e');" in cluster.pg_dump(database, "--inserts", "--data-only")


def test_a_failing_statement_is_quoted_without_the_password(cluster: Cluster) -> None:
    with pytest.raises(LocalServerError, match=r'relation "absent" does not exist') as caught:
        cluster.psql("SELECT * FROM absent; CREATE TABLE never (n int);")
    password = cluster.dsn().partition("postgres:")[2].partition("@")[0]
    assert password not in str(caught.value)
    assert cluster.psql("SELECT to_regclass('never') IS NULL") == "t\n"


def test_a_script_may_be_a_file(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "script.sql"
    script.write_text("SELECT :'greeting';\n")
    assert cluster.psql(script, variables={"greeting": "it's me"}) == "it's me\n"


def test_a_server_that_is_down_is_said_to_be_down(state_dir: Path) -> None:
    with Cluster.start(state_dir, durable=False) as cluster:
        cluster.kill()
        assert not cluster.alive
        with pytest.raises(LocalServerError, match="Next: the server is not running"):
            cluster.psql("SELECT 1")


def test_secrets_and_data_are_closed_to_others(cluster: Cluster) -> None:
    assert stat.S_IMODE((cluster.state_dir / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700


def test_the_server_is_reached_by_the_loopback_interface_alone(cluster: Cluster) -> None:
    assert cluster.psql("SHOW listen_addresses; SHOW unix_socket_directories;") == "127.0.0.1\n\n"


def test_a_durable_server_keeps_its_promises_to_the_disk(state_dir: Path) -> None:
    with Cluster.start(state_dir) as cluster:
        found = cluster.psql("SHOW fsync; SHOW synchronous_commit; SHOW full_page_writes; SHOW wal_level;")
    assert found == "on\non\non\nlogical\n"


def test_the_second_server_is_unlike_the_first(cluster: Cluster, second_cluster: Cluster) -> None:
    for name, value in UNLIKE.items():
        assert second_cluster.psql(f"SHOW {name}") == f"{value}\n"
        assert cluster.psql(f"SHOW {name}") != f"{value}\n"
