"""The row hash and its sums: what is computed inside the databases, as SQL.

A row's hash is `hash_record_extended` of ROW(columns), each in a form whose hash tells apart what the texts tell apart
(knarr.verify.canonical): 64 bits, kept as two numbers. Servers before 14, or of unlike encodings, hash the text of
ROW(columns) by `hashtextextended` with two seeds: 128 bits. The hashes of a partition are summed as numerics (a sum,
because XOR cancels rows that are there twice) and counted. Never a sum of record hashes themselves: they are linear in
the columns and such a sum missed 6,678 of 10,000 swaps (research/performance.md 4.2). So each is hashed once more; and
since `hashint8extended` folds its 64 bits into 32 first (upper XOR lower half), it is hashed twice: whole, and its
upper half alone, which together are all of it.

Rows are summed by buckets of their key in the same pass, for 3 to 12 % more than a bare sum, so that a difference is
confined to some thousand rows at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from knarr.errors import DataError
from knarr.verify.canonical import Value
from knarr.verify.models import SHOWN_CHARACTERS

Method = Literal["hash_record_extended", "hashtextextended", "hashtextextended of UTF-8 in hex", "sha256 of UTF-8"]
Argument = str | Sequence[str | None] | Sequence[int]

# Made-up hashes would be trusted for ever: so both servers must agree on real ones first. Lengths around the hash
# function's block of 12 bytes; the last one is not ASCII and is only asked of UTF-8 databases.
_PROBES: Final = ("", "a", "abcdefghijk", "abcdefghijkl", "abcdefghijklm", '(1,"a b",,0.10)' * 40, "Größe €")

PROBE_HASHES: Final = """
SELECT current_setting('server_encoding') AS encoding,
       array_agg(hashtextextended(probe COLLATE "C", seed) ORDER BY position, seed) AS hashes
  FROM unnest($1::text[]) WITH ORDINALITY AS probes (probe, position)
 CROSS JOIN (VALUES (0), (1)) AS seeds (seed)
"""
# One value of each form in which a column is hashed. The function is there from PostgreSQL 14 on.
RECORDS_SINCE: Final = 14
PROBE_RECORDS: Final = r"""
SELECT ARRAY[
         hash_record_extended(ROW(
             true, 7::smallint, -7, 7::oid, date '2024-02-29', uuid 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
             bytea '\xdeadbeef', macaddr '08:00:2b:01:02:03', int8send(-8589934592), numeric_send(-1234567.8900),
             numeric_send('NaN'), time_send('12:00:00.5'), timestamp_send('2024-02-29 12:00:00.5'),
             timestamptz_send('2024-02-29 12:00:00.5+02'), 'a b'::text COLLATE "C", 'a'::character(3) COLLATE "C",
             NULL::text), 0),
         hashint8extended(-8589934593, 0),
         hashint8extended(-8589934593 >> 32, 1)]
"""
ENCODING: Final = "SELECT current_setting('server_encoding')"

# One value of each type whose text depends on the server's version or settings.
PROBE_TEXTS: Final = """
SELECT ROW(1.1::float8, 0.1::float4, 1e-5::float8, '-0'::float8, 'NaN'::float8, 1.10::numeric, 'NaN'::numeric,
           '2024-02-29 12:00:00.5+02'::timestamptz, '0044-03-15 BC'::date, '1 mon -3 days 04:05:06.7'::interval,
           '\\xdeadbeef'::bytea, '12.34'::float8::numeric::money, '[0:1]={NULL,"a b"}'::text[], '[1,5)'::int4range,
           '{"b": 1.0, "a": null}'::jsonb, '10.0.0.1/8'::inet, '(1.5,2)'::point, B'0101')::text
"""

MOST_BUCKETS: Final = 8192
ROWS_IN_BUCKET: Final = 512
KEYS_IN_RUN_BITS: Final = 8  # whole-number keys: runs of 256 neighbours share a bucket, as damage often comes in runs


@dataclass(frozen=True)
class Relation:
    """The rows of one side. `arguments` are bound as $1, $2 ...; conditions and values may refer to them."""

    from_sql: str
    conditions: tuple[str, ...]
    arguments: tuple[Argument, ...]
    key: tuple[Value, ...]
    columns: tuple[Value, ...]

    def with_condition(self, condition: str) -> "Relation":
        """The rows that also meet a condition."""
        return replace(self, conditions=(*self.conditions, condition))

    @property
    def source(self) -> str:
        """FROM and WHERE."""
        where = "\n           AND ".join(f"({condition})" for condition in self.conditions)
        return f"          FROM {self.from_sql}" + (f"\n         WHERE {where}" if where else "")


def bucket_mask(estimated_rows: int) -> int:
    """2^n - 1: how many buckets, less one; some hundred rows in each of a large partition's."""
    buckets = 64
    while buckets < MOST_BUCKETS and buckets * ROWS_IN_BUCKET < estimated_rows:
        buckets *= 2
    return buckets - 1


