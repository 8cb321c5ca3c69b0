"""Each error of a server, the driver or the network means what it should for the run, and shows no secret."""

import asyncio
import io
import ssl

import asyncpg
import pytest

from knarr.errors import DataError, KnarrError, LostLease, PlanError, TransientError
from knarr.postgres.failures import classified, classify
from knarr.postgres.session import Connection, connect

TABLE: list[tuple[str, type[KnarrError]]] = [
    ("KN001", LostLease),
    ("KN002", LostLease),
    ("08006", TransientError),
    ("08P01", TransientError),
    ("57P01", TransientError),
    ("57P02", TransientError),
    ("57P03", TransientError),
    ("57014", TransientError),
    ("57P04", PlanError),
    ("53100", TransientError),
    ("53200", TransientError),
    ("53300", TransientError),
    ("55P03", TransientError),
    ("55006", TransientError),
    ("40001", TransientError),
    ("40P01", TransientError),
    ("40003", TransientError),
    ("40002", DataError),
    ("25P03", TransientError),
    ("25006", PlanError),
    ("58030", TransientError),
    ("22001", DataError),
    ("22P02", DataError),
    ("22003", DataError),
    ("21000", DataError),
    ("23502", DataError),
    ("23505", DataError),
    ("23503", DataError),
    ("23514", DataError),
    ("54000", DataError),
    ("P0001", DataError),
    ("42601", PlanError),
    ("42P01", PlanError),
    ("42501", PlanError),
    ("28P01", PlanError),
    ("3D000", PlanError),
    ("3F000", PlanError),
    ("0A000", PlanError),
    ("2BP01", PlanError),
    ("XX000", PlanError),
    ("XX001", DataError),
    ("99999", PlanError),
]


@pytest.mark.parametrize(("sqlstate", "expected"), TABLE)
async def test_what_the_server_raises_is_classified_by_its_sqlstate(
    sqlstate: str, expected: type[KnarrError], shared: Connection
) -> None:
    raised = "DO $$BEGIN RAISE EXCEPTION 'boom' USING ERRCODE = '{}', DETAIL = 'the row', HINT = 'try'; END$$"

    with pytest.raises(KnarrError) as caught, classified("counting the ships"):
        await shared.execute(raised.format(sqlstate))

    assert type(caught.value) is expected
    assert caught.value.sqlstate == sqlstate
    assert caught.value.message.startswith("counting the ships: boom")
    about_rows = sqlstate[:2] in ("21", "22", "23", "44", "54", "P0")
    assert ("the row" in caught.value.message) is not about_rows
    assert "the row" in (caught.value.detail or caught.value.message)
    assert "PL/pgSQL function" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError("no"), TransientError),
        (ConnectionResetError("reset"), TransientError),
        (TimeoutError(), TransientError),
        (OSError("unreachable"), TransientError),
        (ssl.SSLCertVerificationError("wrong host"), PlanError),
        (asyncpg.InterfaceError("connection is closed"), TransientError),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), TransientError),
        (
            asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
            TransientError,
        ),
        (asyncpg.InternalClientError("unknown error in protocol implementation"), PlanError),
        (asyncpg.DataError("invalid input for query argument $1"), DataError),
        (asyncpg.InterfaceError("another operation is in progress"), PlanError),
        (ZeroDivisionError("bug"), PlanError),
    ],
)
def test_what_the_driver_or_the_network_raises_is_classified(error: Exception, expected: type[KnarrError]) -> None:
    assert type(classify(error, "connecting")) is expected


def test_an_error_of_ours_stays_as_it_is() -> None:
    error = DataError("found three", hint="look")

    assert classify(error, "whatever") is error


def test_a_cancellation_is_no_error() -> None:
    with pytest.raises(asyncio.CancelledError), classified("waiting"):
        raise asyncio.CancelledError


async def test_no_password_is_shown_when_a_server_refuses_or_is_not_there(target_dsn: str) -> None:
    user, _, rest = target_dsn.removeprefix("postgresql://").partition("@")
    name = user.partition(":")[0]
    wrong = f"postgresql://{name}:canary-one@{rest}"
    nobody = f"postgresql://{name}:canary-two@127.0.0.1:1/x"

    for dsn, expected in ((wrong, PlanError), (nobody, TransientError)):
        with pytest.raises(KnarrError) as caught:
            await connect(dsn, application_name="test")
        assert type(caught.value) is expected
        assert "canary" not in str(caught.value)


def test_an_address_in_a_servers_words_is_blanked() -> None:
    shown = classify(OSError("can't reach postgresql://me:canary@db/x or password=canary"), "connecting")

    assert "canary" not in str(shown)


