"""What a worker or a command is told by its surroundings: KNARR_* variables, and where each connection alias leads."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from knarr.addresses import Address, passwords
from knarr.errors import PlanError
from knarr.telemetry.scrub import BLANK, scrub

CONNECTION_PREFIX: Final = "KNARR_CONNECTION_"
MOST_ALIASES: Final = 10
DEFAULT_CONNECTIONS_FILE: Final = Path("knarr.toml")


class Settings(BaseSettings):
    """Read from KNARR_* environment variables; every field has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix="KNARR_", frozen=True, extra="ignore")

    task_queue: str = Field(default="knarr", min_length=1, description="Temporal task queue that workers poll")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="Prometheus exposition; 0 switches it off")
    connections_file: Path | None = Field(default=None, description="TOML with [connections]; default knarr.toml")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    state_dir: Path = Field(default=Path(".knarr"), description="where embedded servers keep their data")


class Connections:
    """Connection aliases and the addresses behind them; the only place that knows a password.

    An alias is taken from KNARR_CONNECTION_<ALIAS> or else from the TOML file:

        [connections]
        legacy = "postgresql://reader@db1/shop?sslmode=verify-full"
    """

    def __init__(self, addresses: Mapping[str, SecretStr], file: Path) -> None:
        self._addresses = dict(addresses)
        self._file = file
        self._secrets = _known_secrets(self._addresses.values())

    def __repr__(self) -> str:
        return f"Connections({', '.join(sorted(self._addresses))})"

    @classmethod
    def load(cls, settings: Settings) -> "Connections":
        """Reads the environment and the TOML file once.

        Raises:
            PlanError: the file was named but is not there, is not TOML, or [connections] holds other than text.
        """
        file = settings.connections_file or DEFAULT_CONNECTIONS_FILE
        addresses = _read_file(file, must_exist=settings.connections_file is not None)
        for name, value in os.environ.items():
            if name.upper().startswith(CONNECTION_PREFIX) and value:
                addresses[name[len(CONNECTION_PREFIX) :].lower()] = SecretStr(value)
        return cls(addresses, file)

    def resolve(self, alias: str) -> Address:
        """The address behind an alias.

        Raises:
            PlanError: nobody said where the alias leads; names the variable and the file that were looked at.
        """
        if found := self._addresses.get(alias):
            return Address(found.get_secret_value(), alias)
        known = _nearest_first(alias, self._addresses)
        raise PlanError(
            f"connection '{alias}' leads nowhere: neither the variable {CONNECTION_PREFIX}{alias.upper()} nor "
            f"[connections] {alias} in {self._file} is set (known aliases: {known})",
            hint=f"export {CONNECTION_PREFIX}{alias.upper()}=postgresql://user@host/database where the worker starts",
        )

    @property
    def aliases(self) -> list[str]:
        """All aliases that lead somewhere."""
        return sorted(self._addresses)

    def redact(self, text: str) -> str:
        """The text without any address or password known here, in plain or URL spelling, nor what looks like one."""
        for secret in self._secrets:
            text = text.replace(secret, BLANK)
        return scrub(text)


def _nearest_first(alias: str, known: Iterable[str]) -> str:
    """The aliases that there are, those first that may have been meant; of many only so many."""
    names = sorted(known, key=lambda name: (-SequenceMatcher(None, alias.lower(), name.lower()).ratio(), name))
    more = f" and {len(names) - MOST_ALIASES:,} more" if len(names) > MOST_ALIASES else ""
    return ", ".join(names[:MOST_ALIASES]) + more or "none"


def _read_file(file: Path, *, must_exist: bool) -> dict[str, SecretStr]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise PlanError(f"the connections file {file} is not there", hint="check KNARR_CONNECTIONS_FILE") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"the connections file {file} can't be read: {type(error).__name__}") from None
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"the connections file {file} is not TOML: {scrub(str(error))}") from None
    table = document.get("connections", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise PlanError(f"{file}: [connections] must map each alias to one address in quotes")
    return {alias: SecretStr(value) for alias, value in table.items()}


def _known_secrets(addresses: Iterable[SecretStr]) -> list[str]:
    """What must never be shown, longest first so that a whole address goes before the password in it."""
    secrets: set[str] = set()
    if password := os.environ.get("PGPASSWORD"):
        secrets.add(password)
    for address in addresses:
        text = address.get_secret_value()
        secrets |= {text, *passwords(text)}
    # One or two characters would blank out half of every message; such a password protects nothing.
    return sorted((secret for secret in secrets if len(secret) > 2), key=len, reverse=True)
