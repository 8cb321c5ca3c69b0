"""What a server's error tells to workflow history: conditions, names and places, in any language; never a row."""

import io

import asyncpg
import pytest

from knarr.errors import DataError, KnarrError, PlanError
from knarr.postgres.failures import classified, classify
from knarr.postgres.session import Connection

ROWS = """
CREATE TABLE one (id integer PRIMARY KEY, name varchar(9) CHECK (name <> 'canary'), mood text NOT NULL DEFAULT 'x');
CREATE TABLE two (id integer REFERENCES one, "at home" text UNIQUE, part int4range, EXCLUDE USING gist (part WITH &&));
CREATE TABLE parts (id integer) PARTITION BY RANGE (id);
CREATE TYPE mood AS ENUM ('glad');
CREATE FUNCTION raise(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    RAISE EXCEPTION 'customer "%" is bad', $1 USING DETAIL = 'it is ' || $1; END$$;
CREATE FUNCTION raise_as(text, text) RETURNS void LANGUAGE plpgsql AS $$BEGIN
    RAISE EXCEPTION USING ERRCODE = $1, MESSAGE = $2, HINT = $2, TABLE = $2, COLUMN = $2, CONSTRAINT = $2; END$$;
CREATE FUNCTION run(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE $1; END$$;
INSERT INTO one VALUES (4711, 'x'); INSERT INTO two VALUES (4711, 'a) already exists.', '[4711,4712)');
CREATE TABLE doubled AS SELECT 4711 AS id FROM generate_series(1, 2);
"""
QUOTING: dict[str, tuple[str, list[str]]] = {
    "a key": ("INSERT INTO one VALUES (4711, 'y')", ["unique violation (SQLSTATE 23505)", '"one"', '"one_pkey"']),
    "a key that looks like the server's words": (
        "INSERT INTO two (\"at home\") VALUES ('a) already exists.')",
        ["unique violation", 'constraint "two_at home_key"'],
    ),
    "a foreign key": ("INSERT INTO two VALUES (815)", ["foreign key violation", '"two"', '"two_id_fkey"']),
    "a row pointed at": ("DELETE FROM one", ["foreign key violation", '"two_id_fkey"']),
    "an index": ("CREATE UNIQUE INDEX ON doubled (id)", ["unique violation", '"doubled"', '"doubled_id_idx"']),
    "an exclusion": (
        "INSERT INTO two VALUES (4711, 'b', '[4000,5000)')",
        ["exclusion violation", 'constraint "two_part_excl"'],
    ),
    "a check": (
        "INSERT INTO one VALUES (815, 'canary')",
        ['check violation (SQLSTATE 23514): schema "refusing", table "one", constraint "one_name_check"'],
    ),
    "a NULL": (
        "INSERT INTO one VALUES (815, 'canary', NULL)",
        ['not null violation (SQLSTATE 23502): schema "refusing", table "one", column "mood"'],
    ),
    "a length": ("INSERT INTO one VALUES (815, 'canary-canary')", ["string data right truncation (SQLSTATE 22001)"]),
    "a number": ("SELECT '4711x'::integer", ["invalid text representation", "character 8 of the statement"]),
    "a number out of range": ("SELECT '4711471147114711'::integer", ["numeric value out of range"]),
    "quotes": ("SELECT '4711 type \"canary\" x'::integer", ["invalid text representation (SQLSTATE 22P02)"]),
    "an enum": ("SELECT 'canary'::mood", ["invalid text representation"]),
    "a date": ("SELECT '4711-13-47'::date", ["datetime field overflow"]),
    "JSON": ("SELECT E'{\"a\": canary\\n}'::json", ["invalid text representation"]),
    "a place in numbers": ("SELECT 4711::numeric(3, 0)", ["numeric value out of range (SQLSTATE 22003)"]),
    "a partition": ("INSERT INTO parts VALUES (4711)", ["check violation", 'table "parts"']),
    "a syntax error": ("SELECT 4711 canary canary", ["syntax error (SQLSTATE 42601)", "character 20 of the statement"]),
    "a name out of a row": ("SELECT (SELECT 'canary'::text)::regclass", ["undefined table (SQLSTATE 42P01)"]),
    "a pattern out of a row": (
        "SELECT to_tsquery(x) FROM (VALUES ('canary &')) AS rows (x)",
        ["syntax error (SQLSTATE 42601)"],
    ),
    "a database out of a row": (
        "SELECT has_database_privilege(x, 'CONNECT') FROM (VALUES ('canary'::text)) AS rows (x)",
        ["invalid catalog name (SQLSTATE 3D000)"],
    ),
    "a function": (
        "SELECT raise('canary')",
        ["an exception that a function raised (SQLSTATE P0001)", "PL/pgSQL function", "raise(text) line 2"],
    ),
    "a function with a SQLSTATE of its own": (
        "SELECT raise_as('ZZ001', 'canary')",
        ["an error that PostgreSQL has no name for (SQLSTATE ZZ001)", "PL/pgSQL function"],
    ),
    "a function that says it lacks a privilege": ("SELECT raise_as('42501', 'canary')", ["(SQLSTATE 42501)"]),
    "a function that says it is the fence": (
        "SELECT raise_as('KN001', 'lost lease canary: this writer has epoch 1, the lease has 2')",
        ["(SQLSTATE KN001)"],
    ),
    "a function that puts values where names go": (
        "SELECT raise_as('23505', 'canary')",
        ["unique violation (SQLSTATE 23505)\nContext: PL/pgSQL function"],
    ),
    "a function that runs what a row says": ("SELECT run('SELECT canary')", ["undefined column (SQLSTATE 42703)"]),
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
    assert caught.value.detail.startswith("copying: ")


# What servers say in German, French, Japanese and Russian, and a value that looks like the server's words.
ELSEWHERE: list[tuple[dict[str, str], str]] = [
    (
        {
            "C": "23505",
            "M": "doppelter Schlüsselwert verletzt Unique-Constraint »one_pkey«",
            "D": "Schlüssel »(id)=(canary)« existiert bereits.",
            "W": "COPY one, Zeile 3",
            "t": "one",
            "n": "one_pkey",
        },
        'copying: unique violation (SQLSTATE 23505): table "one", constraint "one_pkey"\nContext: COPY, line 3',
    ),
    (
        {
            "C": "22P02",
            "M": "syntaxe en entrée invalide pour le type integer : « canary »",
            "W": "COPY one, ligne 3, colonne id : « canary »",
        },
        "copying: invalid text representation (SQLSTATE 22P02)\nContext: COPY, line 3",
    ),
    (
        {"C": "22P02", "M": "canary 型の入力構文が不正です", "W": "oneのCOPY、行番号 3、列 id: canary"},
        "copying: invalid text representation (SQLSTATE 22P02)",
    ),
    (
        {"C": "P0001", "M": "canary плох", "W": "функция PL/pgSQL raise(canary), строка 3, оператор RAISE"},
        "copying: an exception that a function raised (SQLSTATE P0001)",
    ),
    (
        {"C": "22P02", "M": "canary", "W": 'SQL statement "x\nCOPY canary, line 4711, column canary: "'},
        "copying: invalid text representation (SQLSTATE 22P02)",
    ),
    (
        {"C": "57014", "M": "canary", "W": "JSON-Daten, Zeile 1: canary"},
        "copying: query canceled (SQLSTATE 57014)",
    ),
]


@pytest.mark.parametrize(("fields", "told"), ELSEWHERE)
def test_a_server_of_another_language_tells_no_more(fields: dict[str, str], told: str) -> None:
    assert classify(asyncpg.PostgresError.new(fields), "copying").message == told


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


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT nobody FROM one", 'asking: column "nobody" does not exist'),
        ("SELECT nobody(1)", "asking: function nobody(integer) does not exist"),
        ("SELECT FROM nobody", 'asking: relation "nobody" does not exist'),
        ("SET LOCAL ROLE guest; SELECT FROM refusing.one", "asking: permission denied for schema refusing"),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(9)", "asking: canceling statement due to statement timeout"),
        ("SET TRANSACTION READ ONLY; DELETE FROM two", "asking: cannot execute DELETE in a read-only transaction"),
    ],
)
async def test_words_that_no_row_can_have_got_into_are_told(statement: str, told: str, rows: Connection) -> None:
    with pytest.raises(KnarrError) as caught, classified("asking"):
        async with rows.transaction():
            await rows.execute("CREATE ROLE guest")
            await rows.execute(statement)

    assert caught.value.message == told
