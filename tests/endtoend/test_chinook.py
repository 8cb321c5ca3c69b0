"""`knarr run` of a whole schema as it is: a second real database, moved without a change, killed on its way."""

import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from knarr.local.cluster import Cluster
from tests.endtoend.command import ROOT, Knarr

pytestmark = [pytest.mark.saga, pytest.mark.timeout(600)]

PLAN = str(ROOT / "examples" / "chinook" / "chinook.yaml")


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path.lstrip("/")


@pytest.fixture
def knarr(cluster: Cluster, source_dsn: str, target_dsn: str, tmp_path: Path) -> Knarr:
    cluster.psql(ROOT / "examples" / "chinook" / "chinook.sql", name_of(source_dsn))
    return Knarr(tmp_path, {"chinook_old": source_dsn, "chinook_new": target_dsn})


def dump(cluster: Cluster, dsn: str) -> str:
    """Schema and rows in key order, as INSERTs: equal databases give equal texts, whatever their servers' settings."""
    arguments = ["--exclude-schema=knarr", "--inserts", "--no-owner", "--no-privileges"]
    return "\n".join(sorted(cluster.pg_dump(name_of(dsn), *arguments).splitlines()))


def test_chinook_arrives_with_its_keys_indexes_and_sequences(
    knarr: Knarr, cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str
) -> None:
    done = knarr("run", PLAN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert dump(second_cluster, target_dsn) == dump(cluster, source_dsn)


def test_a_run_that_was_killed_goes_on_when_it_is_said_again(
    knarr: Knarr, cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str
) -> None:
    for seconds in (2.0, 3.0, 4.0):
        process = knarr.start("run", PLAN)
        time.sleep(seconds)
        ended = process.poll()
        process.kill()
        process.communicate()
        if ended is not None:  # a fast machine: it was through before it could be killed a third time
            assert ended == 0
            break
    else:
        done = knarr("run", PLAN)
        assert done.returncode == 0, done.stdout + done.stderr
    assert dump(second_cluster, target_dsn) == dump(cluster, source_dsn)


def test_check_writes_nothing_and_tells_what_would_be_moved(
    knarr: Knarr, second_cluster: Cluster, target_dsn: str
) -> None:
    before = second_cluster.pg_dump(name_of(target_dsn))
    found = knarr.document("check", PLAN)
    assert len(found["survey"]["mappings"]) == 11
    assert second_cluster.pg_dump(name_of(target_dsn)) == before


def test_verify_alone_finds_equal_and_then_names_the_row_that_was_changed(
    knarr: Knarr, second_cluster: Cluster, target_dsn: str
) -> None:
    assert knarr("run", PLAN).returncode == 0
    assert knarr("verify", PLAN).returncode == 0
    second_cluster.psql('UPDATE "Artist" SET "Name" = $$Nobody$$ WHERE "ArtistId" = 7', name_of(target_dsn))
    done = knarr("verify", PLAN)
    assert done.returncode == 10
    assert "ArtistId = 7" in done.stdout + done.stderr
    assert "Nobody" in done.stdout + done.stderr
