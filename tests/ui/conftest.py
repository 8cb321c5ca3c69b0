"""The Web UI with runs in it, and an album of its pictures."""

import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from tests.saga.scene import SHOP, Scene, connect, run_script
from tests.servers import start_temporal, stop_temporal
from tests.ui import plays
from tests.ui.album import Album
from tests.ui.album import album as new_album

CHROMIUM: Final = "/usr/bin/chromium"


@pytest.fixture(scope="session")
def temporal_with_ui() -> Iterator[TemporalServer]:
    """A Temporal server of its own, so that its list shows these runs and no others."""
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"no pictures of the Web UI: there is no {CHROMIUM} (Debian: apt-get install chromium)")
    server = start_temporal(ui=True)
    yield server
    stop_temporal(server)


@pytest.fixture(scope="session")
async def scene(cluster: Cluster, second_cluster: Cluster, temporal_with_ui: TemporalServer) -> AsyncIterator[Scene]:
    """One shop for all pictures: their runs follow each other on the same two databases."""
    source, target = cluster.create_database("ui_source"), second_cluster.create_database("ui_target")
    await run_script(source, SHOP)
    yield Scene(source, target, await connect(temporal_with_ui.address))
    cluster.drop_database("ui_source")
    second_cluster.drop_database("ui_target")


@pytest.fixture(scope="session")
async def album(scene: Scene, temporal_with_ui: TemporalServer) -> Album:
    """Pictures of a run that rolled back, of one that is stuck, then paused, then kept open."""
    async with new_album(temporal_with_ui.ui_url, temporal_with_ui.namespace) as album, scene.worker():
        pictures = await plays.rolled_back(scene, album)
        await plays.at_work(scene, album, pictures)
    return album
