"""The stage on which saga tests play."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from knarr.local.temporal import TemporalServer
from tests.saga.scene import SHOP, Scene, connect, run_script
from tests.servers import start_temporal, stop_temporal

FEW_EVENTS: Final = 40


@pytest.fixture(scope="module")
def hasty_temporal() -> Iterator[TemporalServer]:
    """A Temporal server that finds forty events a long history."""
    server = start_temporal(history_suggested=FEW_EVENTS)
    yield server
    stop_temporal(server)


@pytest.fixture
async def scene(source_dsn: str, target_dsn: str, temporal: TemporalServer) -> AsyncIterator[Scene]:
    """A shop in the source, an empty target, a client."""
    await run_script(source_dsn, SHOP)
    yield Scene(source_dsn, target_dsn, await connect(temporal.address))
