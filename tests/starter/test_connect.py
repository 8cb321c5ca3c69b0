"""Whose Temporal server is asked: another folder's, met at the default address, is named."""

import os
from pathlib import Path

import pytest

from knarr.local.temporal import TemporalServer
from knarr.settings import Settings
from starter import connect
from starter.exits import Exit
from starter.failures import StarterError


@pytest.fixture(autouse=True)
def at_the_default_address(temporal: TemporalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("TEMPORAL_", "KNARR_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(connect, "DEFAULT_ADDRESS", temporal.address)


async def test_another_folders_server_at_the_default_address_is_named(
    temporal: TemporalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = await connect.connect(Settings(state_dir=tmp_path / ".knarr"))

    assert service.folder == temporal.state_dir.parent
    said = capsys.readouterr()
    assert f"{temporal.address} (the default address) is the server of {temporal.state_dir.parent}" in said.err
    assert said.out == ""


async def test_a_server_that_was_named_is_not_remarked_on(
    temporal: TemporalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.address)

    await connect.connect(Settings(state_dir=tmp_path / ".knarr"))

    assert capsys.readouterr().err == ""


async def test_a_folder_with_runs_of_its_own_asks_nobody_else(tmp_path: Path) -> None:
    kept = tmp_path / ".knarr" / "temporal"
    kept.mkdir(parents=True)
    (kept / "temporal.db").touch()

    with pytest.raises(StarterError, match="this folder's Temporal server is down") as raised:
        await connect.connect(Settings(state_dir=tmp_path / ".knarr"))

    assert raised.value.exit_code is Exit.UNREACHABLE
    assert "knarr up --worker" in raised.value.hint
