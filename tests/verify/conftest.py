"""Fixtures of the verification tests: a pinned session on each of two unlike servers."""

from collections.abc import AsyncIterator

import pytest

from knarr.postgres.session import Connection, connect


@pytest.fixture
async def source(source_dsn: str) -> AsyncIterator[Connection]:
    """A session on the source, as a worker would have it."""
    connection = await _session(source_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def target(target_dsn: str) -> AsyncIterator[Connection]:
    """A session on the target."""
    connection = await _session(target_dsn)
    yield connection
    await connection.close()


async def _session(dsn: str) -> Connection:
    connection = await connect(dsn, application_name="test of verification")
    # Names resolve as in a worker's session, but an unqualified CREATE goes to public.
    await connection.execute("SET search_path = public, pg_temp")
    return connection