def choose_method(
    source_encoding: str,
    target_encoding: str,
    source_hashes: Sequence[int],
    target_hashes: Sequence[int],
    records: bool,
) -> Method:
    """The quickest hash that gives the same number for the same row on both servers.

    Args:
        source_encoding: the source database's.
        target_encoding: the target database's.
        source_hashes: of the probes' texts.
        target_hashes: likewise.
        records: whether both servers know how to hash a record, and did so alike.
    """
    if records and source_encoding == target_encoding:
        return "hash_record_extended"
    if list(source_hashes) != list(target_hashes):
        return "sha256 of UTF-8"
    if source_encoding != target_encoding:
        return "hashtextextended of UTF-8 in hex"
    return "hashtextextended"


def probes(both_utf8: bool) -> list[str]:
    """The strings that both servers are asked to hash."""
    return list(_PROBES if both_utf8 else _PROBES[:-1])


def require_same_text(source: str, target: str) -> None:
    """Refuses to compare anything when the two servers write the same values differently.

    Raises:
        DataError: they do.
    """
    if source != target:
        raise DataError(
            f"the two servers write the same values differently: the source gives {source}, the target {target}",
            hint="PostgreSQL before 12 prints floats otherwise; verify from a newer copy of it",
        )


def bucket_sums(relation: Relation, method: Method, mask: int) -> str:
    """b, n, s0, s1: rows and sums of row hashes by bucket.

    The empty arm of the UNION keeps the row's text from being made once for each seed, as OFFSET 0 would; but OFFSET 0
    also keeps the server from using parallel workers (seen on 18.6).
    """
    if relation.key:
        kind = "bigint" if method == "hash_record_extended" else "text"
        return (
            f"SELECT b, count(*) AS n, sum({_hash('t', method, 0)}) AS s0, sum({_hash('t', method, 1)}) AS s1\n"
            f"  FROM (SELECT {_bucket(relation.key, method, mask)} AS b, {_content(relation.columns, method)} AS t\n"
            f"{relation.source}\n         UNION ALL SELECT NULL::bigint, NULL::{kind} WHERE false) AS r\n GROUP BY b"
        )
    return (
        f"SELECT h0 & {mask} AS b, count(*) AS n, sum(h0) AS s0, sum(h1) AS s1\n"
        f"  FROM (SELECT {_hash('t', method, 0)} AS h0, {_hash('t', method, 1)} AS h1\n"
        f"          FROM (SELECT {_content(relation.columns, method)} AS t\n"
        f"{relation.source}\n                OFFSET 0) AS r OFFSET 0) AS h\n GROUP BY 1"
    )


def bucket_entries(relation: Relation, method: Method, mask: int) -> str:
    """kh, h0, h1, k, n: the rows of some buckets (the last argument, a bigint[]) in ascending order of the key's hash.

    Without a key the row's own hash stands for it, and rows that are alike are one entry, counted in n.
    """
    kept = relation.with_condition(in_buckets(relation, method, mask))
    key_text = _content(relation.key or relation.columns, method)
    count, group = ("1", "") if relation.key else ("count(*)", " GROUP BY kh, h0, h1, k\n")
    return (
        f"SELECT kh, h0, h1, k, {count} AS n\n"
        f"  FROM (SELECT {_identity('kt', method)} AS kh, {_hash('t', method, 0)} AS h0,\n"
        f"               {_hash('t', method, 1)} AS h1, k\n"
        f"          FROM (SELECT {key_text} AS kt, {_content(relation.columns, method)} AS t,\n"
        f"                       {_key_array(relation)} AS k\n"
        f"{kept.source}\n                OFFSET 0) AS r OFFSET 0) AS h\n"
        f"{group} ORDER BY kh"
    )


def bucket_arrays(relation: Relation, method: Method, mask: int) -> str:
    """b, kh, h0, h1: of some buckets (the last argument, a bigint[]), ascending, the hashes of all rows as arrays.

    An array of numbers is read some thirty times as fast as as many rows; keys are left out.
    """
    kept = relation.with_condition(in_buckets(relation, method, mask))
    bucket = _bucket(relation.key, method, mask) if relation.key else "NULL::bigint"
    key_text = _content(relation.key, method) if relation.key else "NULL::text"
    own = ("b", _identity("kt", method))
    if not relation.key:
        own = (f"{_hash('t', method, 0)} & {mask}", _identity("t", method))
    return (
        "SELECT b, array_agg(kh) AS kh, array_agg(h0) AS h0, array_agg(h1) AS h1\n"
        f"  FROM (SELECT {own[0]} AS b, {own[1]} AS kh, {_hash('t', method, 0)} AS h0, {_hash('t', method, 1)} AS h1\n"
        f"          FROM (SELECT {bucket} AS b, {key_text} AS kt, {_content(relation.columns, method)} AS t\n"
        f"{kept.source}\n                OFFSET 0) AS r ORDER BY 1) AS h\n GROUP BY b ORDER BY b"
    )


