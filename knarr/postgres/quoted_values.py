"""What a server's error quotes of a row is taken out of it: rows never cross into workflow history.

Names stay (of tables, columns, constraints, types), and so does where the server was: a line of COPY, a function.
"""

import re
from typing import Final

LEFT_OUT: Final = "(left out)"

# Classes of errors about rows. In others what stands in quotes is a name, or SQL of the plan.
_ABOUT_ROWS: Final = ("21", "22", "23", "44", "54", "P0")

# A name is introduced by what it is a name of. Any other quotation is a value, and may hold quotes itself.
_QUOTED: Final = re.compile(
    r"((?:column|constraint|domain|encoding|enum|function|index|parameter|policy|relation|schema|table|trigger|type"
    r'|view) "[^"]*")|".*"',
    re.DOTALL,
)
_BYTES: Final = re.compile(r"0x[0-9a-f]{2}(?: 0x[0-9a-f]{2})*", re.IGNORECASE)
# asyncpg's own words: "invalid input for query argument $1: 'x' (expected ...)".
_ARGUMENT: Final = re.compile(r"(query argument \$\d+): .*", re.DOTALL)

# A value may hold whatever the server says after it, so the last of those words counts.
_KEY: Final = re.compile(
    r"Key (\(.*?\))=\(.*\) (already exists|is duplicated|is not present in table|is still referenced from table"
    r"|conflicts with existing key)(.*)",
    re.DOTALL,
)
_FAILING: Final = re.compile(
    r"(Failing row contains|Partition key of the failing row contains \(.*?\) =) \(.*", re.DOTALL
)
_SIZE: Final = re.compile(r"A field with precision \d+, scale -?\d+ [\w ^.\-]+")
_TUPLE: Final = re.compile(r'Index row references tuple \(\d+,\d+\) in relation "[^"]*"\.?')

_PLACES: Final = re.compile(
    r"^(COPY [^\n]+?, line \d+(?:, column [^\n:]+)?|PL/\w+ function [^\n]+|SQL function [^\n]+"
    r"|JSON data, line \d+|while [^\n]+|[^\n]* tuple \(\d+,\d+\) in relation [^\n]+)",
    re.MULTILINE,
)


def message_without_values(text: str, sqlstate: str) -> str:
    """An error's first line without the values that it quotes."""
    if sqlstate and not sqlstate.startswith(_ABOUT_ROWS):
        return text
    text = _QUOTED.sub(lambda found: found[1] or LEFT_OUT, _ARGUMENT.sub(rf"\1: {LEFT_OUT}", text))
    return _BYTES.sub(LEFT_OUT, text)


def detail_without_values(text: str, sqlstate: str) -> str:
    """An error's DETAIL without a row's values; empty when nothing is left that is known to be none."""
    if not sqlstate.startswith(_ABOUT_ROWS):
        return text
    if key := _KEY.fullmatch(text):
        rest = "." if key[2].startswith("conflicts") else key[3]
        return f"Key {key[1]} {key[2]}{rest}"
    if failing := _FAILING.fullmatch(text):
        return f"{failing[1]} {LEFT_OUT}."
    return text if _SIZE.fullmatch(text) or _TUPLE.fullmatch(text) else ""


def context_without_values(text: str) -> str:
    """An error's CONTEXT: in which line of COPY, in which function; without what was there, and without statements."""
    return "\n".join(found[1] for found in _PLACES.finditer(text))
