"""A plan's Python function changes the fields that it names, and nothing else goes wrong unseen."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knarr.errors import DataError, PlanError
from knarr.postgres.transform import Row, RowFunction, Transformation, decode, encode, load_function
from tests.postgres.specimens import Run, column, mapping

AWKWARD = ["", "\\N", "\\", "\t", "\n", "\r\n", "\b\f\v", "a\\tb", "ä🚢", "o'x", "\\.", "NULL", " ", "\x01"]


@given(st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_field_survives_being_written_and_read(value: str | None) -> None:
    field = encode(value)

    assert decode(field) == value
    assert b"\t" not in field
    assert b"\n" not in field


async def chunks(text: bytes, size: int) -> AsyncIterator[bytes]:
    """The text in pieces that break anywhere."""
    for place in range(0, len(text), size):
        yield text[place : place + size]


async def through(function: RowFunction, text: bytes, *, size: int = 7, touched: tuple[str, ...] = ("b",)) -> bytes:
    transformation = Transformation("t:f", function, ["a", "b"], touched)
    return b"".join([part async for part in transformation.lines(chunks(text, size))])


def upper(rows: list[Row]) -> list[Row]:
    return [{"b": None if row["b"] is None else row["b"].upper()} for row in rows]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_lines_may_break_anywhere_between_chunks(size: int) -> None:
    changed = await through(upper, b"1\tab\n2\t\\N\n3\tc\\td\\\\n\n", size=size)

    assert changed == b"1\tAB\n2\t\\N\n3\tC\\tD\\\\N\n"


async def test_fields_that_are_not_touched_keep_their_bytes() -> None:
    untouched = b"\\x4142 \\q \xff"

    assert await through(upper, untouched + b"\tb\n") == untouched + b"\tB\n"


async def test_more_rows_than_a_batch_keep_their_order() -> None:
    text = b"".join(b"%d\tx%d\n" % (n, n) for n in range(2500))

    assert await through(upper, text, size=4096) == text.replace(b"x", b"X")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rows: rows[1:], "given 2 rows and gave back 1 rows"),
        (lambda rows: [*rows, *rows], "gave back 4 rows"),
        (lambda rows: None, "gave back NoneType"),
        (lambda rows: iter(rows), "gave back list_iterator"),
        (lambda rows: [{"b": 1} for _ in rows], "gave back int in column 'b'"),
        (lambda rows: [{"c": "x"} for _ in rows], r"without 'b' with 1 columns of other names, expected .* \['b'\]"),
        (lambda rows: [{} for _ in rows], "expected the columns"),
        (lambda rows: ["x" for _ in rows], "a row that is str, expected"),
        (lambda rows: [{"b": "a\0"} for _ in rows], "NUL"),
        (lambda rows: [{"b": row["nothing"]} for row in rows], "raised KeyError"),
        (lambda rows: sys.exit(3), "raised SystemExit"),
    ],
)
async def test_a_function_that_gives_back_something_else_is_a_data_error(function: RowFunction, message: str) -> None:
    with pytest.raises(DataError, match=message):
        await through(function, b"1\tx\n2\ty\n")


async def test_a_stream_that_ends_in_the_middle_of_a_line_is_a_data_error() -> None:
    with pytest.raises(DataError, match="middle of a line"):
        await through(upper, b"1\tx\n2\ty")


def test_a_column_that_is_not_copied_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match="no column 'z'"):
        Transformation("t:f", upper, ["a", "b"], ["z"])


def write_module(folder: Path, name: str, text: str) -> None:
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_function_is_found_beside_the_plan_and_on_pythonpath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path / "plan", "knarr_test_one.orders", "from knarr_test_beside import clean")
    write_module(tmp_path / "plan", "knarr_test_beside", "def clean(rows): return rows")
    write_module(tmp_path / "path", "knarr_test_two", "def clean(rows): return rows[::-1]")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    before = list(sys.path)

    assert load_function("knarr_test_one.orders:clean", tmp_path / "plan")([{"a": "1"}]) == [{"a": "1"}]
    assert load_function("knarr_test_two:clean", tmp_path / "plan")([{"a": "1"}, {"a": "2"}])[0] == {"a": "2"}
    assert sys.path == before


def test_two_plans_may_have_modules_of_the_same_name(tmp_path: Path) -> None:
    for plan in ("one", "two"):
        write_module(tmp_path / plan, "knarr_test_same.rows", "from knarr_test_words import clean")
        write_module(tmp_path / plan, "knarr_test_words", f"def clean(rows): return [{{'plan': '{plan}'}}]")

    functions = [load_function("knarr_test_same.rows:clean", tmp_path / plan) for plan in ("one", "two", "one")]

    assert [function([]) for function in functions] == [[{"plan": plan}] for plan in ("one", "two", "one")]
    assert functions[0] is functions[2]
    assert not [name for name in sys.modules if name.startswith("knarr_test_same")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", "no module 'os'"),
        ("subprocess:run", "no module 'subprocess'"),
        ("asyncpg:connect", "no module 'asyncpg'"),
        ("knarr_test_none:clean", "no module 'knarr_test_none'"),
        ("knarr_test_three:nothing", "has no function 'nothing'"),
        ("knarr_test_three:number", "has no function 'number'"),
        ("knarr_test_broken:clean", "importing it failed: SyntaxError"),
        ("knarr_test_script:clean", "importing it failed: SystemExit"),
    ],
)
def test_a_function_from_anywhere_else_is_refused(name: str, message: str, tmp_path: Path) -> None:
    write_module(tmp_path, "knarr_test_three", "number = 3")
    write_module(tmp_path, "knarr_test_broken", "def clean(")
    write_module(tmp_path, "knarr_test_script", "import sys; sys.exit(3)")

    with pytest.raises(PlanError, match=message):
        load_function(name, tmp_path)


async def test_rows_are_copied_through_a_function(run: Run, tmp_path: Path) -> None:
    write_module(
        tmp_path,
        "knarr_test_copy",
        "def mark(rows):\n"
        "    return [{'name': None if r['name'] is None else r['name'] + '|' + str(len(r['name']))} for r in rows]\n",
    )
    for side, name in ((run.source, "given"), (run.target, "taken")):
        await side.execute(f"CREATE TABLE public.{name} (id integer, name text, other bytea)")
    values = [*AWKWARD, None]
    await run.source.execute(
        "INSERT INTO public.given SELECT i, ($1::text[])[i], '\\x00ff' FROM generate_series(1, $2::int) AS i",
        values,
        len(values),
    )
    item = mapping(
        [column("id", "integer"), column("name", "text"), column("other", "bytea")],
        key=["id"],
        transform="knarr_test_copy:mark",
        transform_columns=["name"],
    )
    await run.store(item)

    outcome = await run.copy(run.job(item, plan_folder=tmp_path))

    assert outcome.rows == len(values)
    rows = await run.target.fetch("SELECT name, other FROM public.taken ORDER BY id")
    assert [row["name"] for row in rows] == [None if v is None else f"{v}|{len(v)}" for v in values]
    assert {row["other"] for row in rows} == {b"\x00\xff"}


async def test_a_function_that_loses_a_row_leaves_nothing_on_the_target(run: Run, tmp_path: Path) -> None:
    write_module(tmp_path, "knarr_test_lose", "def lose(rows): return rows[1:]")
    for side, name in ((run.source, "given"), (run.target, "taken")):
        await side.execute(f"CREATE TABLE public.{name} (id integer, name text)")
    await run.source.execute("INSERT INTO public.given SELECT n, 'x' FROM generate_series(1, 3000) AS n")
    item = mapping([column("id", "integer"), column("name", "text")], key=["id"], transform="knarr_test_lose:lose")
    await run.store(item)

    with pytest.raises(DataError, match="given 1000 rows and gave back 999 rows"):
        await run.copy(run.job(item, plan_folder=tmp_path))

    check = await run.open("check")
    assert await check.fetchval("SELECT count(*) FROM public.taken") == 0
    assert await check.fetchval("SELECT count(*) FROM knarr.ledger") == 0
