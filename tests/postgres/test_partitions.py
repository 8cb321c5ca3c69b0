"""Wherever a mapping is cut, each row is in exactly one partition: on the source, on the target, for every key type."""

import random

import pytest

from knarr.errors import LostLease, PlanError
from knarr.plan.resolved import Partition, ResolvedColumn, ResolvedMapping
from knarr.postgres import partitions
from knarr.postgres.lease import raise_epoch
from knarr.postgres.partitions import plan_partitions
from knarr.postgres.selection import range_literal, range_predicate, source_key, target_key
from knarr.postgres.session import Connection
from tests.postgres.specimens import Run, column, mapping

# Type on the source, type on the target, and values that are awkward to cut between; NULLs come with all of them.
KEYS: dict[str, tuple[str, str, list[str]]] = {
    "smallint to integer": ("smallint", "integer", ["-32768", "32767", "0", "-1", "1"]),
    "integer": ("integer", "integer", ["-2147483648", "2147483647", "0", "-1"]),
    "integer to bigint": ("integer", "bigint", ["-2147483648", "2147483647", "0"]),
    "integer to text": ("integer", "text", ["-1", "1", "10", "2", "11", "100"]),
    "bigint": ("bigint", "bigint", ["-9223372036854775808", "9223372036854775807", "0"]),
    "bigint to numeric": ("bigint", "numeric", ["-9223372036854775808", "9223372036854775807", "0"]),
    "numeric": ("numeric", "numeric", ["NaN", "-Infinity", "Infinity", "1.0", "1.00", "-1e-30", "1e40", "0.1"]),
    "numeric to numeric(6,1)": ("numeric", "numeric(6,1)", ["0.04", "0.05", "0.06", "1.25", "-0.05", "99999.9"]),
    "double precision": ("double precision", "double precision", ["NaN", "-0", "0", "Infinity", "0.1", "1e-300"]),
    "real to double precision": ("real", "double precision", ["0.1", "0.3", "-0.1", "16777217"]),
    "text": ("text", "text", ["", " ", "a", "A", "ä", "z", "Z", "ß", "ss", "o'x", "\\", "$1", "\n", "日本", "🚢"]),
    "character varying(5)": ("character varying(5)", "character varying(5)", ["", "a", "a ", "b", "Zz"]),
    "character(4)": ("character(4)", "character(4)", ["", "a", "ab", "b c", "Z"]),
    "character(4) to text": ("character(4)", "text", ["", "a", "ab", "b c", "Z"]),
    "uuid": ("uuid", "uuid", [f"{n:032x}" for n in (0, 1, 2**127, 2**128 - 1)]),
    "timestamp with time zone": (
        "timestamp with time zone",
        "timestamp with time zone",
        ["infinity", "-infinity", "4713-01-01 BC", "2024-03-31 02:30:00+01", "1999-12-31 23:59:59.999999+00"],
    ),
    "timestamp to timestamptz": ("timestamp", "timestamp with time zone", ["infinity", "2024-03-31 02:30"]),
    "date": ("date", "date", ["infinity", "-infinity", "0001-01-01 BC", "2024-02-29"]),
    "time": ("time", "time without time zone", ["00:00", "24:00", "12:00:00.000001"]),
    "interval": ("interval", "interval", ["1 mon", "30 days", "-1 day", "720:00:00", "0"]),
    "boolean": ("boolean", "boolean", ["true", "false"]),
    "bytea": ("bytea", "bytea", ["\\x", "\\x00", "\\xff", "\\x0001"]),
    "inet": ("inet", "inet", ["10.0.0.1", "10.0.0.0/8", "::1", "255.255.255.255"]),
    "bit varying": ("bit varying", "bit varying(8)", ["", "0", "1", "01", "11111111"]),
    "integer array": ("integer[]", "integer[]", ["{}", "{1}", "{1,NULL}", "{1,2}", "{-1}"]),
    "enum": ("public.mood", "public.mood", ["sad", "ok", "happy", "Über"]),
}  # fmt: skip


def key_column(name: str, source_type: str, target_type: str) -> ResolvedColumn:
    plain = source_type.partition(" COLLATE ")[0]
    category = "enum" if target_type == "public.mood" else "builtin"
    return column(name, target_type, source_type=plain, category=category)  # type: ignore[arg-type]


