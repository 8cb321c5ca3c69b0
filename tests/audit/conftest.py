"""A target with a fresh knarr schema for each test, in one database for all: a new one costs half a second."""

from collections.abc import AsyncIterator, Iterator

import pytest

from knarr.local.cluster import Cluster
from knarr.postgres.schema import install
from knarr.postgres.session import Connection, connect


@pytest.fixture(scope="session")
def audit_dsn(second_cluster: Cluster) -> Iterator[str]:
    """The database of these tests."""
    yield second_cluster.create_database("audit")
    second_cluster.drop_database("audit")


@pytest.fixture
async def target(audit_dsn: str) -> AsyncIterator[Connection]:
    """A session of the owner of a fresh knarr schema, who is superuser too."""
    connection = await connect(audit_dsn, application_name="tests")
    await connection.execute("DROP SCHEMA IF EXISTS knarr CASCADE")
    await install(connection)
    yield connection
    await connection.close()
