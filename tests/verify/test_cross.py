"""Cross checks: the same rows in any order, numbers within a tolerance."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from knarr.plan.models import CrossCheck
from knarr.postgres.session import Connection
from knarr.verify import cross
from knarr.verify.cross import check_cross
from knarr.verify.models import CheckResult


async def checked(
    source: Connection, target: Connection, ours: str, theirs: str, tolerance: float = 0.0, shown: int = 100
) -> CheckResult:
    check = CrossCheck(name="c", source=ours, target=theirs, tolerance=tolerance)
    return await check_cross(source, target, check, shown)


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        ("SELECT 1", "SELECT 1", 0),
        ("SELECT 1::int, 2.50::numeric", "SELECT 1::numeric, 2.5::float8", 0),
        ("VALUES (1, 'a'), (2, 'b'), (2, 'b')", "VALUES (2, 'b'), (1, 'a'), (2, 'b')", 0),
        ("SELECT NULL::text, 1", "SELECT NULL::text, 1", 0),
        ("SELECT 'NaN'::float8, 'Infinity'::numeric", "SELECT 'NaN'::numeric, 'Infinity'::float8", 0),
        ("SELECT 123456789012345678901234567890.5", "SELECT 123456789012345678901234567890.50", 0),
        ("VALUES ('a', 1.0), ('a', 2.0)", "VALUES ('a', 2.009), ('a', 0.991)", 0.01),
        ("SELECT 1234567890123456789012345678901.2", "SELECT 1234567890123456789012345678901.0", 1),
        ("VALUES (1995, 10.0), (1996, 10.001)", "VALUES (1996, 10.0), (1995, 10.001)", 0.01),
        ("WITH x AS (SELECT 1 AS a) SELECT a FROM x ORDER BY a", "SELECT 1", 0),
        ("SELECT 1 WHERE false", "SELECT 2 WHERE false", 0),
        ("SELECT '2024-01-01 00:00+01'::timestamptz", "SELECT '2023-12-31 23:00+00'::timestamptz", 0),
    ],
)
async def test_answers_that_agree(
    source: Connection, target: Connection, ours: str, theirs: str, tolerance: float
) -> None:
    result = await checked(source, target, ours, theirs, tolerance)
    assert result.outcome == "passed", result


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance", "named"),
    [
        ("SELECT 1 AS n", "SELECT 2", 0, [({"n": "1"}, None, "n=1", None), ({"n": "2"}, None, None, "n=2")]),
        ("VALUES ('a', 1.0)", "VALUES ('a', 1.02)", 0.01, [({"column1": "a"}, "column2", "1.0", "1.02")]),
        (
            "VALUES ('a', 1.0), ('b', 2.0)",
            "VALUES ('a', 1.0)",
            0,
            [({"column1": "b"}, None, "column1=b, column2=2.0", None)],
        ),
        ("VALUES (1, 'x'), (1, 'x')", "VALUES (1, 'x')", 0, [({"column2": "x", "column1": "1"}, None, None, None)]),
        ("SELECT NULL::text AS t", "SELECT ''::text", 0, [({"t": None}, None, "t=NULL", None)]),
        ("VALUES ('a', 3)", "VALUES ('a', 4)", 0, [({"column1": "a"}, "column2", "3", "4")]),
    ],
)
async def test_answers_that_differ_are_named(
    source: Connection,
    target: Connection,
    ours: str,
    theirs: str,
    tolerance: float,
    named: list[tuple[dict[str, str | None], str | None, str | None, str | None]],
) -> None:
    result = await checked(source, target, ours, theirs, tolerance)
    assert result.outcome == "failed"
    found = [(f.key, f.column, f.expected, f.found) for f in result.findings]
    for key, column, expected, seen in named:
        assert any(
            (key, column) == (one[0], one[1]) and expected in (None, one[2]) and seen in (None, one[3]) for one in found
        ), found


async def test_each_row_takes_the_nearest_that_is_left(source: Connection, target: Connection) -> None:
    rows = ", ".join(f"('g', {n}.0)" for n in range(100))
    near = ", ".join(f"('g', {n}.004)" for n in reversed(range(100)))
    assert (await checked(source, target, f"VALUES {rows}", f"VALUES {near}", 0.01)).outcome == "passed"
    result = await checked(source, target, f"VALUES {rows}", f"VALUES {near}", 0.001, shown=7)
    assert (result.findings_total, len(result.findings)) == (100, 7)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ("SELECT 1", "SELECT 1, 2", "1 columns, the target query 2"),
        ("SELECT nobody", "SELECT 1", 'column "nobody" does not exist'),
        ("SELECT FROM pg_class", "SELECT 1", "gives no columns"),
        ("SELECT 1", "SELECT 1/0", "division by zero"),
    ],
)
async def test_what_cannot_be_asked_has_failed(
    source: Connection, target: Connection, ours: str, theirs: str, reason: str
) -> None:
    result = await checked(source, target, ours, theirs)
    assert result.outcome == "could not run" and reason in result.message


async def test_answers_too_long_to_compare_are_refused(
    source: Connection, target: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross, "MOST_ROWS", 10)
    result = await checked(source, target, "SELECT generate_series(1, 11)", "SELECT 1")
    assert result.outcome == "could not run" and "more than 10 rows" in result.message


MANY = "SELECT n::numeric / 7, n::numeric / 3 FROM generate_series(1, 200000) AS n"
NEARLY = "SELECT n::numeric / 7 + 0.00001, n::numeric / 3 FROM generate_series(1, 200000) AS n"


class Pulse:
    """How long the loop went at most without coming round."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now


async def test_many_numbers_are_matched_while_the_loop_goes_on(
    source: Connection, target: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, pulse, threads = cross._compare, Pulse(), []

    def compared(*given: Any) -> Any:
        threads.append((threading.current_thread(), time.monotonic()))
        found = compare(*given)
        threads.append((threading.current_thread(), time.monotonic()))
        return found

    monkeypatch.setattr(cross, "_compare", compared)
    beating = asyncio.create_task(pulse.beat())
    result = await checked(source, target, MANY, NEARLY, tolerance=0.0001)
    beating.cancel()

    assert (result.outcome, result.source_rows) == ("passed", 200_000)
    (thread, began), (_, ended) = threads
    assert thread is not threading.main_thread()
    # Without a thread the loop stands still for as long as the matching takes.
    assert pulse.longest < (ended - began) / 2


async def test_who_is_cancelled_is_so_at_once_and_leaves_no_thread_at_work(
    source: Connection, target: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()
    match = cross._match

    def slowly(rows: Iterable[Any]) -> Iterator[Any]:
        for row in rows:
            time.sleep(0.01)
            yield row

    def slow(left: Iterable[Any], *given: Any) -> Any:
        begun.set()
        try:
            return match(slowly(left), *given)
        finally:
            ended.set()

    monkeypatch.setattr(cross, "_match", slow)
    task = asyncio.create_task(checked(source, target, MANY, NEARLY))
    await asyncio.to_thread(begun.wait, 60)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(ended.wait, 5)
