"""Parity where the target holds other people's rows: ours are compared row for row, theirs are nobody's concern."""

from typing import Literal

import pytest

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.session import Connection
from knarr.verify.integrity import check_integrity
from knarr.verify.models import CheckResult
from knarr.verify.parity import compare_partition
from tests.verify.tables import WHOLE, part, resolve

TABLE = "CREATE TABLE item (shop text, number integer, name text, PRIMARY KEY (shop, number))"
ROWS = "INSERT INTO item SELECT 'shop ' || n % 7, n, '{} ' || n FROM generate_series({}) AS n"


async def prepared(
    source: Connection, target: Connection, mode: Literal["append", "merge"] = "merge", **more: object
) -> ResolvedMapping:
    """The source has 1 to 3000; the target has those, and 2001 to 9000 of its own beside them."""
    for connection in (source, target):
        await connection.execute(TABLE)
        await connection.execute(ROWS.format("ours", "1, 3000"))
    await target.execute(ROWS.format("theirs", "3001, 9000"))
    resolved = await resolve(source, target, "item", ["shop", "number"], mode=mode, phases={"first": "number <= 1500"})
    return resolved.model_copy(update=more)


def told(result: CheckResult) -> list[tuple[str, str | None, str | None]]:
    return [(finding.kind, finding.key["number"], finding.column) for finding in result.findings]


@pytest.mark.parametrize("mode", ["append", "merge"])
async def test_rows_of_others_are_no_findings(
    mode: Literal["append", "merge"], source: Connection, target: Connection
) -> None:
    mapping = await prepared(source, target, mode)

    result = await compare_partition(source, target, mapping, WHOLE)

    assert (result.outcome, result.findings_total) == ("passed", 0)
    assert (result.source_rows, result.target_rows) == (3000, 3000)
    assert result.source_checksum == result.target_checksum
    assert "only target rows whose keys the source has: the others are somebody else's" in result.compared


async def test_every_kind_of_difference_is_found_among_them(source: Connection, target: Connection) -> None:
    mapping = await prepared(source, target)
    await target.execute("UPDATE item SET name = 'x' WHERE number = 17")
    await target.execute("DELETE FROM item WHERE number = 18")
    await target.execute("UPDATE item SET shop = 'elsewhere' WHERE number = 19")

    result = await compare_partition(source, target, mapping, WHOLE)

    assert result.outcome == "failed"
    assert sorted(told(result)) == [("changed", "17", "name"), ("missing", "18", None), ("missing", "19", None)]
    assert (result.source_rows, result.target_rows) == (3000, 2998)


async def test_no_row_at_all_is_all_missing(source: Connection, target: Connection) -> None:
    mapping = await prepared(source, target)
    await target.execute("DELETE FROM item WHERE number <= 3000")

    result = await compare_partition(source, target, mapping, WHOLE)

    assert (result.counts, result.target_rows) == ({"missing": 3000}, 0)


async def test_nothing_to_merge_passes_whatever_is_there(source: Connection, target: Connection) -> None:
    mapping = await prepared(source, target)
    await source.execute("TRUNCATE item")

    result = await compare_partition(source, target, mapping, WHOLE)

    assert (result.outcome, result.source_rows, result.target_rows) == ("passed", 0, 0)


async def test_what_should_have_been_deleted_is_extra_once_the_last_phase_is_done(
    source: Connection, target: Connection
) -> None:
    mapping = await prepared(source, target, delete_missing=True)

    last = await compare_partition(source, target, mapping, WHOLE, phases=["first", "rest"], through="rest", shown=3)
    first = await compare_partition(source, target, mapping, WHOLE, phases=["first", "rest"], through="first")
    alone = await compare_partition(source, target, mapping, WHOLE)

    assert last.counts == alone.counts == {"extra": 6000}
    assert (first.outcome, first.source_rows, first.target_rows) == ("passed", 1500, 1500)


async def test_portions_and_partitions_add_up(
    source: Connection, target: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knarr.verify.among.MOST_KEYS", 100)
    mapping = await prepared(source, target, scope="number <> 4000")
    pieces = [part(0, None, ["shop 3", "100"]), part(1, ["shop 3", "100"], None)]

    results = [await compare_partition(source, target, mapping, piece) for piece in pieces]

    assert [result.outcome for result in results] == ["passed", "passed"]
    assert sum(result.target_rows or 0 for result in results) == 3000


async def test_a_null_in_a_key_of_others_is_no_finding(source: Connection, target: Connection) -> None:
    await source.execute("CREATE TABLE pair (a integer, b integer, UNIQUE (a, b)); INSERT INTO pair VALUES (1, 1)")
    await target.execute(
        "CREATE TABLE pair (a integer, b integer, UNIQUE (a, b)); INSERT INTO pair VALUES (1, 1), (1, NULL), (NULL, 1)"
    )
    mapping = await resolve(source, target, "pair", ["a", "b"], mode="merge")

    assert (await check_integrity(target, mapping)).outcome == "passed"
    assert (await compare_partition(source, target, mapping, WHOLE)).outcome == "passed"


async def test_a_transform_is_recomputed_and_found_among_them(source: Connection, target: Connection) -> None:
    mapping = await prepared(source, target)
    shouting = mapping.model_copy(update={"transform": "tests.verify.test_among:shout", "transform_columns": ["name"]})
    await target.execute("UPDATE item SET name = upper(name) WHERE number <> 5")

    result = await compare_partition(source, target, shouting, WHOLE)

    assert told(result) == [("changed", "5", "name")]


def shout(rows: list[dict[str, str | None]]) -> list[dict[str, str | None]]:
    """A plan author's function."""
    return [{"name": (row["name"] or "").upper()} for row in rows]
