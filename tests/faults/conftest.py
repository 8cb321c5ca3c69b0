"""The theatre of the fault tests. Those marked `slow` run with KNARR_FAULTS=long only (`make faults`)."""

from collections.abc import AsyncIterator, Iterator

import pytest

from knarr.local.temporal import TemporalServer
from tests.faults.record import LONG
from tests.faults.stage import Nursery, Theatre
from tests.saga.conftest import scene as scene
from tests.saga.scene import connect
from tests.servers import UNLIKE, start_cluster, stop_cluster

# Nothing but a run may spend a transaction id on the source; and a target whose few seats can be filled.
QUIET = {"autovacuum": "off"}
SMALL = {"autovacuum": "off", "max_connections": "50", "shared_buffers": "64MB"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long form's cases out of the short form, and says how many."""
    if LONG:
        return
    left_out = [item for item in items if "faults" in item.path.parts and item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that forks workers."""
    process = Nursery()
    yield process
    process.close()


@pytest.fixture(scope="session")
async def theatre(temporal: TemporalServer, nursery: Nursery) -> AsyncIterator[Theatre]:
    """Two servers that nobody else uses, filled."""
    source, target = start_cluster(QUIET), start_cluster({**SMALL, **UNLIKE})
    place = Theatre(source, target, nursery, await connect(temporal.address))
    place.build()
    yield place
    stop_cluster(target)
    stop_cluster(source)
