"""Parity beyond single cells: mappings, scopes, phases, keyless tables, collations, encodings, transforms."""

import asyncio
import hashlib
import itertools
from pathlib import Path
from typing import Final

import pytest

from knarr.errors import TransientError
from knarr.local.cluster import Cluster
from knarr.postgres.session import Connection, connect
from knarr.verify.models import CheckResult
from knarr.verify.parity import compare_partition
from tests.verify.tables import WHOLE, part, resolve


async def on_both(source: Connection, target: Connection, sql: str) -> None:
    for connection in (source, target):
        await connection.execute(sql)


def told(result: CheckResult) -> list[tuple[str, dict[str, str | None], str | None, str | None, str | None]]:
    return [(f.kind, f.key, f.column, f.expected, f.found) for f in result.findings]


async def test_the_expected_side_is_the_mappings_expressions_joins_and_filter(
    source: Connection, target: Connection
) -> None:
    await source.execute(
        "CREATE TABLE person (p_id integer, p_name character(8), p_nation integer, p_open boolean);"
        "CREATE TABLE nation (n_id integer, n_name text);"
        "INSERT INTO nation VALUES (1, 'Iceland');"
        "INSERT INTO person VALUES (1, ' Leif', 1, true), (2, 'Gudrid', NULL, true), (3, 'Snorri', 1, false)"
    )
    await target.execute(
        "CREATE TABLE customer (id bigint PRIMARY KEY, name text, country text);"
        "INSERT INTO customer VALUES (1, 'Leif', 'Iceland'), (2, 'Gudrid', NULL)"
    )
    mapping = await resolve(
        source,
        target,
        "customer",
        ["id"],
        from_clause="person p LEFT JOIN nation n ON n.n_id = p.p_nation",
        expressions={"id": "p.p_id", "name": "trim(p.p_name) -- padded", "country": "n.n_name"},
        where="p.p_open",
    )
    assert (await compare_partition(source, target, mapping, WHOLE)).outcome == "passed"
    await target.execute("UPDATE customer SET country = '' WHERE id = 2")
    result = await compare_partition(source, target, mapping, WHOLE)
    assert told(result) == [("changed", {"id": "2"}, "country", None, "")]


async def test_a_value_that_was_cut_to_the_targets_length_is_a_finding(source: Connection, target: Connection) -> None:
    await source.execute("CREATE TABLE t (id integer, a text, b bit(6)); INSERT INTO t VALUES (1, 'abcdef', B'101010')")
    await target.execute(
        "CREATE TABLE t (id integer, a varchar(3), b bit(4)); INSERT INTO t VALUES (1, 'abc', B'1010')"
    )
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id"]), WHOLE)
    assert told(result) == [
        ("changed", {"id": "1"}, "a", "abcdef", "abc"),
        ("changed", {"id": "1"}, "b", "101010", "1010"),
    ]


async def test_types_that_the_mapping_changes_are_compared_as_the_targets(
    source: Connection, target: Connection
) -> None:
    await source.execute(
        "CREATE TABLE t (id integer, a numeric(12,4), b text, c json, d timestamp, e character(6), f smallint,"
        " g text[]);"
        "INSERT INTO t VALUES (1, 1.5000, '2024-01-02 03:04:05+05:45', '{\"b\": 1, \"a\": [1.0]}',"
        " '2024-07-01 12:00', 'x', 5, '{a}')"
    )
    await target.execute(
        "CREATE TABLE t (id bigint, a numeric, b timestamptz, c jsonb, d timestamptz, e text, f numeric(6,2),"
        " g char(4)[]);"
        "INSERT INTO t VALUES (1, 1.5, '2024-01-01 21:19:05Z', '{\"a\": [1.0], \"b\": 1}',"
        " '2024-07-01 12:00Z', 'x', 5, '{a}')"
    )
    mapping = await resolve(source, target, "t", ["id"])
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.outcome == "passed", told(result)


