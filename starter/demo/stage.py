"""The stage of the demo: two PostgreSQL servers, a Temporal server with its Web UI, a worker; gone when the demo is."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from knarr.local.cluster import Cluster, remove
from knarr.local.state import LocalServers, StateFolder
from knarr.local.temporal import TemporalServer
from knarr.settings import CONNECTION_PREFIX, Settings
from starter import local
from starter.connect import Service
from starter.output import Output

# What a developer has set for other servers; the demo must reach its own.
FOREIGN: Final = ("PG", "TEMPORAL_", CONNECTION_PREFIX)
KEPT: Final = ("PG_BIN_DIR",)
SERVERS: Final = ("legacy-server", "shop-server", "temporal")


@dataclass(frozen=True)
class Stage:
    """Servers that run, and how to reach them."""

    settings: Settings
    service: Service
    legacy: Cluster
    shop: Cluster
    worker_pid: int
    stays: bool  # up until Ctrl-C after the acts, so that links into the Web UI lead somewhere


@contextlib.asynccontextmanager
async def set_up(output: Output, folder: Path, modules: Path, *, keep: bool, stays: bool) -> AsyncIterator[Stage]:
    """Start everything in `folder`, which is emptied first; stop everything at the end, and remove it unless `keep`.

    Args:
        modules: where the plan's transforms lie.
        stays: whether it will be left up after the acts.
    """
    if ignored := forget_other_servers():
        output.say(f"  ignored, since the demo has servers of its own: {', '.join(ignored)}")
    os.environ["KNARR_STATE_DIR"] = str(folder)
    async with contextlib.AsyncExitStack() as stack:
        if not keep:
            stack.callback(_remove, folder)  # last of all: it holds the lock
        state = stack.enter_context(StateFolder.own(folder))
        _clear(folder)
        if not keep:
            stack.callback(_clear, folder)
        legacy = stack.enter_context(Cluster.start(folder / "legacy-server", durable=False))
        shop = stack.enter_context(Cluster.start(folder / "shop-server"))
        temporal = stack.enter_context(TemporalServer.start(folder / "temporal"))
        connections = {
            "legacy": legacy.create_database("legacy"),
            "shop": shop.create_database("shop"),
            "shop_again": shop.create_database("shop_again"),
        }
        servers = LocalServers(
            temporal_address=temporal.address,
            temporal_ui_url=temporal.ui_url,
            task_queue=state.task_queue(),
            connections=connections,
        )
        state.publish(servers)
        _write_pgpass(folder / "pgpass", [legacy, shop])
        os.environ |= {f"{CONNECTION_PREFIX}{alias.upper()}": dsn for alias, dsn in connections.items()}
        settings = Settings()
        worker = await stack.enter_async_context(local.local_worker(settings, servers, modules))
        yield Stage(settings, await local.service_of(servers), legacy, shop, worker.pid, stays)


def forget_other_servers() -> list[str]:
    """Take what leads to other servers out of this process's environment; the names of what was there."""
    names = sorted(name for name in os.environ if name.startswith(FOREIGN) and name not in KEPT)
    for name in names:
        del os.environ[name]
    return names


def _write_pgpass(file: Path, clusters: list[Cluster]) -> None:
    """Passwords for whoever looks around with psql, so that none is printed."""
    file.touch(mode=0o600)
    addresses = [urlsplit(cluster.dsn()) for cluster in clusters]
    file.write_text("".join(f"{url.hostname}:{url.port}:*:{url.username}:{url.password}\n" for url in addresses))


def _remove(folder: Path) -> None:
    """Remove the folder, and the one around it if nothing else is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _clear(folder: Path) -> None:
    """Remove what an earlier demo left; the folder itself stays, since we own it."""
    for name in SERVERS[:2]:
        remove(folder / name)
    for name in (SERVERS[2], "tpch"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("worker.log", "pgpass"):
        (folder / name).unlink(missing_ok=True)
