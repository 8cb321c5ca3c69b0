"""Cross checks: a query on each side whose answers must be the same rows in any order, numbers within a tolerance.

Rows are first matched exactly; what is left is grouped by its columns that are not numbers (then by whole numbers,
too, as years and counts often name a row), and within a group each row takes the nearest one that is left. That may
take long, so it is done in a thread: heartbeats go on, and a cancellation is heard at once.
"""

import asyncio
import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from knarr.errors import DataError, PlanError
from knarr.plan.models import CrossCheck
from knarr.postgres.identifiers import quote
from knarr.postgres.session import Connection
from knarr.verify.at_once import both
from knarr.verify.attempt import attempted
from knarr.verify.models import CheckKey, CheckResult, Finding, shorten
from knarr.verify.snapshot import snapshot

# As many digits as a numeric may have: 131,072 before the point and 16,383 after it. The usual 28 would round.
EXACT: Final = Context(prec=147_455)

MOST_ROWS: Final = 200_000  # both answers are held in memory
_WHOLE: Final = frozenset({"int2", "int4", "int8"})
_NUMBERS: Final = _WHOLE | {"numeric", "float4", "float8"}

Row = tuple[str | None, ...]
Cell = str | Decimal | None
Parsed = tuple[Cell, ...]
Shape = tuple[tuple[str, str], ...]  # name and type of each column


@dataclass(frozen=True)
class Answer:
    """What one side's query gave: columns with their types, rows as text, the statement, the snapshot."""

    columns: Shape
    rows: list[Row]
    sql: str
    seen: str


async def check_cross(source: Connection, target: Connection, check: CrossCheck, shown: int = 100) -> CheckResult:
    """Runs the check's two queries, each in a snapshot of its side, and compares their answers.

    Args:
        source: pinned session, not in a transaction.
        target: likewise.
        check: its tolerance is the largest absolute difference of two numbers.
        shown: how many findings the result holds at most; all are counted.

    Raises:
        TransientError: a server or the network was in the way.
    """
    key = CheckKey(kind="cross", name=check.name)

    async def run() -> CheckResult:
        started = time.monotonic()
        ours, theirs = await both(ask(source, check.source, "source"), ask(target, check.target, "target"))
        findings = await _in_a_thread(check, ours, theirs)
        total = len(findings)
        return CheckResult(
            **key.model_dump(),
            outcome="failed" if total else "passed",
            message=f"{len(ours.rows):,} rows against {len(theirs.rows):,}: "
            + (f"{total} differences" if total else "they agree")
            + (f" within {check.tolerance:g}" if check.tolerance else ""),
            source_rows=len(ours.rows),
            target_rows=len(theirs.rows),
            counts={"cross": total} if total else {},
            findings_total=total,
            findings=findings[:shown],
            seconds=time.monotonic() - started,
            sql=[check.source, check.target],
            compared=[f"columns by position: {', '.join(name for name, _ in ours.columns)}"],
            source_snapshot=ours.seen,
            target_snapshot=theirs.seen,
        )

    return await attempted(key, run)


async def ask(connection: Connection, query: str, side: str) -> Answer:
    """A query's answer as text under pinned settings.

    Raises:
        PlanError: the query gives no columns.
        DataError: it gives more rows than can be compared in memory.
    """
    inner = query.strip().rstrip(";").rstrip()
    async with snapshot(connection) as seen:
        prepared = await connection.prepare(inner)
        columns = tuple((attribute.name, attribute.type.name) for attribute in prepared.get_attributes())
        if not columns:
            raise PlanError(f"the {side} query gives no columns: {shorten(query)}")
        names = [quote(f"c{place}") for place in range(len(columns))]
        sql = (
            f"SELECT ARRAY[{', '.join(f'{name}::text' for name in names)}]::text[] AS c\n"
            f"  FROM ({inner}\n) AS answer ({', '.join(names)})\n LIMIT {MOST_ROWS + 1}"
        )
        rows = [tuple(record["c"]) for record in await connection.fetch(sql)]
    if len(rows) > MOST_ROWS:
        raise DataError(
            f"the {side} query gives more than {MOST_ROWS:,} rows", hint="aggregate: rows are what parity compares"
        )
    return Answer(columns, rows, sql, seen)


async def _in_a_thread(check: CrossCheck, ours: Answer, theirs: Answer) -> list[Finding]:
    """Compares the answers, which hold no connection; who is cancelled leaves no thread at work behind."""
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_compare, check, ours, theirs, given_up)
    finally:
        given_up.set()


def _compare(check: CrossCheck, ours: Answer, theirs: Answer, given_up: threading.Event) -> list[Finding]:
    if len(ours.columns) != len(theirs.columns):
        raise PlanError(
            f"the source query gives {len(ours.columns)} columns, the target query {len(theirs.columns)}",
            hint="columns are compared by position",
        )
    pairs = list(zip(ours.columns, theirs.columns, strict=True))
    numbers = [place for place, (one, other) in enumerate(pairs) if {one[1], other[1]} <= _NUMBERS]
    whole = [place for place in numbers if {pairs[place][0][1], pairs[place][1][1]} <= _WHOLE]
    texts = [place for place in range(len(pairs)) if place not in numbers]
    left, right = [_parse(row, numbers) for row in ours.rows], [_parse(row, numbers) for row in theirs.rows]
    tolerance = Decimal(repr(check.tolerance))
    every = list(range(len(pairs)))
    # Without a tolerance there is no row that is near and not the same.
    for group_by in (every, [*texts, *whole], texts) if tolerance else (every,):
        compared = [place for place in numbers if place not in group_by]
        left, right = _match(_until(given_up, left), right, group_by, compared, tolerance)
    names = [name for name, _ in ours.columns]
    return _findings(check, names, left, right, given_up, [*texts, *whole], texts)


