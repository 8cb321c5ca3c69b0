"""Connection aliases for commands: the environment and the TOML file, and databases that run in this folder."""

import os

from knarr.local.state import running
from knarr.settings import CONNECTION_PREFIX, Connections, Settings


def load_connections(settings: Settings) -> Connections:
    """Where aliases lead; an embedded database of this state folder stands behind an alias that nobody else has set.

    Raises:
        PlanError: the connections file can't be read.
    """
    local = running(settings.state_dir)
    for alias, dsn in (local.connections if local else {}).items():
        os.environ.setdefault(f"{CONNECTION_PREFIX}{alias.upper()}", dsn)
    return Connections.load(settings)
