"""Names, texts and a plan's own SQL as parts of a statement: the only room that quotes an identifier or a literal."""

import re
from typing import Final

from knarr.errors import PlanError
from knarr.plan.resolved import TableName

LONGEST: Final = 63  # NAMEDATALEN - 1 bytes: the server cuts longer names with a mere notice (measured, M18)

# One name: quoted with "" for a quote inside, or bare as the server folds it.
_NAME: Final = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\W\d][\w$]*))\s*')


def quote(name: str) -> str:
    """The name as a quoted identifier.

    Raises:
        PlanError: empty, longer than 63 bytes in UTF-8, holding NUL or what UTF-8 can't hold.
    """
    if not name:
        raise PlanError("an identifier is empty; PostgreSQL has no such name")
    if "\0" in name:
        raise PlanError(f"the identifier {name!r} holds a NUL character, which PostgreSQL can't store")
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise PlanError(f"the identifier {name!r} can't be written in UTF-8") from None
    if length > LONGEST:
        raise PlanError(
            f"the identifier {name!r} has {length} bytes, PostgreSQL keeps {LONGEST} and would cut it silently",
            hint="shorten the name",
        )
    return '"' + name.replace('"', '""') + '"'


def qualified(table: TableName) -> str:
    """The table as quoted schema and name."""
    return f"{quote(table.schema_name)}.{quote(table.name)}"


def literal(text: str) -> str:
    """The text as a string literal, for statements that can't bind (DDL, COPY); right whatever the server's settings.

    Raises:
        PlanError: it holds NUL.
    """
    if "\0" in text:
        raise PlanError(f"the text {text[:40]!r} holds a NUL character, which PostgreSQL can't store")
    body = text.replace("'", "''")
    return f"E'{body.replace(chr(92), chr(92) * 2)}'" if "\\" in body else f"'{body}'"


def enclosed(sql: str) -> str:
    """SQL as a plan's author wrote it, in parentheses; a `--` comment at its end does not swallow the closing one."""
    return f"({sql}\n)" if "--" in sql else f"({sql})"


def parse_table(text: str) -> TableName:
    """`schema.table`, each part bare (folded to lower case, as the server does) or in double quotes.

    Raises:
        PlanError: anything else, one part or three included.
    """
    parts: list[str] = []
    position = 0
    while True:
        match = _NAME.match(text, position)
        if match is None:
            break
        quoted, bare = match.group(1), match.group(2)
        parts.append(quoted.replace('""', '"') if quoted is not None else bare.lower())
        position = match.end()
        if position == len(text) or text[position] != ".":
            break
        position += 1
    if position != len(text) or len(parts) != 2:
        raise PlanError(
            f"found {text!r}, expected a table as schema.table",
            hint='put a name with capitals, spaces or dots in double quotes, as in shop."Order"',
        )
    for part in parts:
        quote(part)
    return TableName(schema_name=parts[0], name=parts[1])