async def test_a_table_without_a_key_is_compared_as_a_multiset(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (a integer, b text)")
    await on_both(source, target, "INSERT INTO t SELECT n % 10, 'x' FROM generate_series(1, 100) n")
    mapping = await resolve(source, target, "t", [])
    assert (await compare_partition(source, target, mapping, WHOLE)).outcome == "passed"
    await target.execute("DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 3 LIMIT 2)")
    await target.execute("INSERT INTO t VALUES (4, 'x'), (77, NULL)")
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.counts == {"missing": 2, "doubled": 1, "extra": 1}
    assert {(f.kind, f.expected, f.found) for f in result.findings} == {
        ("missing", '{"a": "3", "b": "x"}', None),
        ("doubled", None, '{"a": "4", "b": "x"}'),
        ("extra", None, '{"a": "77", "b": null}'),
    }
    assert any("2 rows alike" in finding.hint for finding in result.findings)


async def test_values_that_changed_places_are_found_row_by_row(source: Connection, target: Connection) -> None:
    """A sum of record hashes can't see this, nor can an XOR of cells (performance.md 4.2)."""
    await on_both(source, target, "CREATE TABLE t (id integer PRIMARY KEY, a integer, b integer)")
    await on_both(source, target, "INSERT INTO t SELECT n, n, -n FROM generate_series(1, 500) n")
    mapping = await resolve(source, target, "t", ["id"])
    await target.execute("UPDATE t SET a = 501 - a, b = -(501 + b)")
    result = await compare_partition(source, target, mapping, WHOLE, shown=2000)
    assert result.counts == {"changed": 500}
    assert len(result.findings) == 1000


async def test_the_same_change_in_two_rows_does_not_cancel(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a integer)")
    await source.execute("INSERT INTO t VALUES (1, 5), (1, 5), (2, 6), (2, 6)")
    await target.execute("INSERT INTO t VALUES (3, 7), (3, 7), (4, 8), (4, 8)")
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id"]), WHOLE)
    assert result.counts == {"missing": 4, "extra": 4}


async def test_only_the_mappings_scope_is_compared_and_the_result_says_so(
    source: Connection, target: Connection
) -> None:
    await source.execute("CREATE TABLE t (id integer, tenant integer); INSERT INTO t VALUES (1, 7), (2, 7)")
    await target.execute("CREATE TABLE t (id integer, tenant integer); INSERT INTO t VALUES (1, 7), (2, 7), (1, 8)")
    mapping = await resolve(source, target, "t", ["id"], scope="t.tenant = 7", mode="append")
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.outcome == "passed"
    assert "only target rows in the mapping's scope: t.tenant = 7" in result.compared


async def test_a_phase_is_compared_with_what_has_been_moved_through_it(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer PRIMARY KEY, a boolean)")
    await source.execute("INSERT INTO t SELECT n, n % 4 < 2 FROM generate_series(1, 100) n")
    await source.execute("INSERT INTO t VALUES (101, NULL)")
    phases = ["canary", "tenth", "everyone"]
    mapping = await resolve(source, target, "t", ["id"], phases={"canary": "id % 10 = 0", "tenth": "a"})
    other = await resolve(source, target, "t", ["id"], phases={"tenth": "a"})

    async def outcome(through: str, mapping=mapping) -> str:  # type: ignore[no-untyped-def]
        return (await compare_partition(source, target, mapping, WHOLE, phases=phases, through=through)).outcome

    assert await outcome("canary", other) == "passed"  # not named by any phase so far: no row yet
    await target.execute("INSERT INTO t SELECT n, n % 4 < 2 FROM generate_series(10, 100, 10) n")
    assert [await outcome(phase) for phase in phases] == ["passed", "failed", "failed"]
    assert await outcome("canary", other) == "failed"
    await target.execute("INSERT INTO t SELECT n, true FROM generate_series(1, 100) n WHERE n % 4 < 2 AND n % 10 > 0")
    assert [await outcome(phase) for phase in phases] == ["failed", "passed", "failed"]
    await target.execute("INSERT INTO t SELECT n, false FROM generate_series(1, 100) n WHERE n % 4 > 1 AND n % 10 > 0")
    await target.execute("INSERT INTO t VALUES (101, NULL)")
    assert [await outcome(phase) for phase in phases] == ["failed", "failed", "passed"]
    unknown = await compare_partition(source, target, mapping, WHOLE, phases=phases, through="nobody")
    assert unknown.outcome == "could not run" and "nobody" in unknown.message


async def test_text_is_compared_by_bytes(source: Connection, target: Connection) -> None:
    """Composed and decomposed letters look alike and are not equal; case and blanks count."""
    await on_both(source, target, "CREATE TABLE t (id text, a text)")
    await source.execute("INSERT INTO t VALUES ('a', 'é'), ('b', U&'e\\0301'), ('c', 'x ')")
    await target.execute("INSERT INTO t VALUES ('A', 'é'), ('b', 'é'), ('c', 'x')")
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id"]), WHOLE)
    assert told(result) == [
        ("extra", {"id": "A"}, None, None, '{"id": "A", "a": "é"}'),
        ("missing", {"id": "a"}, None, '{"id": "a", "a": "é"}', None),
        ("changed", {"id": "b"}, "a", "e\u0301", "é"),
        ("changed", {"id": "c"}, "a", "x ", "x"),
    ]


async def test_the_same_text_in_two_encodings_is_equal(cluster: Cluster, target: Connection, source_dsn: str) -> None:
    admin = await connect(source_dsn, application_name="test")
    await admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    latin = await connect(cluster.dsn("latin"), application_name="test")
    try:
        for connection in (latin, target):
            await connection.execute("CREATE TABLE public.t (id integer PRIMARY KEY, a text, b varchar(9))")
            await connection.execute("INSERT INTO public.t VALUES (1, 'Größe', 'é'), (2, 'aß', NULL), (3, '', 'ÿ')")
        mapping = await resolve(latin, target, "public.t", ["id"])
        result = await compare_partition(latin, target, mapping, WHOLE)
        assert result.method == "hashtextextended of UTF-8 in hex"
        assert result.outcome == "passed", result
        await target.execute("UPDATE t SET a = a || '€' WHERE id = 2")
        result = await compare_partition(latin, target, mapping, WHOLE)
        assert told(result) == [("changed", {"id": "2"}, "a", "aß", "aß€")]
    finally:
        await latin.close()
        await admin.execute("DROP DATABASE latin")
        await admin.close()


async def test_settings_of_a_session_do_not_change_the_outcome(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a timestamptz, b float8, c interval, d bytea)")
    await on_both(
        source, target, "INSERT INTO t VALUES (1, '2024-03-31 01:30Z', 0.1::float8 / 3, '1 mon 1 day', '\\xdeadbeef')"
    )
    await target.execute("SET TimeZone = 'America/New_York'; SET DateStyle = 'German'; SET extra_float_digits = -10")
    await target.execute("SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'")
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id"]), WHOLE)
    assert result.outcome == "passed"
    assert await target.fetchval("SHOW TimeZone") == "America/New_York"  # and is as it was


async def test_long_values_are_shown_shortened_with_length_and_hash(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a text)")
    await source.execute("INSERT INTO t VALUES (1, repeat('ä', 5000) || '1')")
    await target.execute("INSERT INTO t VALUES (1, repeat('ä', 5000) || '2')")
    result = await compare_partition(source, target, await resolve(source, target, "t", ["id"]), WHOLE)
    [finding] = result.findings
    assert finding.expected is not None and finding.found is not None and finding.expected != finding.found
    assert finding.expected.startswith("ä" * 200 + "... (5001 characters, sha256 ")
    assert len(finding.expected) < 320


async def test_what_cannot_be_compared_has_failed_and_says_why(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a integer)")
    await on_both(source, target, "INSERT INTO t VALUES (1, 0)")
    mapping = await resolve(source, target, "t", ["id"], expressions={"a": "1 / a"})
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.outcome == "could not run" and "division by zero" in result.message
    assert result.findings_total == 1
    await target.execute("DROP TABLE t")
    mapping = mapping.model_copy(update={"columns": [mapping.columns[0]]})
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.outcome == "could not run" and '"public.t" does not exist' in result.message


async def test_a_lost_connection_is_not_a_result(source: Connection, target: Connection, target_dsn: str) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a integer)")
    mapping = await resolve(source, target, "t", ["id"])
    lost = await connect(target_dsn, application_name="test")
    await target.execute("SELECT pg_terminate_backend($1)", lost.get_server_pid())
    await asyncio.sleep(0.1)
    with pytest.raises(TransientError):
        await compare_partition(source, lost, mapping, WHOLE)
    lost.terminate()


