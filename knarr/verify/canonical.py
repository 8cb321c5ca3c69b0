"""What "equal" means: for every type the one SQL text of a value, written the same way for both sides.

Both sides are brought to the *target's* type and compared by the text that the type's output function gives under
pinned session settings (knarr.verify.snapshot). So NULL is not '', -0 is not 0, one month is not thirty days, and two
texts are equal when their bytes in UTF-8 are, whatever a collation says. By type:

    type                        equal when
    numeric                     same value and scale; if the source's type differs from the target's: same value
                                (the scale is then the target's doing), NaN equals NaN
    real, double precision      same shortest exact text: -0 and 0 differ, NaN equals NaN
    character(n)                same up to trailing blanks, which are padding
    character varying(n), bit   same text; the source is not cut to n first, so a cut value is a finding
    json                        same text, blank for blank; jsonb: same content (the server normalises it, but 1.0 is
                                not 1.00); a json source of a jsonb target is compared as jsonb
    timestamp/timestamptz       same text in UTC after the cast to the target's type and precision
    interval                    same months, days and microseconds
    bytea, uuid, inet, cidr, macaddr, bit varying, tsvector, geometric types, ranges, multiranges: same text
    arrays                      same bounds, elements and NULLs, elements by the rules above
    money                       same amount (read under lc_monetary C)
    xml                         same text but for the encoding that its declaration names
    enums, composites, types of extensions: same text (an enum by its label; its order and its OID say nothing)
    domains                     as the type beneath
    reg* types, oid             same text
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from knarr.plan.resolved import ResolvedColumn
from knarr.postgres.identifiers import enclosed, quote

Kind = Literal["text", "varchar", "char", "bits", "numeric", "xml", "integer", "plain"]

_TYPMOD: Final = re.compile(r"\([^)]*\)")
_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
# How a value enters a record that is hashed by its columns' types. A type's own hash serves where it tells apart all
# that the texts tell apart, and well: not numeric (5 and -5 hash alike), not the 64-bit integers beneath bigint and the
# times (folded into 32 bits: 1 and 2^32 hash alike), whose binary form does. All other types enter as text: floats (-0
# equals 0), intervals (a month equals thirty days), arrays (their hash does not see bounds), jsonb (1.0 equals 1.00),
# enums (the hash is of the OID), and what has no hash.
_TYPED: Final = {
    "boolean": "{}",
    "smallint": "{}",
    "integer": "{}",
    "oid": "{}",
    "date": "{}",
    "uuid": "{}",
    "bytea": "{}",
    "macaddr": "{}",
    "bigint": "int8send({})",
    "numeric": "numeric_send({})",
    "time without time zone": "time_send({})",
    "timestamp without time zone": "timestamp_send({})",
    "timestamp with time zone": "timestamptz_send({})",
    "text": '({}) COLLATE "C"',
    "character varying": '({}) COLLATE "C"',
    "character": '({}) COLLATE "C"',  # its hash leaves trailing blanks out
}
_KINDS: Final[dict[str, Kind]] = {
    "character varying": "varchar",
    "varchar": "varchar",
    "character": "char",
    "bpchar": "char",
    "bit": "bits",
    '"bit"': "bits",
    "bit varying": "bits",
    "varbit": "bits",
    "numeric": "numeric",
    "xml": "xml",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
}


@dataclass(frozen=True)
class Value:
    """One column of one side, in SQL.

    `hashed` enters a row whose text is hashed; `typed` enters a record that is hashed by its columns' own types, which
    is two to three times as fast; `shown` is the text to be shown and compared by itself.
    """

    hashed: str
    typed: str
    shown: str
    integer: bool


def kind_of(column: ResolvedColumn) -> tuple[Kind, str]:
    """Which rule applies to a column, and the `[]` of its arrays."""
    if column.category != "builtin":
        return "text", ""
    element = _TYPMOD.sub("", column.base_type)
    dimensions = "[]" if element.endswith("[]") else ""
    return _KINDS.get(element.removesuffix("[]"), "plain"), dimensions


def expected_value(column: ResolvedColumn) -> Value:
    """The column as the source must give it: the plan's expression, cast to the target's type."""
    return _canonical(column, _cast(column))


def output_text(column: ResolvedColumn) -> str:
    """The same value as COPY would write it (`t`, not `true`), which is what a Python transform is given.

    `concat` calls the type's output function. DISTINCT FROM, because a composite of NULLs `IS NULL` without being it.
    """
    value = _cast(column)
    return f"CASE WHEN {value} IS DISTINCT FROM NULL THEN concat({value}) END"


def _cast(column: ResolvedColumn) -> str:
    kind, dimensions = kind_of(column)
    expression = enclosed(column.expression)
    match kind:  # an explicit cast to a length would cut without a word, so none is named
        case "text":
            return f"{expression}::text"
        case "varchar":
            return f"{expression}::varchar{dimensions}"
        case "char":
            return f"{expression}::bpchar{dimensions}"
        case "bits" if column.source_type in _INTEGERS:
            return f"{expression}::{column.base_type}::varbit"  # integers have no cast to varbit
        case "bits":
            return f"{expression}::varbit{dimensions}"
        case _:
            return f"{expression}::{column.base_type}"


def actual_value(column: ResolvedColumn) -> Value:
    """The column as the target holds it."""
    name = quote(column.name)
    return _canonical(column, f"{name}::text" if kind_of(column)[0] == "text" else name)


def recomputed_value(column: ResolvedColumn, text_sql: str) -> Value:
    """A text that a Python transform gave, read by the target as it reads what is copied into the column."""
    kind, dimensions = kind_of(column)
    match kind:
        case "text":
            cast = f"{text_sql}::{column.target_type}::text"
        case "varchar":
            cast = f"{text_sql}::varchar{dimensions}"
        case "char":
            cast = f"{text_sql}::bpchar{dimensions}"
        case "bits":
            cast = f"{text_sql}::varbit{dimensions}"
        case _:
            cast = f"{text_sql}::{column.base_type}"
    return _canonical(column, cast)


def _canonical(column: ResolvedColumn, value: str) -> Value:
    kind, dimensions = kind_of(column)
    same_type = column.source_type in (column.base_type, column.target_type)
    if kind == "char" and not same_type:
        # Takes the padding off. Between columns of one length the padding is the same, and this cast would double the
        # time of the whole checksum (measured on a char(84): 8.5 s against 20 s).
        value = f"{value}::text{dimensions}"
    elif kind == "numeric" and not dimensions and not same_type:
        value = f"trim_scale({value})"
    if kind == "xml":
        # The cast to text keeps the declaration's encoding, the output function (in ROW(...) and concat) drops it.
        shown = f"CASE WHEN {value} IS DISTINCT FROM NULL THEN concat({value}) END"
    elif kind == "text":
        shown = value
    else:
        shown = f"({value})::text"
    typed = f'({shown}) COLLATE "C"'
    if kind != "text":
        typed = _TYPED.get(_TYPMOD.sub("", column.base_type), typed).format(value)
    return Value(hashed=value, typed=typed, shown=shown, integer=kind == "integer" and not dimensions)
