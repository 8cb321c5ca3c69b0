"""A run that a folder keeps is never mistaken: no other server answers for it, and what is printed works as printed."""

import re
import signal
import time
from pathlib import Path

import pytest

from knarr.local.cluster import Cluster
from knarr.local.temporal import TemporalServer
from starter.exits import Exit
from tests.endtoend.command import Knarr
from tests.endtoend.test_chinook import name_of
from tests.saga.scene import SHOP

pytestmark = [pytest.mark.saga, pytest.mark.timeout(600)]

PLAN = """
name: kept
source: legacy
target: shop
mappings:
  - {target: shop.customer, source: public.customer c, key: {id: c.c_id}, columns: {name: trim(c.c_name)}}
rollback: {keep_for: 7d}
"""


def test_a_folder_whose_server_is_down_asks_no_stranger(
    cluster: Cluster, source_dsn: str, target_dsn: str, temporal: TemporalServer, tmp_path: Path
) -> None:
    cluster.psql(SHOP, name_of(source_dsn))
    (tmp_path / "kept.yaml").write_text(PLAN)
    connections = {"legacy": source_dsn, "shop": target_dsn}
    knarr = Knarr(tmp_path, connections)
    elsewhere = Knarr(tmp_path, connections, {"TEMPORAL_ADDRESS": temporal.address})

    ended = knarr("run", "kept.yaml")

    assert ended.returncode == Exit.DONE, ended.stderr
    orders = ended.stdout[ended.stdout.index("kept open: ") :]
    first, complete = orders.index("first:        knarr up --worker"), orders.index("keep it:      knarr complete")
    assert first < complete
    found = re.search(r"knarr complete (\S+)", orders)
    assert found is not None
    run = found[1]

    # The folder's own server is down.
    for order in (["list"], ["status", "kept"], ["abort", "kept", "--reason", "x", "--yes"], ["report", run]):
        refused = knarr(*order)
        assert refused.returncode == Exit.UNREACHABLE, order
        assert "this folder's Temporal server is down; its runs are kept in .knarr" in refused.stderr
        assert "knarr up --worker" in refused.stderr
    looked = knarr("doctor", "kept.yaml")
    assert looked.returncode == Exit.UNREACHABLE
    assert "orphaned" not in looked.stdout
    assert "--unwind" not in looked.stdout

    # A person may name another server; then it is said that it is another.
    listed = elsewhere("list")
    assert listed.returncode == Exit.DONE
    assert f"note: {temporal.address} is asked (TEMPORAL_ADDRESS), not this folder's own server" in listed.stderr
    looked = elsewhere("doctor", "kept.yaml")
    assert f"warn  shop: lease of {run}" in looked.stdout
    assert f"is the server of another folder, {temporal.state_dir.parent}" in looked.stdout
    assert "orphaned" not in looked.stdout
    refused = elsewhere("doctor", "--unwind", run, "--yes")
    assert refused.returncode == Exit.REFUSED
    assert "this run may be kept in its own" in refused.stderr

    # As printed.
    up = knarr.start("up", "--worker")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".knarr" / "local.json").exists():
            assert up.poll() is None, up.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        completed = knarr("complete", run, "--reason", "it is good", "--yes")
        assert completed.returncode == Exit.DONE, completed.stderr
        assert "note:" not in completed.stderr
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=60)
