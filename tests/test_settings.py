"""Aliases lead where somebody said, a missing one is named, and no password is ever shown."""

from pathlib import Path

import pytest

from knarr.errors import PlanError
from knarr.settings import Connections, Settings

PASSWORD = "pä'ss w@rd/42"
QUOTED = "p%C3%A4%27ss%20w%40rd%2F42"


def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str = "", **variables: str) -> Connections:
    file = tmp_path / "knarr.toml"
    file.write_text(toml, encoding="utf-8")
    for alias, value in variables.items():
        monkeypatch.setenv(f"KNARR_CONNECTION_{alias.upper()}", value)
    return Connections.load(Settings(connections_file=file))


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = loaded(
        tmp_path, monkeypatch, '[connections]\nshop = "postgresql://file/x"', shop="postgresql://env/x"
    )

    assert connections.resolve("shop").get_secret_value() == "postgresql://env/x"


def test_an_alias_that_only_the_file_knows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = loaded(tmp_path, monkeypatch, '[connections]\nlegacy = "postgresql://file/x"')

    assert connections.resolve("legacy").get_secret_value() == "postgresql://file/x"


def test_an_unknown_alias_names_the_variable_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = loaded(tmp_path, monkeypatch, "", legacy="postgresql://u:secret-word@h/x")

    with pytest.raises(PlanError) as raised:
        connections.resolve("shop")

    assert "KNARR_CONNECTION_SHOP" in str(raised.value)
    assert str(tmp_path / "knarr.toml") in str(raised.value)
    assert "secret-word" not in str(raised.value)


def test_of_many_aliases_those_are_named_that_may_have_been_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = "".join(f'a{number} = "postgresql://file/x"\n' for number in range(1_200))
    connections = loaded(tmp_path, monkeypatch, f'[connections]\n{others}shop_eu = "postgresql://file/x"')

    with pytest.raises(PlanError) as raised:
        connections.resolve("shopeu")

    assert "(known aliases: shop_eu, a0, a1, a10, " in str(raised.value)
    assert " and 1,191 more)" in str(raised.value)


@pytest.mark.parametrize(
    "toml", ["[connections", "connections = 3", "[connections]\nshop = 5", "[connections.shop]\na = 1"]
)
def test_a_file_that_says_something_else_is_refused(toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError):
        loaded(tmp_path, monkeypatch, toml)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="not there"):
        Connections.load(Settings(connections_file=tmp_path / "no.toml"))


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://reader:{QUOTED}@db/shop",
        f"postgresql:///shop?host=db&user=reader&password={QUOTED}",
        "host=db user=reader password='pä\\'ss w@rd/42' dbname=shop",
    ],
)
def test_a_password_is_not_shown_in_any_spelling(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = loaded(tmp_path, monkeypatch, "", shop=address)

    shown = connections.redact(f"can't connect to {address}: tried {PASSWORD} and {QUOTED}")

    assert PASSWORD not in shown
    assert QUOTED not in shown
    assert "w@rd" not in shown
    assert "can't connect" in shown
    assert PASSWORD not in repr(connections)
    assert PASSWORD not in repr(connections.resolve("shop"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNARR_TASK_QUEUE", "night")
    monkeypatch.setenv("KNARR_METRICS_PORT", "0")

    settings = Settings()

    assert (settings.task_queue, settings.metrics_port, settings.state_dir) == ("night", 0, Path(".knarr"))