ROWS = """
CREATE TABLE one (id integer PRIMARY KEY, name varchar(9) CHECK (name <> 'canary'), mood text NOT NULL DEFAULT 'x');
CREATE TABLE two (id integer REFERENCES one, "at home" text UNIQUE, part int4range, EXCLUDE USING gist (part WITH &&));
CREATE TABLE parts (id integer) PARTITION BY RANGE (id);
CREATE TYPE mood AS ENUM ('glad');
CREATE FUNCTION raise(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    RAISE EXCEPTION 'customer "%" is bad', $1 USING DETAIL = 'it is ' || $1; END$$;
INSERT INTO one VALUES (4711, 'x'); INSERT INTO two VALUES (4711, 'a) already exists.', '[4711,4712)');
CREATE TABLE doubled AS SELECT 4711 AS id FROM generate_series(1, 2);
"""
QUOTING: dict[str, tuple[str, list[str]]] = {
    "a key": ("INSERT INTO one VALUES (4711, 'y')", ["one_pkey", "Key (id) already exists."]),
    "a key that looks like the server's words": (
        "INSERT INTO two (\"at home\") VALUES ('a) already exists.')",
        ['"two_at home_key"', 'Key ("at home") already exists.'],
    ),
    "a foreign key": ("INSERT INTO two VALUES (815)", ["two_id_fkey", 'Key (id) is not present in table "one".']),
    "a row pointed at": ("DELETE FROM one", ["two_id_fkey", 'Key (id) is still referenced from table "two".']),
    "an index": ("CREATE UNIQUE INDEX ON doubled (id)", ['"doubled_id_idx"', "Key (id) is duplicated."]),
    "an exclusion": ("INSERT INTO two VALUES (4711, 'b', '[4000,5000)')", ['"two_part_excl"', "Key (part) conflicts"]),
    "a check": ("INSERT INTO one VALUES (815, 'canary')", ['"one"', '"one_name_check"', "Failing row contains"]),
    "a NULL": ("INSERT INTO one VALUES (815, 'canary', NULL)", ['column "mood"', 'relation "one"']),
    "a length": ("INSERT INTO one VALUES (815, 'canary-canary')", ["value too long for type character varying(9)"]),
    "a number": ("SELECT '4711x'::integer", ["invalid input syntax for type integer"]),
    "a number out of range": ("SELECT '4711471147114711'::integer", ["is out of range for type integer"]),
    "quotes": ("SELECT '4711 type \"canary\" x'::integer", ["invalid input syntax for type integer"]),
    "an enum": ("SELECT 'canary'::mood", ["invalid input value for enum mood"]),
    "a date": ("SELECT '4711-13-47'::date", ["date/time field value out of range"]),
    "JSON": ("SELECT E'{\"a\": canary\\n}'::json", ["invalid input syntax for type json", "JSON data, line 1"]),
    "a place in numbers": (
        "SELECT 4711::numeric(3, 0)",
        ["numeric field overflow", "A field with precision 3, scale 0"],
    ),
    "a partition": ("INSERT INTO parts VALUES (4711)", ['relation "parts"', "Partition key of the failing row"]),
    "a function": ("SELECT raise('canary')", ["customer (left out) is bad", "PL/pgSQL function", "raise(text) line 2"]),
}


@pytest.fixture(scope="module")
async def rows(shared: Connection) -> Connection:
    """A schema of things that refuse rows."""
    await shared.execute("CREATE SCHEMA refusing; SET search_path = refusing, public;" + ROWS)
    return shared


@pytest.mark.parametrize("case", QUOTING)
async def test_names_are_told_and_values_only_to_the_log(case: str, rows: Connection) -> None:
    statement, told = QUOTING[case]

    with pytest.raises(KnarrError) as caught, classified("copying"):
        await rows.execute(statement)

    assert all(word in str(caught.value) for word in told), str(caught.value)
    assert not any(value in str(caught.value) for value in ("4711", "815", "canary", "4000", "a)", "471")), caught.value
    if case not in ("a length", "a place in numbers"):  # there the server itself tells no value
        assert any(value in caught.value.detail for value in ("4711", "815", "canary", "a)")), caught.value.detail


@pytest.mark.parametrize(
    ("rows_text", "where"), [("4711\tcanary\n", "COPY one, line 1"), ("canary\tx\n", "COPY one, line 1, column id")]
)
async def test_a_line_of_copy_is_told_without_what_it_holds(rows_text: str, where: str, rows: Connection) -> None:
    with pytest.raises(KnarrError) as caught, classified("copying"):
        await rows.copy_to_table("one", source=io.BytesIO(rows_text.encode()), columns=["id", "name"])

    assert where in str(caught.value)
    assert not any(value in str(caught.value) for value in ("4711", "canary"))


async def test_what_depends_on_what_is_told_in_full(rows: Connection) -> None:
    told = "constraint two_id_fkey on table two depends on table one"
    with pytest.raises(PlanError, match=told), classified("dropping"):
        await rows.execute("DROP TABLE one")


async def test_an_argument_that_does_not_fit_is_told_by_its_number(rows: Connection) -> None:
    with pytest.raises(DataError) as caught, classified("asking"):
        await rows.fetchval("SELECT $1::integer", "canary")

    assert "query argument $1" in str(caught.value)
    assert "canary" not in str(caught.value)
