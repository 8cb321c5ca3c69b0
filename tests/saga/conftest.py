"""The stage on which saga tests play."""

from collections.abc import AsyncIterator

import pytest

from knarr.local.temporal import TemporalServer
from tests.saga.scene import SHOP, Scene, connect, run_script


@pytest.fixture
async def scene(source_dsn: str, target_dsn: str, temporal: TemporalServer) -> AsyncIterator[Scene]:
    """A shop in the source, an empty target, a client."""
    await run_script(source_dsn, SHOP)
    yield Scene(source_dsn, target_dsn, await connect(temporal.address))
