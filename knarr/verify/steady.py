"""Whether expressions depend on their row alone, decided by what the server made of them; in doubt they do not.

The tree may hold only nodes that are known here, immutable functions (those of operators and casts too), and built-in
ones that are stable for one reason: they look at a setting, which knarr.postgres.session pins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from knarr.postgres.failures import classified
from knarr.postgres.parse_tree import Node, parse_tree
from knarr.postgres.session import Connection

FUNCTIONS: Final = """
SELECT oid::bigint, proname::text AS name, provolatile = 'i' AS immutable,
       provolatile = 's' AND oid < 16384 AS stable_built_in
  FROM pg_catalog.pg_proc WHERE oid = ANY($1::bigint[])
"""
TYPES: Final = """
SELECT t.oid::bigint, t.typname::text AS name, t.oid < 16384 AS built_in,
       i.oid::bigint AS input, o.oid::bigint AS output,
       CASE WHEN o.proname = 'array_out' THEN t.typelem::bigint ELSE coalesce(r.rngsubtype::bigint, 0) END AS element
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_proc i ON i.oid = t.typinput
  JOIN pg_catalog.pg_proc o ON o.oid = t.typoutput
  LEFT JOIN pg_catalog.pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
 WHERE t.oid = ANY($1::bigint[])
"""

BOOLEAN: Final = 16
NUMBERS: Final = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric"})
# Of each node that can be part of a steady expression: where it says its type. PostgreSQL 14 has shorter names.
_TYPE_OF: Final[dict[str, str]] = {
    "VAR": "vartype", "CONST": "consttype", "FUNCEXPR": "funcresulttype", "OPEXPR": "opresulttype",
    "DISTINCTEXPR": "opresulttype", "NULLIFEXPR": "opresulttype", "RELABELTYPE": "resulttype",
    "COERCEVIAIO": "resulttype", "ARRAYCOERCEEXPR": "resulttype", "COERCETODOMAIN": "resulttype",
    "CASEEXPR": "casetype", "CASE": "casetype", "CASETESTEXPR": "typeId", "COALESCEEXPR": "coalescetype",
    "COALESCE": "coalescetype", "MINMAXEXPR": "minmaxtype", "MINMAX": "minmaxtype", "ARRAYEXPR": "array_typeid",
    "ARRAY": "array_typeid", "SUBSCRIPTINGREF": "refrestype", "FIELDSELECT": "resulttype",
}  # fmt: skip
_BOOLEANS: Final = frozenset({"BOOLEXPR", "NULLTEST", "BOOLEANTEST", "SCALARARRAYOPEXPR"})
_FRAME: Final = frozenset(
    {"QUERY", "RTE", "RANGETBLENTRY", "RTEPERMISSIONINFO", "ALIAS", "FROMEXPR", "RANGETBLREF", "TARGETENTRY"}
    | {"CASEWHEN", "WHEN", "COLLATEEXPR", "COLLATE"}
)
_KNOWN: Final = _FRAME | _BOOLEANS | _TYPE_OF.keys()

_COMPARED: Final = frozenset(
    f"{left}_{operator}_{right}"
    for operator in ("eq", "ne", "lt", "le", "gt", "ge", "cmp")
    for left, right in (
        ("date", "timestamptz"), ("timestamptz", "date"), ("timestamp", "timestamptz"), ("timestamptz", "timestamp"),
    )
)  # fmt: skip
# Stable because of the time zone.
_ZONE: Final = _COMPARED | {
    "date", "time", "timestamp", "timestamptz", "timezone", "date_trunc", "date_part", "extract",
    "make_timestamptz", "overlaps", "timestamptz_pl_interval", "timestamptz_mi_interval", "interval_pl_timestamptz",
    "date_add", "date_subtract",
}  # fmt: skip
# Stable because of the language too, if the format asks for words of it.
_FORMATS: Final = frozenset({"to_char", "to_date", "to_timestamp", "to_number"})
# Stable because their arguments may be of any type, and are written out as text.
_WRITERS: Final = frozenset(
    {"concat", "concat_ws", "format", "textanycat", "anytextcat", "quote_literal", "quote_nullable", "array_to_string"}
)
# These would use a cast to json of somebody's making.
_JSON: Final = frozenset(
    {"to_json", "to_jsonb", "json_build_object", "jsonb_build_object", "json_build_array", "jsonb_build_array"}
)
# Stable because of settings that are pinned, or of an enum's labels, whose change knarr.verify.since notices.
_OUTPUTS: Final = frozenset({"date_out", "timestamp_out", "timestamptz_out", "interval_out", "cash_out", "enum_out"})
_INPUTS: Final = frozenset({"interval_in", "cash_in", "enum_in"})
_OF_ELEMENTS: Final = frozenset({"array_in", "array_out", "range_in", "range_out", "multirange_in", "multirange_out"})
# What they read may be 'now'.
_CLOCKS: Final = frozenset({"date_in", "time_in", "timestamp_in", "timestamptz_in"})
_CLOCK_WORDS: Final = ("now", "today", "tomorrow", "yesterday", "uescape")
_NOT_KNOWN: Final = {"SUBLINK": "a subquery reads other rows", "SQLVALUEFUNCTION": "it depends on when it is asked"}


@dataclass(frozen=True)
class Function:
    """What the catalogue says of a function."""

    name: str
    immutable: bool
    stable_built_in: bool

    def is_one_of(self, names: frozenset[str]) -> bool:
        """Whether it is a stable one of the server's own, of one of these names."""
        return self.stable_built_in and self.name in names