def _until(given_up: threading.Event, rows: Iterable[Parsed]) -> Iterator[Parsed]:
    """The rows, as long as somebody waits for what is made of them. Raises CancelledError."""
    for row in rows:
        if given_up.is_set():
            raise asyncio.CancelledError
        yield row


def _parse(row: Row, numbers: Sequence[int]) -> Parsed:
    # 5, 5.0 and 5e0 are one Decimal; NaN and the infinities stay text, since NaN does not equal itself.
    cells: list[Cell] = list(row)
    for place in numbers:
        text = row[place]
        if text is not None and (number := Decimal(text)).is_finite():
            cells[place] = number
    return tuple(cells)


def _match(
    left: Iterable[Parsed], right: list[Parsed], group_by: Sequence[int], compared: Sequence[int], tolerance: Decimal
) -> tuple[list[Parsed], list[Parsed]]:
    """What finds no partner when rows must agree in `group_by` and be within the tolerance in `compared`."""
    groups: dict[Parsed, list[Parsed]] = defaultdict(list)
    for row in right:
        groups[tuple(row[place] for place in group_by)].append(row)
    if compared:
        # In order, so that a row is held against those within the tolerance and not against its whole group.
        for group in groups.values():
            group.sort(key=lambda row: _order(row[compared[0]]))
    alone = []
    for row in left:
        group = groups.get(tuple(row[place] for place in group_by), [])
        low, high = _within(row, group, compared, tolerance)
        near = _nearest(row, group[low:high], compared, lambda distance: distance <= tolerance)
        if near is None:
            alone.append(row)
        else:
            del group[low + near]
    return alone, [row for group in groups.values() for row in group]


def _order(cell: Cell) -> tuple[int, str | Decimal]:
    return (1, cell) if isinstance(cell, Decimal) else (0, cell or "")


def _within(row: Parsed, group: list[Parsed], compared: Sequence[int], tolerance: Decimal) -> tuple[int, int]:
    """Where those begin and end whose first number can be near enough."""
    if not compared:
        return 0, len(group)
    first = compared[0]
    number = row[first]
    lowest = highest = _order(number)
    if isinstance(number, Decimal):
        lowest, highest = (1, EXACT.subtract(number, tolerance)), (1, EXACT.add(number, tolerance))
    return (
        bisect_left(group, lowest, key=lambda other: _order(other[first])),
        bisect_right(group, highest, key=lambda other: _order(other[first])),
    )


def _nearest(
    row: Parsed, group: Sequence[Parsed], compared: Sequence[int], close: Callable[[Decimal], bool]
) -> int | None:
    if not compared:
        return len(group) - 1 if group else None
    best: tuple[Decimal, int] | None = None
    for place, other in enumerate(group):
        distance = max(_distance(row[column], other[column]) for column in compared)
        if close(distance) and (best is None or distance < best[0]):
            best = distance, place
            if not distance:
                break
    return None if best is None else best[1]


def _distance(one: Cell, other: Cell) -> Decimal:
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return EXACT.abs(EXACT.subtract(one, other))
    return Decimal(0) if one == other else Decimal("Infinity")


def _findings(
    check: CrossCheck,
    names: Sequence[str],
    left: list[Parsed],
    right: list[Parsed],
    given_up: threading.Event,
    *identities: Sequence[int],
) -> list[Finding]:
    """Rows without a partner; two that agree in what may name a row are one finding for each column that differs."""
    findings = []
    tolerance = Decimal(repr(check.tolerance))
    for identity in identities:
        others = [place for place in range(len(names)) if place not in identity]
        waiting: dict[Parsed, list[Parsed]] = defaultdict(list)
        for row in right:
            waiting[tuple(row[place] for place in identity)].append(row)
        alone = []
        for row in _until(given_up, left):
            group = waiting.get(tuple(row[place] for place in identity), []) if identity else []
            near = _nearest(row, group, others, lambda _: True)
            if near is None:
                alone.append(row)
                continue
            other = group.pop(near)
            for place in others:
                if _distance(row[place], other[place]) > tolerance:
                    expected, found = _text(row[place]), _text(other[place])
                    findings.append(_finding(check, names, row, identity, names[place], expected, found))
        left, right = alone, [row for group in waiting.values() for row in group]
    findings += [_finding(check, names, row, identities[0], None, _shown(names, row), None) for row in left]
    findings += [_finding(check, names, row, identities[0], None, None, _shown(names, row)) for row in right]
    return findings


def _finding(
    check: CrossCheck,
    names: Sequence[str],
    row: Parsed,
    identity: Sequence[int],
    column: str | None,
    expected: str | None,
    found: str | None,
) -> Finding:
    return Finding(
        mapping="",
        kind="cross",
        key={names[place]: shorten(_text(row[place])) for place in identity},
        column=column,
        expected=shorten(expected),
        found=shorten(found),
        hint=f"cross check '{check.name}': expected is what the source's query gives, found the target's",
    )


def _text(cell: Cell) -> str | None:
    return format(cell, "f") if isinstance(cell, Decimal) else cell


def _shown(names: Sequence[str], row: Parsed) -> str:
    return ", ".join(f"{name}={'NULL' if cell is None else _text(cell)}" for name, cell in zip(names, row, strict=True))