async def test_verification_writes_nothing(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a integer)")
    await on_both(source, target, "INSERT INTO t VALUES (1, 1)")
    await source.execute(
        "CREATE FUNCTION sneaky(integer) RETURNS integer LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO t VALUES (2, 2); RETURN $1; END $$"
    )
    mapping = await resolve(source, target, "t", ["id"], expressions={"a": "sneaky(a)"})
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.outcome == "could not run" and "read-only transaction" in result.message
    assert await source.fetchval("SELECT count(*) FROM t") == 1


MODULES: Final = itertools.count(1)  # a module is imported once in a process, whatever folder it came from


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / f"cleaning_{next(MODULES)}.py").write_text(
        "def clean(rows):\n"
        "    return [{**row, 'phone': row['phone'] and ''.join(filter(str.isdigit, row['phone']))} for row in rows]\n"
        "def shorten(rows):\n    return rows[1:]\n"
        "def show(rows):\n    return [{**row, 'phone': row['flag']} for row in rows]\n"
    )
    return tmp_path


def module(folder: Path) -> str:
    return next(folder.glob("cleaning_*.py")).stem


async def test_a_python_transform_is_computed_again(source: Connection, target: Connection, folder: Path) -> None:
    await source.execute("CREATE TABLE t (id integer, phone text, price numeric(8,2), at timestamptz, mood text)")
    await target.execute("CREATE TYPE mood AS ENUM ('ok', 'sad')")
    await target.execute("CREATE TABLE t (id integer, phone text, price numeric(8,2), at timestamptz, mood mood)")
    rows = "SELECT n, '+' || n || '-55 ' || n, n / 8.0, '2024-01-01Z'::timestamptz + n * interval '1 s', 'ok'"
    await source.execute(f"INSERT INTO t {rows} FROM generate_series(1, 5000) n")
    await source.execute("INSERT INTO t VALUES (5001, NULL, NULL, NULL, NULL)")
    await target.execute(f"INSERT INTO t {rows}::mood FROM generate_series(1, 5000) n")
    await target.execute("UPDATE t SET phone = regexp_replace(phone, '[^0-9]', '', 'g')")
    await target.execute("INSERT INTO t VALUES (5001, NULL, NULL, NULL, NULL)")
    mapping = await resolve(
        source, target, "t", ["id"], transform=f"{module(folder)}:clean", transform_columns=["phone"]
    )
    told_rows: list[int] = []
    result = await compare_partition(source, target, mapping, WHOLE, folder=folder, on_progress=told_rows.append)
    assert result.outcome == "passed", result
    assert (result.source_rows, result.target_rows) == (5001, 5001)
    assert told_rows[-1] == 5001 and len(told_rows) > 2
    digest = hashlib.sha256((folder / f"{module(folder)}.py").read_bytes()).hexdigest()
    assert any(line.endswith(f"clean; its file's SHA-256 is {digest}") for line in result.compared)
    await target.execute("UPDATE t SET phone = '1' WHERE id = 77; UPDATE t SET mood = 'sad' WHERE id = 4000")
    await target.execute("DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (6000)")
    result = await compare_partition(source, target, mapping, WHOLE, folder=folder)
    assert result.counts == {"changed": 2, "missing": 1, "extra": 1}
    assert {(f.kind, f.key["id"], f.column, f.expected, f.found) for f in result.findings if f.column} == {
        ("changed", "77", "phone", "775577", "1"),
        ("changed", "4000", "mood", "ok", "sad"),
    }
    bounded = await compare_partition(source, target, mapping, part(1, ["50"], ["100"]), folder=folder)
    assert bounded.source_rows == 50 and bounded.counts == {"changed": 1}


