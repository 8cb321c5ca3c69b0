"""Pinned connections to a fresh source and a fresh target, and a run that holds a table there."""

from collections.abc import AsyncIterator

import pytest

from knarr.local.cluster import Cluster
from knarr.postgres.session import Connection, connect
from tests.postgres.occupied import Occupied
from tests.postgres.specimens import Run, claimed


@pytest.fixture
async def source(source_dsn: str) -> AsyncIterator[Connection]:
    """A pinned connection to the source."""
    connection = await connect(source_dsn, application_name="test source")
    yield connection
    connection.terminate()


@pytest.fixture
async def target(target_dsn: str) -> AsyncIterator[Connection]:
    """A pinned connection to the target."""
    connection = await connect(target_dsn, application_name="test target")
    yield connection
    connection.terminate()


@pytest.fixture
async def run(source: Connection, target: Connection, target_dsn: str) -> AsyncIterator[Run]:
    """A run that holds public.taken on the target."""
    held = await claimed(source, target, target_dsn)
    yield held
    for connection in held.opened:
        connection.terminate()


@pytest.fixture(scope="module")
async def shared(second_cluster: Cluster) -> AsyncIterator[Connection]:
    """A pinned connection for the tests of one module that write nothing, or drop what they write."""
    dsn = second_cluster.create_database("shared")
    connection = await connect(dsn, application_name="test shared")
    yield connection
    await connection.close()
    second_cluster.drop_database("shared")


@pytest.fixture
def occupied(run: Run, second_cluster: Cluster) -> Occupied:
    """A run whose target table has rows of its own."""
    return Occupied(run, second_cluster)
