"""A table with a column of every built-in type, and for each type values that all differ by our definition of equality.

Neighbours in a list are what a careless comparison takes for equal: 1.0 and 1.00, 0 and -0, NULL and ''. The build of
PostgreSQL that the tests run on has no XML; that type is tested apart.
"""

import random
from typing import Final

Text = str | None

# Types that are made for the table: their names are not built in, their comparison is.
TYPES: Final = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE point3 AS (x integer, y numeric, label text);
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE >= 0);
CREATE DOMAIN word AS text;
"""

SAMPLES: Final[dict[str, list[Text]]] = {
    "boolean": ["t", "f", None],
    "smallint": ["0", "-1", "32767", None],
    "integer": ["0", "-1", "2147483647", None],
    "bigint": ["0", "-1", "9223372036854775807", None],
    "numeric": [
        "1",
        "1.0",
        "1.00",
        "0",
        "0.00",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e-20",
        "12345678901234567890.1",
        None,
    ],
    "numeric(10,2)": ["1.00", "1.01", "-1.00", "NaN", None],
    "real": ["0", "-0", "0.1", "0.10000001", "NaN", "Infinity", None],
    "double precision": ["0", "-0", "0.1", "0.10000000000000002", "1e-300", "NaN", "-Infinity", None],
    "money": ["0.00", "12.34", "-12.34", "12.35", None],
    "text": [
        "",
        " ",
        "a",
        "A",
        "a ",
        "ä",
        "a\u0308",
        "a,b",
        '"a"',
        "a\\b",
        "a\nb",
        "NULL",
        "x" * 300,
        "x" * 299 + "y",
        None,
    ],
    "character varying(20)": ["", " ", "a", "a ", None],
    "character(5)": ["", "a", "A", "ab", None],
    '"char"': ["", "a", "b", None],
    "name": ["", "a", "A", None],
    "bytea": ["\\x", "\\x00", "\\x5c", "\\x6100", None],
    "bit(4)": ["0000", "0001", "1000", None],
    "bit varying(8)": ["", "0", "00", "0001", None],
    "date": ["2024-02-29", "2024-03-01", "0044-03-15 BC", "infinity", "-infinity", None],
    "time without time zone": ["00:00:00", "24:00:00", "12:34:56.000001", None],
    "time with time zone": ["12:00:00+00", "13:00:00+01", "12:00:00.1+00", None],
    "timestamp without time zone": ["2024-03-10 02:30:00", "2024-03-10 02:30:00.000001", "infinity", None],
    "timestamp with time zone": ["2024-03-10 02:30:00+00", "2024-03-10 02:30:00+01", "0001-01-01 00:00:00+00 BC", None],
    "timestamp(0) without time zone": ["2024-03-10 02:30:00", "2024-03-10 02:30:01", None],
    "interval": ["1 mon", "30 days", "720:00:00", "-1 mon 30 days", "00:00:00.000001", "0", None],
    "interval day to second(3)": ["1 day", "24:00:00", "00:00:00.001", None],
    "uuid": ["00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001", None],
    "inet": ["10.0.0.1", "10.0.0.1/8", "10.0.0.0/8", "::1", None],
    "cidr": ["10.0.0.0/8", "10.0.0.0/9", None],
    "macaddr": ["08:00:2b:01:02:03", "08:00:2b:01:02:04", None],
    "macaddr8": ["08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06", None],
    "json": ["{}", "{ }", '{"a": 1}', '{"a":1}', '{"a": 1, "a": 2}', "null", None],
    "jsonb": ["{}", "[]", '{"a": 1}', '{"a": 1.0}', '{"a": null}', "null", '""', None],
    "jsonpath": ["$.a", "$.b", None],
    "point": ["(0,0)", "(-0,0)", "(1,2)", None],
    "line": ["{1,2,3}", "{1,2,4}", None],
    "lseg": ["[(0,0),(1,1)]", "[(0,0),(1,2)]", None],
    "box": ["(1,1),(0,0)", "(2,1),(0,0)", None],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))", None],
    "polygon": ["((0,0),(1,1))", "((0,0),(1,1),(2,0))", None],
    "circle": ["<(0,0),1>", "<(0,0),2>", None],
    "tsvector": ["", "'a'", "'a':1", "'a':1A", "'a' 'b'", None],
    "tsquery": ["'a'", "'a' & 'b'", "'a' | 'b'", None],
    "pg_lsn": ["0/0", "0/1", None],
    "oid": ["0", "1", "4294967295", None],
    "int4range": ["empty", "[1,2)", "[1,3)", "[1,)", "(,)", None],
    "numrange": ["[1,2]", "[1.0,2]", "[1,2)", "empty", None],
    "tstzrange": ["[2024-01-01 00:00:00+00,2024-01-02 00:00:00+00)", "[2024-01-01 00:00:00+01,)", None],
    "daterange": ["[2024-01-01,2024-01-02)", "[2024-01-01,)", None],
    "int8multirange": ["{}", "{[1,2)}", "{[1,2),[5,6)}", None],
    "nummultirange": ["{}", "{[1.0,2)}", "{[1,2)}", None],
    "integer[]": ["{}", "{NULL}", "{1,2}", "{2,1}", "[0:1]={1,2}", "{{1,2}}", None],
    "text[]": ["{}", "{NULL}", '{"NULL"}', '{""}', "{a,b}", '{"a,b"}', None],
    "numeric(6,2)[]": ["{}", "{1.00}", "{1.01}", "{NULL,1.00}", None],
    "character(3)[]": ["{}", "{a}", "{b}", None],
    "timestamp with time zone[]": ["{}", '{"2024-01-01 00:00:00+00"}', '{"2024-01-01 00:00:00+01"}', None],
    "mood": ["sad", "ok", "happy", None],
    "mood[]": ["{}", "{sad,ok}", "{ok,sad}", None],
    "point3": ["(,,)", "(1,2.0,a)", "(1,2.00,a)", '(1,2.0,"")', None],
    "price": ["0.00", "1.00", "1.01", None],
    "word": ["", "a", "A", None],
}

NAMES: Final = [f"c{number:02}" for number in range(len(SAMPLES))]
COLUMN_TYPES: Final = dict(zip(NAMES, SAMPLES, strict=True))


def create(*, primary_key: bool) -> str:
    """The table's CREATE statement; without a primary key a row can be there twice."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMN_TYPES.items())
    return f"CREATE TABLE everything (id integer{' PRIMARY KEY' if primary_key else ''}, {columns})"


def insert() -> str:
    """An INSERT of one row, every value bound as text."""
    values = ", ".join(f"${n + 2}::text::{kind}" for n, kind in enumerate(COLUMN_TYPES.values()))
    return f"INSERT INTO everything VALUES ($1::text::integer, {values})"


def rows(count: int, choice: random.Random) -> list[list[Text]]:
    """That many rows of texts, the key first; the first ones hold every sample of every type."""
    made: list[list[Text]] = []
    for number in range(count):
        cells = [samples[number] if number < len(samples) else choice.choice(samples) for samples in SAMPLES.values()]
        made.append([str(number), *cells])
    return made