async def usable_keys(run: Run) -> dict[str, tuple[str, str, list[str]]]:
    """The keys above, and text under ICU's collations where the server was built with them (the wheel's is not)."""
    keys = dict(KEYS)
    for side in (run.source, run.target):
        await side.execute("CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'happy', 'Über')")
    if await run.source.fetchval("SELECT count(*) > 0 FROM pg_collation WHERE collname = 'und-x-icu'"):
        await run.source.execute(
            "CREATE COLLATION public.loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)"
        )
        words = ["a", "A", "ä", "á", "Á", "z", "Z", "a-b", "ab", "a b"]
        keys["text under ICU"] = ('text COLLATE "und-x-icu"', "text", words)
        keys["text under a nondeterministic collation"] = ("text COLLATE public.loose", "text", words)
    return keys


async def fill(run: Run, kinds: list[tuple[str, str, list[str]]], rows: int, seed: int) -> ResolvedMapping:
    """The same rows on both sides, NULL keys and equal keys among them; the mapping between them."""
    chance = random.Random(seed)
    names = [f"k{place}" for place in range(len(kinds))]
    source_columns = ", ".join(f"{name} {kind[0]}" for name, kind in zip(names, kinds, strict=True))
    target_columns = ", ".join(f"{name} {kind[1]}" for name, kind in zip(names, kinds, strict=True))
    await run.source.execute(
        f"DROP TABLE IF EXISTS public.given; CREATE TABLE public.given (row integer, {source_columns})"
    )
    await run.target.execute(
        f"DROP TABLE IF EXISTS public.taken; CREATE TABLE public.taken (row integer, {target_columns})"
    )
    values = [[chance.choice([*kind[2], None]) for kind in kinds] for _ in range(rows)]
    for side, table, place in ((run.source, "given", 0), (run.target, "taken", 1)):
        casts = ", ".join(
            f"(${n + 2}::text[])[i]::{kind[0].partition(' COLLATE ')[0]}{f'::{kind[1]}' if place else ''}"
            for n, kind in enumerate(kinds)
        )
        columns = [list(texts) for texts in zip(*values, strict=True)]
        await side.execute(
            f"INSERT INTO public.{table} SELECT i, {casts} FROM generate_series(1, $1::int) AS i", rows, *columns
        )
    columns_of_key = [key_column(name, kind[0], kind[1]) for name, kind in zip(names, kinds, strict=True)]
    return mapping(columns_of_key, key=names, rows=rows, size=rows * 100)


async def rows_of(connection: Connection, table: str, predicate: str, values: list[str]) -> list[int]:
    query = f"SELECT row FROM public.{table} AS t WHERE {predicate} ORDER BY row"
    return [row["row"] for row in await connection.fetch(query, *values)]


async def assert_exact(run: Run, item: ResolvedMapping, pieces: list[Partition], rows: int) -> None:
    """Both sides put each row into one and the same partition, bound or written in."""
    seen: list[int] = []
    for piece in pieces:
        on_source = await rows_of(run.source, "given", *range_predicate(source_key(item), piece))
        on_target = await rows_of(run.target, "taken", *range_predicate(target_key(item), piece))
        written = await rows_of(run.source, "given", range_literal(source_key(item), piece), [])
        assert on_source == on_target == written, (item.key, piece)
        seen += on_source
    assert sorted(seen) == list(range(1, rows + 1)), (item.key, pieces)


async def test_each_row_is_in_one_partition_for_every_type_of_key(run: Run) -> None:
    for number, (name, kind) in enumerate((await usable_keys(run)).items()):
        item = await fill(run, [kind], 60, number)
        pieces = await plan_partitions(run.source, item, 1200)
        assert len(pieces) > 1, name
        await assert_exact(run, item, pieces, 60)


async def test_each_row_is_in_one_partition_for_keys_of_several_columns(run: Run) -> None:
    chance = random.Random(7)
    kinds = list((await usable_keys(run)).values())
    for seed in range(40):
        chosen = [chance.choice(kinds) for _ in range(chance.randint(2, 4))]
        item = await fill(run, chosen, 80, seed)
        pieces = await plan_partitions(run.source, item, chance.choice([400, 1000, 4000]))
        await assert_exact(run, item, pieces, 80)


async def test_each_row_is_in_one_partition_wherever_the_bounds_lie(run: Run) -> None:
    chance = random.Random(11)
    kinds = list((await usable_keys(run)).values())
    for seed in range(25):
        chosen = [chance.choice(kinds) for _ in range(chance.randint(1, 3))]
        item = await fill(run, chosen, 50, seed)
        # Bounds that no row has, in the order in which the server compares them.
        bounds = [[chance.choice(kind[2]) for kind in chosen] for _ in range(5)]
        rows = ", ".join(
            "(" + ", ".join(f"${place * len(chosen) + n + 1}::text" for n in range(len(chosen))) + ")"
            for place in range(len(bounds))
        )
        names = [f"v{n}" for n in range(len(chosen))]
        order = ", ".join(
            f"{name}::{key.type}{' COLLATE ' + chr(34) + 'C' + chr(34) if key.collatable else ''}"
            for name, key in zip(names, source_key(item), strict=True)
        )
        query = f"SELECT * FROM (VALUES {rows}) AS t ({', '.join(names)}) ORDER BY {order}"
        ordered = [list(row) for row in await run.source.fetch(query, *[text for bound in bounds for text in bound])]
        edges: list[list[str] | None] = [None, *ordered, None]
        pieces = [
            Partition(mapping=0, number=n, lower=edges[n], upper=edges[n + 1], estimated_rows=0)
            for n in range(len(edges) - 1)
        ]
        await assert_exact(run, item, pieces, 50)


