"""Orders from the command line while a run is under way: pause, resume, abort; a duplicate start; lost names."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from tests.endtoend.command import Knarr
from tests.endtoend.test_chinook import name_of
from tests.saga.scene import SHOP

pytestmark = [pytest.mark.saga, pytest.mark.timeout(600)]

PLAN = """
name: orders
source: legacy
target: shop
mappings:
  - target: shop.customer
    source: public.customer c
    key: {id: c.c_id}
    columns: {name: trim(c.c_name)}
  - target: shop.order
    source: public.orders o
    key: {id: o.o_id}
    columns: {customer_id: o.o_customer, total: o.o_total}
    foreign_keys: [customer_id -> shop.customer(id)]
limits: {partition_size: 64KiB}
parallelism: {mappings: 1, partitions: 1}
"""

# So many rows in so small partitions that a run lasts longer than the few commands of a test. Without triggers, which
# would look each row's customer up: 2 s instead of 7 s.
MORE = """
SET session_replication_role = replica;
INSERT INTO orders SELECT n, n % 2000 + 1, 'O', 1, date '2021-01-01' FROM generate_series(20001, 1000000) n;
"""


@pytest.fixture
def knarr(cluster: Cluster, source_dsn: str, target_dsn: str, tmp_path: Path) -> Knarr:
    cluster.psql(SHOP, name_of(source_dsn))
    (tmp_path / "orders.yaml").write_text(PLAN)
    return Knarr(tmp_path, {"legacy": source_dsn, "shop": target_dsn})


@pytest.fixture
def up(knarr: Knarr) -> Iterator[Knarr]:
    """Embedded Temporal and a worker, as `knarr up --worker` gives them."""
    process = knarr.start("up", "--worker")
    deadline = time.monotonic() + 60
    while not (knarr.folder / ".knarr" / "local.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield knarr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def state(knarr: Knarr, run: str) -> str:
    return str(knarr.document("status", run)["state"])


def moved(knarr: Knarr, run: str) -> int:
    return int(knarr.document("status", run)["progress"]["status"]["rows"])


def until(knarr: Knarr, run: str, *states: str) -> None:
    deadline = time.monotonic() + 120
    while state(knarr, run) not in states:
        assert time.monotonic() < deadline, f"the run is not {states}"
        time.sleep(0.3)


def test_pause_resume_and_abort_from_the_command_line(
    up: Knarr, cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str
) -> None:
    cluster.psql(MORE, name_of(source_dsn))
    before = second_cluster.pg_dump(name_of(target_dsn), "--exclude-schema=knarr")
    started = up("start", "orders.yaml", "--detach")
    assert started.returncode == 0, started.stderr
    assert up("pause", "orders", "--reason", "the shop is busy").returncode == 0
    until(up, "orders", "paused")
    rows = moved(up, "orders")
    time.sleep(1)
    assert moved(up, "orders") == rows
    again = up("pause", "orders", "--reason", "twice")
    assert again.returncode != 0
    assert "paused already" in again.stderr
    assert up("resume", "orders", "--reason", "it is quiet now").returncode == 0
    assert up("abort", "orders", "--reason", "not today", "--yes").returncode == 0
    assert up("watch", "orders").returncode == 21
    assert second_cluster.pg_dump(name_of(target_dsn), "--exclude-schema=knarr") == before
    audited = up("audit", "orders")
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_a_duplicate_start_is_refused_with_the_running_runs_id(up: Knarr) -> None:
    first = up.document("start", "orders.yaml", "--detach", "--pause-before", "copy")
    second = up("start", "orders.yaml", "--detach")
    assert second.returncode == 5
    assert first["run_id"] in second.stderr
    third = up("start", str(_renamed(up)), "--detach")
    assert third.returncode == 5, third.stdout + third.stderr
    assert first["run_id"] in third.stdout + third.stderr
    assert up("abort", "orders", "--reason", "the test is over", "--yes").returncode == 0
    assert up("watch", "orders").returncode == 21


def test_a_run_that_is_not_there_is_not_found(temporal: TemporalServer, tmp_path: Path) -> None:
    knarr = Knarr(tmp_path, {}, {"TEMPORAL_ADDRESS": temporal.address})
    assert knarr("status", "nobody").returncode == 3


def test_without_a_server_the_message_says_how_to_start_one(knarr: Knarr) -> None:
    nowhere = Knarr(knarr.folder, {}, {"TEMPORAL_ADDRESS": "127.0.0.1:1"})
    done = nowhere("status", "orders")
    assert done.returncode == 4
    assert "knarr up" in done.stderr


def _renamed(knarr: Knarr) -> Path:
    path = knarr.folder / "other.yaml"
    path.write_text(PLAN.replace("name: orders", "name: other"))
    return path