def rows_by_hash(relation: Relation, method: Method, mask: int) -> str:
    """kh, h0, h1, k, n, c: the rows of some buckets whose key has one of some hashes, ascending by kh.

    Rows that are alike are one, counted in n; c has the columns' texts. The buckets and the hashes are the last two
    arguments, each a bigint[].
    """
    kept = relation.with_condition(has_key_hash(relation, method, mask))
    key_text = _content(relation.key or relation.columns, method)
    shown = ", ".join(f"{value.shown} AS c{n}" for n, value in enumerate(relation.columns))
    cells = ", ".join(_shortened(f"c{n}") for n in range(len(relation.columns)))
    return (
        f"SELECT kh, h0, h1, k, count(*) AS n, (array_agg(c))[1:1] AS c\n"
        f"  FROM (SELECT {_identity('kt', method)} AS kh, {_hash('t', method, 0)} AS h0,\n"
        f"               {_hash('t', method, 1)} AS h1, k, ARRAY[{cells}]::text[] AS c\n"
        f"          FROM (SELECT {key_text} AS kt, {_content(relation.columns, method)} AS t,\n"
        f"                       {_key_array(relation)} AS k, {shown}\n"
        f"{kept.source}\n                OFFSET 0) AS r OFFSET 0) AS h\n GROUP BY kh, h0, h1, k\n ORDER BY kh"
    )


def in_buckets(relation: Relation, method: Method, mask: int) -> str:
    """The rows of the buckets in the first argument after the relation's own, a bigint[]."""
    if relation.key:
        bucket = _bucket(relation.key, method, mask)
    else:
        bucket = f"({_hash(_content(relation.columns, method), method, 0)} & {mask})"
    return f"{bucket} = ANY(${len(relation.arguments) + 1}::bigint[])"


def has_key_hash(relation: Relation, method: Method, mask: int) -> str:
    """The rows of some buckets whose key's hash is in the second argument after the relation's own, a bigint[].

    CASE, because the planner takes a hash for cheap and would compute it of every row first.
    """
    hashed = f"{key_hash(relation, method)} = ANY(${len(relation.arguments) + 2}::bigint[])"
    return f"CASE WHEN {in_buckets(relation, method, mask)} THEN {hashed} ELSE false END"


def key_hash(relation: Relation, method: Method) -> str:
    """The hash of a row's key; without a key the row's own."""
    return _identity(_content(relation.key or relation.columns, method), method)


def _content(values: Sequence[Value], method: Method) -> str:
    """What `_hash` makes a row's hashes of: a record's hash, or a text."""
    if method == "hash_record_extended":
        return f"hash_record_extended(ROW({', '.join(value.typed for value in values)}), 0)"
    return _hashable(f"ROW({', '.join(value.hashed for value in values)})::text", method)


def _hashable(text: str, method: Method) -> str:
    match method:
        case "hash_record_extended" | "hashtextextended":
            return text
        case "hashtextextended of UTF-8 in hex":
            return f"encode(convert_to({text}, 'UTF8'), 'hex')"
        case "sha256 of UTF-8":
            return f"encode(sha256(convert_to({text}, 'UTF8')), 'hex')"


def _hash(hashable: str, method: Method, seed: int) -> str:
    if method == "hash_record_extended":
        return f"hashint8extended({hashable}{' >> 32' if seed else ''}, {seed})"
    if method == "sha256 of UTF-8":
        return f"('x' || substr({hashable}, {1 + 16 * seed}, 16))::bit(64)::bigint"
    return f'hashtextextended({hashable} COLLATE "C", {seed})'


def _identity(hashable: str, method: Method) -> str:
    """A hash to tell keys apart by, never to be summed: all the 64 bits of a record's."""
    return hashable if method == "hash_record_extended" else _hash(hashable, method, 0)


def _bucket(key: Sequence[Value], method: Method, mask: int) -> str:
    terms = [f"(({value.hashed})::bigint >> {KEYS_IN_RUN_BITS} & {mask})" for value in key if value.integer]
    others = [value for value in key if not value.integer]
    if others and method == "hash_record_extended":
        terms.append(f"({_hash(_content(others, method), method, 0)} & {mask})")
    elif others:
        text = others[0].shown if len(others) == 1 else f"ROW({', '.join(value.hashed for value in others)})::text"
        terms.append(f"({_hash(_hashable(f'({text})', method), method, 0)} & {mask})")
    bucket = terms[0] if len(terms) == 1 else f"({' + '.join(terms)}) & {mask}"
    return f"coalesce({bucket}, -1)"


def _key_array(relation: Relation) -> str:
    return f"ARRAY[{', '.join(value.shown for value in relation.key)}]::text[]"


def _shortened(text: str) -> str:
    # The same as knarr.verify.models.shorten, so that a long value stays where it is.
    return (
        f"CASE WHEN length({text}) <= {SHOWN_CHARACTERS} THEN {text}"
        f" ELSE left({text}, {SHOWN_CHARACTERS}) || '... (' || length({text}) || ' characters, sha256 '"
        f" || encode(sha256(convert_to({text}, 'UTF8')), 'hex') || ')' END"
    )
