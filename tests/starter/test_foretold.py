"""What `knarr check` says of tables that have rows: what is known before a run, and that the rest is not."""

from typing import Any

from knarr.local.cluster import Cluster
from knarr.plan.resolved import ResolvedMapping
from starter.foretold import foretold
from tests.audit.test_runbook import survey
from tests.endtoend.command import Knarr
from tests.endtoend.test_chinook import name_of


def mapping(mode: str, **changes: Any) -> ResolvedMapping:
    return survey().mappings[0].model_copy(update={"mode": mode, "transform": None} | changes)


def test_of_a_table_without_rows_there_is_nothing_to_say() -> None:
    assert foretold([mapping("create"), mapping("fill")], {}) == []


def test_a_merge_says_what_is_deleted_and_what_is_not_known() -> None:
    merge = mapping("merge", delete_missing=True, scope="region = 'north'")
    told, unknown = foretold([merge], {0: 25_000})
    assert told == (
        "shop.order, merge: about 150,000 rows come: those with a new key are inserted, those that differ are updated; "
        "of the about 25,000 rows there those of the scope (region = 'north') that the source does not have are DELETED"
    )
    assert unknown.startswith("How many rows are inserted, updated and deleted is not known before the run")


def test_a_merge_that_deletes_nothing_says_so() -> None:
    told, unknown = foretold([mapping("merge")], {})
    assert told.endswith("of the rows that are there none is deleted")
    assert unknown.startswith("How many rows are inserted and updated is not known")


def test_an_append_inserts_all_or_is_refused() -> None:
    [told] = foretold([mapping("append")], {0: 1})
    assert told == (
        "shop.order, append: about 150,000 rows are inserted beside the about 1 row there; "
        "refused if one of the keys is there"
    )


def test_check_shows_the_mode_and_asks_the_targets_statistics(
    cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str, tmp_path: Any
) -> None:
    cluster.psql("CREATE TABLE c (id bigint PRIMARY KEY); INSERT INTO c VALUES (1); ANALYZE c", name_of(source_dsn))
    second_cluster.psql(
        "CREATE TABLE c (id bigint PRIMARY KEY); INSERT INTO c SELECT generate_series(1, 1234); ANALYZE c;"
        "CREATE TABLE d (id bigint PRIMARY KEY)",
        name_of(target_dsn),
    )
    (tmp_path / "plan.yaml").write_text(
        "name: p\nsource: legacy\ntarget: shop\nmappings:\n"
        "  - {target: public.c, source: public.c, key: {id: id}, mode: merge, delete_missing: true}\n"
        "  - {target: public.d, source: public.c, key: {id: id}, mode: append}\n"
    )
    done = Knarr(tmp_path, {"legacy": source_dsn, "shop": target_dsn})("check", "plan.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "merge, deletes" in done.stdout
    assert "of the about 1,234 rows there those that the source does not have are DELETED" in done.stdout
    assert "public.d, append:" in done.stdout
