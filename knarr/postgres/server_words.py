"""What of a server's error may cross into workflow history, which holds no row's value: an allow-list.

A message can quote a row in any language, under any SQLSTATE, with or without quotes: a function of the database says
what its author likes. So what is told is what can be no value: the condition that the SQLSTATE stands for, the names
that the server sends apart from its words, the place. The words are told only where nothing that touches rows can have
written them.
"""

import re
from typing import Final

import asyncpg

# Sessions, locks, disks: what the server itself says there is fixed, or names objects.
_NEVER_ABOUT_ROWS: Final = ("25", "2BP01", "40", "53", "55006", "55P03", "57")
_ABOUT_ROWS_ALL_THE_SAME: Final = ("40002",)
# Names of users and databases, when somebody logs in, which a FATAL tells; a statement may take one out of a row.
_AT_LOGIN: Final = ("28", "3D")
# With a position in the statement it was refused before it ran. A syntax error quotes the statement, which in a copy
# holds the bounds of a partition.
_REFUSED_BEFORE_IT_RAN: Final = ("0A", "3F", "42")
_QUOTES_THE_STATEMENT: Final = ("42601",)
# By the server's routine, since functions may raise 42501 too.
_NAMES_AN_OBJECT: Final = ("aclcheck_error", "aclcheck_error_col", "aclcheck_error_type")
# An UPDATE or DELETE of a table that a publication sends on: by the server's routine as well, which names that table.
_OF_A_PUBLICATION: Final = "CheckCmdReplicaIdentity"
# What is said of a name that leads nowhere; a function of the database may say so too, which costs a hint.
_MISSING: Final = ("3F000", "42P01", "42883")
_OF_KNARR: Final = re.compile(r'(?:schema|relation|function) "?knarr["\.]')
# The fence's own words, and nothing that looks like them by half.
_OF_THE_FENCE: Final = re.compile(
    r"lost lease \d+: this writer has epoch \d+, the lease has (?:\d+|<NULL>)"
    r"|the fence needs READ COMMITTED, found (?:serializable|repeatable read|read uncommitted)"
)

# RAISE can put anything into these fields. The server's own constraints, in their own source files, put names there.
_FIELDS: Final = (
    ("schema", "schema_name"),
    ("table", "table_name"),
    ("column", "column_name"),
    ("type", "data_type_name"),
    ("constraint", "constraint_name"),
)
_OF_CONSTRAINTS: Final = ("execMain.c", "execIndexing.c", "nbtinsert.c", "ri_triggers.c")

_WORD_ENDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# asyncpg's own words: "invalid input for query argument $1: 'x' (expected ...)".
_ARGUMENT: Final = re.compile(r"invalid input for query argument (\$\d{1,5}):")
# What comes first in a context was said by the server before any value was.
_COPY: Final = re.compile(r"COPY ([^\n]*?), line (\d+)(?:, column ([^\n:]+): )?")
_COPY_ELSEWHERE: Final = re.compile(r"COPY [^\n]*?, \w+ (\d+)")  # in another language
_PLPGSQL: Final = "PL/pgSQL"


def condition(error: asyncpg.PostgresError) -> str:
    """The name of the condition behind the SQLSTATE: `unique violation`."""
    known = type(error)
    if known in (asyncpg.PostgresError, asyncpg.UnknownPostgresError):
        return "an error that PostgreSQL has no name for"
    if known is asyncpg.RaiseError:
        return "an exception that a function raised"
    parts = _WORD_ENDS.sub(" ", known.__name__.removeprefix("Postgres")).lower().split()
    # "unique violation", but "syntax error".
    return " ".join(parts[:-1] if len(parts) > 2 and parts[-1] == "error" else parts)


def words(error: asyncpg.PostgresError) -> str:
    """The server's message where it can hold no row's value; else empty. Its detail and hint are as safe as it is."""
    text, state = text_of(error), str(error.sqlstate or "")
    if state.startswith("KN"):
        return text if _OF_THE_FENCE.fullmatch(text) else ""
    # A context, or a query within: a function or COPY was at work, and may have put its own in.
    if _get(error, "context") or _get(error, "internal_query"):
        return ""
    if state.startswith(_NEVER_ABOUT_ROWS) and state not in _ABOUT_ROWS_ALL_THE_SAME:
        return text
    if state.startswith(_AT_LOGIN) and "FATAL" in (_get(error, "severity_en"), _get(error, "severity")):
        return text
    if not _get(error, "severity"):
        # The driver's own, of a connection that is gone; all else that has no fields may quote an argument.
        return text if state.startswith("08") else ""
    if state == "42501" and _get(error, "server_source_function") in _NAMES_AN_OBJECT:
        return text
    if lacks_identity(error):
        return text
    refused = state.startswith(_REFUSED_BEFORE_IT_RAN) and state not in _QUOTES_THE_STATEMENT
    return text if refused and _get(error, "position") else ""


def lacks_identity(error: asyncpg.PostgresError) -> bool:
    """Whether a publication keeps the rows from being updated or deleted."""
    return _get(error, "server_source_function") == _OF_A_PUBLICATION


def lacks_record(error: asyncpg.PostgresError) -> bool:
    """Whether what was missing is Knarr's own: its schema, or a table or function in it."""
    return str(error.sqlstate or "") in _MISSING and bool(_OF_KNARR.match(text_of(error)))


def words_on_plan(error: asyncpg.PostgresError) -> str:
    """The same for a statement that holds nothing but the plan's own SQL: what was refused is that."""
    if _get(error, "position") and not _get(error, "context") and not _get(error, "internal_query"):
        return text_of(error)
    return words(error)


def names(error: asyncpg.PostgresError) -> str:
    """What it concerns: schema, table, column, type, constraint, as far as the server says; or empty."""
    context = _get(error, "context")
    if context and not context.startswith("COPY ") and _get(error, "server_source_filename") not in _OF_CONSTRAINTS:
        return ""
    return ", ".join(f'{what} "{name}"' for what, field in _FIELDS if (name := _get(error, field)))


def place(error: asyncpg.PostgresError) -> str:
    """In which PL/pgSQL function and line of COPY, at which character or argument of the statement; or empty."""
    told: list[str] = []
    for line in (context := _get(error, "context")).split("\n"):
        if line.startswith(_PLPGSQL):
            told.append(line)
            continue
        if found := _COPY.match(line):
            told.append(f"COPY {found[1]}, line {found[2]}" + (f", column {found[3]}" if found[3] else ""))
        elif found := _COPY_ELSEWHERE.match(line):
            told.append(f"COPY, line {found[1]}")
        # Beyond this, a line may be one of a value's.
        break
    if argument := _ARGUMENT.match(text_of(error)):
        told.append(f"query argument {argument[1]}")
    if position := "" if context or words(error) else _get(error, "position"):
        told.append(f"character {position} of the statement")
    return "\n".join(told)


def text_of(error: asyncpg.PostgresError) -> str:
    """The server's message alone: `str` repeats detail and hint."""
    return str(error.args[0] if error.args else "").strip()


def _get(error: asyncpg.PostgresError, field: str) -> str:
    return str(getattr(error, field, None) or "")