async def test_a_transform_of_a_table_without_a_key_is_compared_as_a_multiset(
    source: Connection, target: Connection, folder: Path
) -> None:
    await on_both(source, target, "CREATE TABLE t (phone text)")
    await source.execute("INSERT INTO t SELECT '+' || n % 50 FROM generate_series(1, 3000) n")
    await target.execute("INSERT INTO t SELECT n % 50 FROM generate_series(1, 3000) n")
    mapping = await resolve(source, target, "t", [], transform=f"{module(folder)}:clean")
    assert (await compare_partition(source, target, mapping, WHOLE, folder=folder)).outcome == "passed"
    await target.execute("INSERT INTO t VALUES ('7')")
    result = await compare_partition(source, target, mapping, WHOLE, folder=folder)
    assert told(result) == [("doubled", {}, None, None, '{"phone": "7"}')]


async def test_a_transform_is_given_values_as_copy_writes_them(
    source: Connection, target: Connection, folder: Path
) -> None:
    await source.execute("CREATE TABLE t (id integer, phone text, flag boolean); INSERT INTO t VALUES (1, '', true)")
    await target.execute("CREATE TABLE t (id integer, phone text, flag boolean); INSERT INTO t VALUES (1, 't', true)")
    mapping = await resolve(source, target, "t", ["id"], transform=f"{module(folder)}:show")
    result = await compare_partition(source, target, mapping, WHOLE, folder=folder)
    assert result.outcome == "passed", told(result)


@pytest.mark.parametrize(
    ("transform", "columns", "reason"),
    [
        ("shorten", ["phone"], "was given 1 rows and gave back 0 rows"),
        ("nobody", ["phone"], "nobody"),
        ("clean", ["id", "phone"], "may change the key (id)"),
    ],
)
async def test_a_transform_that_does_not_hold_its_contract_could_not_run(
    source: Connection, target: Connection, folder: Path, transform: str, columns: list[str], reason: str
) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, phone text); INSERT INTO t VALUES (1, '2')")
    mapping = await resolve(
        source, target, "t", ["id"], transform=f"{module(folder)}:{transform}", transform_columns=columns
    )
    result = await compare_partition(source, target, mapping, WHOLE, folder=folder)
    assert result.outcome == "could not run" and reason in result.message


async def test_an_unstable_expression_is_reported_and_not_passed_over(source: Connection, target: Connection) -> None:
    await on_both(source, target, "CREATE TABLE t (id integer, a float8); INSERT INTO t VALUES (1, 0.5)")
    mapping = await resolve(source, target, "t", ["id"], expressions={"a": "random()"})
    result = await compare_partition(source, target, mapping, WHOLE)
    assert result.outcome == "failed" and result.findings_total == 1 and result.findings
