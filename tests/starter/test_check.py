"""`knarr check` in a folder of its own: what it finds downstream, with file and line, and how it ends."""

from pathlib import Path

from knarr.local.cluster import Cluster
from starter.exits import Exit
from tests.endtoend.command import Knarr

PLAN = """name: p
source: legacy
target: shop
mappings:
  - {target: shop.c, source: public.c}
downstream:
  - name: the warehouse has as many
    query: {alias: warehouse, query: SELECT count(*) FROM c, target: SELECT count(*) FROM shop.c}
  - {name: fresh, function: "consumers:fresh"}
"""


def test_a_downstream_check_that_can_not_be_asked_has_a_line(
    cluster: Cluster, source_dsn: str, target_dsn: str, tmp_path: Path
) -> None:
    cluster.psql("CREATE TABLE c (id bigint PRIMARY KEY)", source_dsn.rsplit("/", 1)[1].partition("?")[0])
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/plan.yaml").write_text(PLAN)
    connections = {"legacy": source_dsn, "shop": target_dsn}

    done = Knarr(tmp_path, connections)("check", "plans/plan.yaml")
    assert done.returncode == Exit.REFUSED, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "plan.yaml:8: downstream[0].query.alias (the warehouse has as many): found connection 'warehouse'" in said
    assert "next: export KNARR_CONNECTION_WAREHOUSE=postgresql://" in said
    assert "plan.yaml:9: downstream[1].function (fresh): found function 'consumers:fresh': no module" in said
    assert "2 errors" in said

    # Beside the plan, not in the working directory.
    (tmp_path / "plans/consumers.py").write_text("def fresh():\n    return []\n")
    done = Knarr(tmp_path, connections | {"warehouse": source_dsn})("check", "plans/plan.yaml")
    assert done.returncode == Exit.DONE, done.stdout + done.stderr
    assert "0 errors" in done.stdout
