"""`knarr run` of a whole schema as it is: a second real database, moved without a change, killed on its way."""

from collections.abc import Iterator
from dataclasses import dataclass
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
    """Chinook in the source, an empty target."""
    return _chinook(cluster, source_dsn, target_dsn, tmp_path)


@dataclass(frozen=True)
class Moved:
    """A source, and the target that a run has filled from it."""

    knarr: Knarr
    source_dsn: str
    target_dsn: str


@pytest.fixture(scope="module")
def moved(cluster: Cluster, second_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """Chinook moved by `knarr run`, once for all who only look at it: a run of eleven tables takes a while."""
    source, target = cluster.create_database("chinook_old"), second_cluster.create_database("chinook_new")
    knarr = _chinook(cluster, source, target, tmp_path_factory.mktemp("chinook"))
    done = knarr("run", PLAN)
    assert done.returncode == 0, done.stdout + done.stderr
    yield Moved(knarr, source, target)
    cluster.drop_database("chinook_old")
    second_cluster.drop_database("chinook_new")


def _chinook(cluster: Cluster, source_dsn: str, target_dsn: str, folder: Path) -> Knarr:
    cluster.psql(ROOT / "examples" / "chinook" / "chinook.sql", name_of(source_dsn))
    return Knarr(folder, {"chinook_old": source_dsn, "chinook_new": target_dsn})


def dump(cluster: Cluster, dsn: str) -> str:
    """Schema and rows in key order, as INSERTs: equal databases give equal texts, whatever their servers' settings."""
    arguments = ["--exclude-schema=knarr", "--inserts", "--no-owner", "--no-privileges"]
    return "\n".join(sorted(cluster.pg_dump(name_of(dsn), *arguments).splitlines()))


def test_chinook_arrives_with_its_keys_indexes_and_sequences(
    moved: Moved, cluster: Cluster, second_cluster: Cluster
) -> None:
    assert dump(second_cluster, moved.target_dsn) == dump(cluster, moved.source_dsn)


def test_a_run_that_was_killed_goes_on_when_it_is_said_again(
    knarr: Knarr, cluster: Cluster, second_cluster: Cluster, source_dsn: str, target_dsn: str
) -> None:
    _kill_at(knarr, "copy")
    _kill_at(knarr, "verify")
    done = knarr("run", PLAN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on with chinook/" in done.stderr
    assert dump(second_cluster, target_dsn) == dump(cluster, source_dsn)


def _kill_at(knarr: Knarr, step: str) -> None:
    """Kill `knarr run` as soon as it says that it is at this step."""
    process = knarr.start("run", PLAN)
    assert process.stderr is not None
    seen = ""
    while f"phase everyone · {step}" not in seen:
        line = process.stderr.readline()
        assert line, f"the run ended before it came to {step}:\n{seen}"
        seen += line
    process.kill()
    process.communicate()


def test_check_writes_nothing_and_tells_what_would_be_moved(
    knarr: Knarr, second_cluster: Cluster, target_dsn: str
) -> None:
    before = second_cluster.pg_dump(name_of(target_dsn))
    found = knarr.document("check", PLAN)
    assert len(found["survey"]["mappings"]) == 11
    assert second_cluster.pg_dump(name_of(target_dsn)) == before


def test_verify_alone_finds_equal_and_then_names_the_row_that_was_changed(
    moved: Moved, second_cluster: Cluster
) -> None:
    assert moved.knarr("verify", PLAN).returncode == 0
    rename = 'UPDATE "Artist" SET "Name" = $${}$$ WHERE "ArtistId" = 7'
    second_cluster.psql(rename.format("Nobody"), name_of(moved.target_dsn))
    done = moved.knarr("verify", PLAN)
    second_cluster.psql(rename.format("Apocalyptica"), name_of(moved.target_dsn))
    assert done.returncode == 10
    assert "ArtistId = 7" in done.stdout + done.stderr
    assert "Nobody" in done.stdout + done.stderr
