"""The state folder tells other commands what runs, and never what no longer runs."""

import signal
import stat
from pathlib import Path

import pytest

from knarr.local.errors import LocalServerError
from knarr.local.owner import FolderLock, is_owned
from knarr.local.state import STATE_FILE, LocalServers, StateFolder, running
from tests.servers import next_line, python

SERVERS = LocalServers(
    temporal_address="127.0.0.1:7233",
    temporal_ui_url="http://127.0.0.1:8233",
    connections={"legacy": "postgresql://postgres:hush@127.0.0.1:5432/legacy"},
)


def test_what_an_owner_publishes_others_read(tmp_path: Path) -> None:
    with StateFolder.own(tmp_path / ".knarr") as folder:
        assert running(folder.path) is None
        folder.publish(SERVERS)
        assert running(folder.path) == SERVERS
    assert running(tmp_path / ".knarr") is None
    assert not (tmp_path / ".knarr" / STATE_FILE).exists()


def test_a_folder_keeps_its_task_queue_and_shares_it_with_no_other(tmp_path: Path) -> None:
    with StateFolder.own(tmp_path / "here") as here, StateFolder.own(tmp_path / "there") as there:
        queue = here.task_queue()
        assert queue != there.task_queue()
    with StateFolder.own(tmp_path / "here") as here:
        assert here.task_queue() == queue


def test_the_record_is_for_its_user_alone(tmp_path: Path) -> None:
    with StateFolder.own(tmp_path / ".knarr") as folder:
        folder.publish(SERVERS)
        assert stat.S_IMODE((folder.path / STATE_FILE).stat().st_mode) == 0o600
        assert [path.name for path in folder.path.iterdir() if path.name.startswith(".local-")] == []


def test_the_passwords_do_not_show_when_the_record_is_printed() -> None:
    assert "hush" not in repr(SERVERS)
    assert "hush" not in str(SERVERS)


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path; from knarr.local.state import StateFolder\n"
        f"folder = StateFolder.own(Path({str(tmp_path)!r})); print('mine', flush=True); time.sleep(300)"
    )
    with python(script) as owner:
        assert next_line(owner) == "mine"
        with pytest.raises(LocalServerError, match=rf"belongs to another process, pid {owner.pid}\."):
            StateFolder.own(tmp_path)


def test_a_killed_owners_record_is_not_believed(tmp_path: Path) -> None:
    script = (
        "import time; from pathlib import Path; from knarr.local.state import LocalServers, StateFolder\n"
        f"folder = StateFolder.own(Path({str(tmp_path)!r})); folder.publish(LocalServers(temporal_address='x:1'))\n"
        "print('published', flush=True); time.sleep(300)"
    )
    with python(script) as owner:
        assert next_line(owner) == "published"
        found = running(tmp_path)
        assert found is not None
        assert found.owner_pid == owner.pid
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert (tmp_path / STATE_FILE).exists()
    assert running(tmp_path) is None
    with StateFolder.own(tmp_path):
        assert not (tmp_path / STATE_FILE).exists()


def test_a_folder_that_is_not_there_has_no_owner(tmp_path: Path) -> None:
    assert running(tmp_path / "absent") is None
    assert not is_owned(tmp_path / "absent")


def test_a_record_that_cannot_be_read_is_reported_without_what_it_holds(tmp_path: Path) -> None:
    with StateFolder.own(tmp_path) as folder:
        (folder.path / STATE_FILE).write_text('{"connections": {"legacy": 1}, "password": "hush"}')
        with pytest.raises(LocalServerError, match="is not a record of this version of Knarr") as caught:
            running(folder.path)
    assert "hush" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalServerError, match=r"The state folder .*/file/below cannot be used"):
        StateFolder.own(tmp_path / "file" / "below")


def test_a_lock_is_free_again_after_its_release(tmp_path: Path) -> None:
    lock = FolderLock.take(tmp_path, "The folder")
    assert is_owned(tmp_path)
    lock.release()
    lock.release()
    assert not is_owned(tmp_path)
