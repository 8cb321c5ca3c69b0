"""Names of PostgreSQL as a plan writes them: `schema.table`, `schema.table alias`, `schema.*`, `schema.table(column)`.

SQL's own rules hold: a name without quotes is folded to lower case, "a quoted one" is taken as it is. Column names
that are keys of the YAML file need no quotes; they are taken as they are.
"""

import re
from functools import lru_cache
from typing import Final

from pydantic import Field

from knarr.plan.problems import Refusal, quoted
from knarr.plan.resolved import Frozen, TableName

# PostgreSQL cuts longer names after 63 bytes with a notice, so that two names can silently become one.
LONGEST_NAME: Final = 63
# A foreign key to 32 columns, PostgreSQL's most, has no more than 4,300 characters.
_LONGEST_TEXT: Final = 5_000

_NAME: Final = r'(?:[A-Za-z_\u0080-\U0010ffff][\w$]*|"(?:[^"]|"")+")'
_SOURCE: Final = re.compile(rf"({_NAME})\s*\.\s*(?:(\*)|({_NAME})(?:\s+(?:(?i:as)\s+)?((?!(?i:as)$){_NAME}))?)")
_REFERENCE: Final = re.compile(rf"({_NAME})\s*\.\s*({_NAME})\s*(?:\(\s*({_NAME}(?:\s*,\s*{_NAME})*)\s*\))?")
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")

_SOURCE_EXPECTED: Final = "schema.table, schema.table alias, or schema.* for a whole schema"
_TARGET_EXPECTED: Final = "schema.table, or schema.* with a source that is a whole schema"
_TABLE_EXPECTED: Final = "schema.table"
_REFERENCE_EXPECTED: Final = "schema.table or schema.table(column, ...)"


class SourceName(Frozen):
    """What `source:` names. Without a table it is the whole schema, as it is."""

    schema_name: str
    table: str | None = Field(description="None: every table of the schema")
    alias: str = Field(description="what expressions call it; the table's name where the plan gives none")

    @property
    def whole_schema(self) -> bool:
        """True for `schema.*`."""
        return self.table is None

    @property
    def table_name(self) -> TableName | None:
        """The one table, or None for a whole schema."""
        return None if self.table is None else TableName(schema_name=self.schema_name, name=self.table)


class Reference(Frozen):
    """What a foreign key points at; no columns means the table's primary key."""

    table: TableName
    columns: list[str]


@lru_cache(maxsize=4096)
def parse_source(text: str) -> SourceName:
    """Read `schema.table`, `schema.table alias`, `schema.table AS alias` or `schema.*`.

    Raises:
        Refusal: it is none of these, or a name in it can't be one of PostgreSQL's.
    """
    match = _read(_SOURCE, text, _SOURCE_EXPECTED)
    schema = _unquoted(match[1])
    if match[2]:
        return SourceName(schema_name=schema, table=None, alias="")
    table = _unquoted(match[3])
    return SourceName(schema_name=schema, table=table, alias=_unquoted(match[4]) if match[4] else table)


@lru_cache(maxsize=4096)
def parse_target(text: str) -> SourceName:
    """Read `schema.table` or `schema.*`; a target has no alias of its own.

    Raises:
        Refusal: it is neither, or a name in it can't be one of PostgreSQL's.
    """
    if _read(_SOURCE, text, _TARGET_EXPECTED)[4]:
        raise Refusal(quoted(text), _TARGET_EXPECTED)
    return parse_source(text)


@lru_cache(maxsize=4096)
def parse_table(text: str) -> TableName:
    """Read `schema.table`, with or without quotes.

    Raises:
        Refusal: it is not a table with its schema, or a name in it can't be one of PostgreSQL's.
    """
    match = _read(_REFERENCE, text, _TABLE_EXPECTED)
    if match[3]:
        raise Refusal(quoted(text), _TABLE_EXPECTED)
    return TableName(schema_name=_unquoted(match[1]), name=_unquoted(match[2]))


def parse_reference(text: str) -> Reference:
    """Read `schema.table` or `schema.table(column, ...)`.

    Raises:
        Refusal: it is neither, or a name in it can't be one of PostgreSQL's.
    """
    match = _read(_REFERENCE, text, _REFERENCE_EXPECTED)
    table = TableName(schema_name=_unquoted(match[1]), name=_unquoted(match[2]))
    return Reference(table=table, columns=[_unquoted(name) for name in re.findall(_NAME, match[3] or "")])


def write_name(name: str) -> str:
    """A name as a plan may write it so that it reads back the same: `order`, or `"Order"` with quotes."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def write_table(table: TableName) -> str:
    """A table as a plan may write it: `shop.order`, `shop."Order"`. Not for SQL: keywords stay without quotes."""
    return f"{write_name(table.schema_name)}.{write_name(table.name)}"


def check_name(name: str) -> None:
    """Hold one name against what PostgreSQL can store.

    Raises:
        Refusal: it is empty, longer than 63 bytes, or holds a NUL.
    """
    if not name:
        raise Refusal("an empty name", "a name")
    if "\0" in name:
        raise Refusal(f"a NUL in the name {quoted(name)}", "a name without it: PostgreSQL can't store one")
    if (length := len(name.encode("utf-8", "surrogatepass"))) > LONGEST_NAME:
        raise Refusal(
            f"the name {quoted(name)} of {length} bytes", f"at most {LONGEST_NAME} bytes: PostgreSQL cuts the rest off"
        )


def check_key(name: str) -> None:
    """Hold a name that is a key of the YAML file, or an entry of a list of names, against what PostgreSQL can store.

    Raises:
        Refusal: it is not a name, or it has SQL's quotes, which would become part of it.
    """
    check_name(name)
    if len(name) > 1 and name[0] == name[-1] == '"':
        raise Refusal(quoted(name), "the name without SQL's quotes: here it is taken as it is", f"Write {name[1:-1]}.")


def _read(pattern: re.Pattern[str], text: str, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(text.strip()) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise Refusal(quoted(text), expected)
    return match


def _unquoted(name: str) -> str:
    """The name itself. Like PostgreSQL's, the folding touches ASCII letters alone."""
    if name.startswith('"'):
        name = name[1:-1].replace('""', '"')
    else:
        name = re.sub(r"[A-Z]+", lambda upper: upper[0].lower(), name)
    check_name(name)
    return name