async def test_pieces_are_about_even_when_sampled_and_when_sorted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT (n * 7919) % 200003 AS k0, repeat('x', 90) AS pad"
        "  FROM generate_series(1, 200000) AS n"
    )
    item = mapping([column("k0", "integer")], key=["k0"], rows=200_000, size=200_000 * 120)
    for most in (partitions.SORT_EXACTLY, 1000):
        monkeypatch.setattr(partitions, "SORT_EXACTLY", most)
        pieces = await plan_partitions(run.source, item, item.estimated_bytes // 8)
        sizes = [
            await run.source.fetchval(
                f"SELECT count(*) FROM public.given AS t WHERE {range_literal(source_key(item), piece)}"
            )
            for piece in pieces
        ]
        assert len(sizes) == 8
        assert sum(sizes) == 200_000
        assert max(sizes) < 2 * min(sizes)


async def test_a_source_that_can_not_be_sampled_by_blocks_is_cut_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "SORT_EXACTLY", 1000)
    await run.source.execute(
        "CREATE TABLE public.base AS SELECT n AS k0 FROM generate_series(1, 20000) AS n;"
        "CREATE VIEW public.given AS SELECT * FROM public.base;"
        "CREATE TABLE public.joined AS SELECT * FROM public.base"
    )
    view = mapping([column("k0", "integer")], key=["k0"], rows=20_000, size=2_000_000)
    joined = view.model_copy(
        update={
            "from_clause": "public.base AS t JOIN public.joined AS j USING (k0)",
            "source_table": view.source_table.model_copy(update={"name": "base"}),
            "where": "j.k0 > 0",
        }
    )
    for item in (view, joined):
        pieces = await plan_partitions(run.source, item, 500_000)
        assert 3 <= len(pieces) <= 4


@pytest.mark.parametrize(
    "item",
    [
        mapping([column("k0", "integer")], rows=10**6, size=10**9),
        mapping([column("k0", "integer")], key=["k0"], rows=10, size=1000),
        mapping([column("k0", "integer")], key=["k0"]),
    ],
    ids=["no key", "small", "empty"],
)
async def test_a_mapping_without_key_or_size_is_one_partition(item: ResolvedMapping, source: Connection) -> None:
    pieces = await plan_partitions(source, item, 10_000)

    assert [(piece.number, piece.lower, piece.upper) for piece in pieces] == [(0, None, None)]


async def test_a_table_that_is_empty_by_now_is_one_partition(run: Run) -> None:
    await run.source.execute("CREATE TABLE public.given (k0 integer)")

    pieces = await plan_partitions(
        run.source, mapping([column("k0", "integer")], key=["k0"], rows=1000, size=10**6), 1000
    )

    assert len(pieces) == 1


async def test_partitions_are_stored_once_and_read_by_number(run: Run) -> None:
    item = mapping([column("k0", "text")], key=["k0"])
    pieces = [
        Partition(mapping=0, number=0, lower=None, upper=["o'\"{},NULL"], estimated_rows=5),
        Partition(mapping=0, number=1, lower=["o'\"{},NULL"], upper=None, estimated_rows=5),
    ]
    await run.store(item, pieces=pieces)

    other_cut = [Partition(mapping=0, number=0, lower=None, upper=None, estimated_rows=9)]
    assert await partitions.store_partitions(run.target, run.lease, run.run_id, other_cut) == 2
    assert await partitions.load_partitions(run.target, run.run_id, 0) == pieces
    assert await partitions.load_partition(run.target, run.run_id, 0, 1) == pieces[1]
    assert await partitions.count_partitions(run.target, run.run_id, 0) == 2
    with pytest.raises(PlanError, match="no partition 2"):
        await partitions.load_partition(run.target, run.run_id, 0, 2)


async def test_partitions_are_not_stored_by_a_stale_writer(run: Run) -> None:
    await raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease):
        await partitions.store_partitions(
            run.target,
            run.lease,
            run.run_id,
            [Partition(mapping=0, number=0, lower=None, upper=None, estimated_rows=0)],
        )
