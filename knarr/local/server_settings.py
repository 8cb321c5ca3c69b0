"""The settings of our PostgreSQL servers: for a data tool on a laptop, and for tests."""

import shutil
import sys
from collections.abc import Mapping
from typing import Final

from knarr.local.ports import LOOPBACK

# wal_level=logical: what a live capture needs later must not ask for a restart.
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # no socket, so no path to keep under its 104 bytes and no folder to sweep
    "shared_buffers": "256MB",
    "max_connections": "100",
    "max_wal_size": "4GB",
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "logging_collector": "off",
    "log_checkpoints": "off",
}
# For tests: a crash of the machine may lose the data. A crash of the server may not, for tests kill servers and count
# rows after it; so synchronous_commit stays on (off was seen to lose what was committed just before a SIGKILL).
NOT_DURABLE: Final[Mapping[str, str]] = {"fsync": "off", "full_page_writes": "off"}

# A container gives 64 MB of shared memory by default; parallel queries and index builds need more, or fail.
LITTLE_SHARED_MEMORY: Final = 512 << 20


def server_settings(*, durable: bool) -> dict[str, str]:
    """What a server is started with; `durable=False` is faster and trusts that the machine stays up."""
    settings = {**SETTINGS, **({} if durable else NOT_DURABLE)}
    if sys.platform == "linux" and shutil.disk_usage("/dev/shm").total < LITTLE_SHARED_MEMORY:
        settings["dynamic_shared_memory_type"] = "mmap"
    return settings
