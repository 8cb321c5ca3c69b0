"""A merge from the command line: it says at its end, and in the report, what became of the rows that were there."""

from pathlib import Path

import pytest

from knarr.local.cluster import Cluster
from tests.endtoend.command import Knarr
from tests.endtoend.test_chinook import name_of

pytestmark = [pytest.mark.saga, pytest.mark.timeout(300)]

PLAN = """
name: merged
source: legacy
target: shop
mappings:
  - target: public.customer
    mode: merge
    source: public.customer
    key: {id: id}
    columns: {name: name}
    delete_missing: true
"""
TABLE = "CREATE TABLE customer (id bigint PRIMARY KEY, name text); INSERT INTO customer SELECT n, "
TOLD = "2,000 inserted, 1,500 updated, 700 deleted"


def test_a_run_says_how_many_rows_it_inserted_updated_and_deleted(
    cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str, tmp_path: Path
) -> None:
    cluster.psql(f"{TABLE} 'new' FROM generate_series(1, 4000) n", name_of(source_dsn))
    second_cluster.psql(
        f"{TABLE} CASE WHEN n <= 500 THEN 'new' ELSE 'old' END FROM generate_series(1, 2000) n;"
        "INSERT INTO customer SELECT n, 'theirs' FROM generate_series(5001, 5700) n",
        name_of(target_dsn),
    )
    (tmp_path / "plan.yaml").write_text(PLAN)
    knarr = Knarr(tmp_path, {"legacy": source_dsn, "shop": target_dsn})
    done = knarr("run", "plan.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\npublic.customer: {TOLD}\n" in done.stdout
    [report] = (tmp_path / "reports").glob("*.html")
    assert TOLD in report.read_text(encoding="utf-8")