@dataclass(frozen=True)
class Type:
    """What the catalogue says of a type; its element is an array's or a range's, 0 if it has none."""

    oid: int
    name: str
    built_in: bool
    input: int
    output: int
    element: int


async def why_unsteady(connection: Connection, from_clause: str, expressions: Sequence[tuple[str, str]]) -> str:
    """Why the value of one of these may change although its row does not; empty if none can.

    Args:
        connection: a pinned session.
        from_clause: the one table that they are over.
        expressions: each as people know it, and as SQL.

    Raises:
        TransientError: the server was in the way.
    """
    with classified("asking how the server reads the mapping's expressions"):
        try:
            tree = await parse_tree(connection, [sql for _, sql in expressions], from_clause)
        except (asyncpg.SyntaxOrAccessError, asyncpg.DataError):
            tree = None  # what it has against them it says where they are used
        entries = tree.children("targetList") if tree else []
        if tree is None or len(entries) != len(expressions):
            return "the server does not show how it reads the mapping's expressions"
        judge = await _Judge.asked(connection, tree)
    for entry, (shown, sql) in zip(entries, expressions, strict=True):
        if reason := judge.entry(entry, sql):
            return f"{reason}: {shown[:80]}"
    return next(filter(None, map(judge.kind, tree.walk())), "")


