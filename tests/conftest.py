"""Fixtures every test may ask for: two unlike PostgreSQL servers, a fresh database on each, a Temporal server."""

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from tests.servers import UNLIKE, start_cluster, start_temporal, stop_cluster, stop_temporal

_numbers: Final = itertools.count(1)
_status = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server with its usual settings; one per test process."""
    server = start_cluster()
    yield server
    stop_cluster(server)


@pytest.fixture(scope="session")
def second_cluster() -> Iterator[Cluster]:
    """A second server, unlike the first in every setting that changes how values look as text."""
    server = start_cluster(UNLIKE)
    yield server
    stop_cluster(server)


@pytest.fixture
def source_dsn(cluster: Cluster) -> Iterator[str]:
    """The URL of a fresh database on `cluster`, dropped after the test whatever is still connected."""
    name = f"source_{next(_numbers)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


@pytest.fixture
def target_dsn(second_cluster: Cluster) -> Iterator[str]:
    """The URL of a fresh database on `second_cluster`, dropped after the test whatever is still connected."""
    name = f"target_{next(_numbers)}"
    yield second_cluster.create_database(name)
    second_cluster.drop_database(name)


@pytest.fixture(scope="session")
def temporal() -> Iterator[TemporalServer]:
    """A Temporal server that knows our search attributes, in memory, without a Web UI; one per test process."""
    server = start_temporal()
    yield server
    stop_temporal(server)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    # A process that used temporalio may crash while the interpreter finalises (sdk-python #300): by now every report
    # is written, so leave before that. An xdist worker is left to its controller, which waits for it to close.
    if hasattr(config, "workerinput") or _status not in config.stash:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(config.stash[_status])