@dataclass(frozen=True)
class _Judge:
    functions: dict[int, Function]
    types: dict[int, Type]

    @classmethod
    async def asked(cls, connection: Connection, tree: Node) -> "_Judge":
        types: dict[int, Type] = {}
        asked = {_type(node) for node in tree.walk()}
        while missing := asked - types.keys() - {0}:
            rows = await connection.fetch(TYPES, sorted(missing))
            types |= {row["oid"]: Type(**row) for row in rows}
            asked = {row["element"] for row in rows}
        called = {oid for node in tree.walk() for oid in _functions(node)}
        called |= {oid for kind in types.values() for oid in (kind.input, kind.output)}
        rows = await connection.fetch(FUNCTIONS, sorted(called))
        return cls({row["oid"]: Function(row["name"], row["immutable"], row["stable_built_in"]) for row in rows}, types)

    def entry(self, entry: Node, sql: str) -> str:
        """Why an expression is not steady."""
        # 'to' and, in the next line, 'day' are one string, also with a comment between; U&'n!006fw' UESCAPE '!' is one.
        letters = "".join(filter(str.isalnum, sql)).lower()
        may_tell_time = any(sign in sql for sign in ("\\", "--", "/*")) or any(word in letters for word in _CLOCK_WORDS)
        for node in entry.walk():
            if reason := self.kind(node) or self._reason(node, may_tell_time):
                return reason
        return ""

    def kind(self, node: Node) -> str:
        """Why a node may not be there at all."""
        if node.name in _KNOWN:
            return ""
        return _NOT_KNOWN.get(node.name, f"{node.name.lower()} may depend on more than the row")

    def _reason(self, node: Node, may_tell_time: bool) -> str:
        for oid in _functions(node):
            function = self.functions.get(oid)
            if function is None or not (function.immutable or self._is_pinned(function, node.children("args"))):
                return f"{function.name if function else 'a function'}() may depend on more than the row"
        match node.name:
            case "VAR" if node.atom("varattno").startswith("-"):
                return "where a row lies, and what wrote it, is not the row"
            case "CONST" if not self._is_read_steadily(_type(node), may_tell_time):
                return "it depends on when it is asked"
            case "COERCEVIAIO" if not (
                self._is_written_steadily(_type(next(iter(node.children("arg")), node)))
                and self._is_read_steadily(_type(node), may_tell_time=True)
            ):
                return "a cast through text may depend on more than the row"
            case "MINMAXEXPR" | "MINMAX" if not self._is_built_in(_type(node)):
                return "what compares the values may depend on more than the row"
        return ""

    def _is_pinned(self, function: Function, arguments: Sequence[Node]) -> bool:
        types = [_type(argument) for argument in arguments]
        if function.is_one_of(_FORMATS):
            return len(types) == 2 and self._speaks_no_language(function, types[0], arguments[1])
        if function.is_one_of(_WRITERS):
            return all(map(self._is_written_steadily, types))
        if function.is_one_of(_JSON):
            return all(map(self._is_written_steadily, types)) and all(map(self._is_built_in, types))
        # The zone's offset in a timetz is that of the day on which it is asked.
        return function.is_one_of(_ZONE) and not any(
            oid in self.types and self.types[oid].name == "timetz" for oid in types
        )

    def _speaks_no_language(self, function: Function, of: int, given: Node) -> bool:
        """Of a format that is a constant: no names of months, no signs of a country's numbers."""
        if given.name != "CONST" or given.atom("constisnull") != "false":
            return False
        value = next((text for text in given.fields.get("constvalue", []) if str(text).startswith("[")), "[]")
        letters = "".join(chr(int(byte) % 256) for byte in str(value)[1:-1].split()[4:]).upper()
        is_number = function.name == "to_number" or (of in self.types and self.types[of].name in NUMBERS)
        return not (set(letters) & set("DGL") if is_number else "TM" in letters)

    def _is_built_in(self, oid: int) -> bool:
        return oid in self.types and self.types[oid].built_in

    def _is_written_steadily(self, oid: int) -> bool:
        if (kind := self.types.get(oid)) is None:
            return False
        output = self.functions[kind.output]
        if output.is_one_of(_OF_ELEMENTS):
            return self._is_written_steadily(kind.element)
        return output.immutable or output.is_one_of(_OUTPUTS)

    def _is_read_steadily(self, oid: int, may_tell_time: bool) -> bool:
        if (kind := self.types.get(oid)) is None:
            return False
        read = self.functions[kind.input]
        if read.is_one_of(_OF_ELEMENTS):
            return self._is_read_steadily(kind.element, may_tell_time)
        if read.is_one_of(_CLOCKS):
            return not may_tell_time
        return read.immutable or read.is_one_of(_INPUTS)


def _functions(node: Node) -> list[int]:
    """What a node calls; 0 where the server has not said, which no function is."""
    return [int(node.atom(key) or 0) for key in ("funcid", "opfuncid") if key in node.fields]


def _type(node: Node) -> int:
    """The type of a node's value by oid; 0 where it is not known here."""
    if node.name in _BOOLEANS:
        return BOOLEAN
    if node.name in ("COLLATEEXPR", "COLLATE"):
        return _type(next(iter(node.children("arg")), Node("")))
    text = node.atom(_TYPE_OF.get(node.name, ""))
    return int(text) if text.isdigit() else 0
