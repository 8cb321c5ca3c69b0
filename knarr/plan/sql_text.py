"""A lexer of PostgreSQL's strings, quotes and comments: can this text escape from the parentheses around it?

Expressions of a plan are inserted as written, in parentheses, into statements that COPY sends by the simple protocol.
So a `;`, a parenthesis too many or a comment without an end would change the statement around them. The rules are
those of PostgreSQL's scan.l with standard_conforming_strings on, which Knarr's sessions pin.
"""

import re
from typing import Final, NamedTuple

from knarr.plan.problems import Refusal, quoted

# Letters as scan.l has them: every character beyond ASCII may be part of a name, a no-break space too. Python's own
# \w and \s see that differently, and so would end a name early and read a quote behind it by the wrong rules.
_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \t\n\r\f\v]++)
    | (?P<line>--[^\n\r]*+)
    | (?P<block>/\*)
    | (?P<escaped>[eE]')
    | (?P<text>(?:[uU]&|[nNbBxX])?')
    | (?P<name>(?:[uU]&)?")
    | (?P<word>[A-Za-z_\u0080-\U0010ffff][A-Za-z_0-9$\u0080-\U0010ffff]*+)
    | (?P<number>[0-9]++(?:\.[0-9]*+)?)
    | (?P<parameter>\$[0-9]++)
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\U0010ffff][A-Za-z_0-9\u0080-\U0010ffff]*+)?\$)
    | (?P<open>[(\[])
    | (?P<close>[)\]])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED_REST: Final = re.compile(r"(?:[^'\\]|\\.|'')*+'", re.DOTALL)
_TEXT_REST: Final = re.compile(r"(?:[^']|'')*+'", re.DOTALL)
_NAME_REST: Final = re.compile(r'(?:[^"]|"")*+"', re.DOTALL)
_BLOCK_EDGE: Final = re.compile(r"/\*|\*/")
# 'a' <newline> 'b' is one literal, and the second part obeys the first's rules about backslashes.
_CONTINUED: Final = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r])*+'")
# Longer than any expression that people write, and read in 0.2 s.
LONGEST_SQL: Final = 100_000
_PAIRS: Final = {")": "(", "]": "["}

_COMMENT_HINT: Final = "Leave the comment out, or put it into the YAML file with #."


class Scan(NamedTuple):
    """What a text holds beside blanks and comments."""

    words: tuple[str, ...]
    """Keywords and names without quotes, upper case, that stand outside all parentheses, in order."""
    first: str
    """The first token, upper case; empty when there is none."""
    commas: bool
    """A comma stands outside all parentheses."""


def scan(text: str) -> Scan:
    """Read `text` as PostgreSQL's lexer would.

    Raises:
        Refusal: a `;`, a parameter, an unbalanced parenthesis, bracket or quote, a comment that hides what follows, or
            more than 100,000 characters.
    """
    if len(text) > LONGEST_SQL:
        raise Refusal(f"{len(text):,} characters of SQL", f"at most {LONGEST_SQL:,}")
    words: list[str] = []
    opened: list[str] = []
    first, commas, position = "", False, 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        assert token is not None  # the last alternative takes any character
        kind, value, position = token.lastgroup, token[0], token.end()
        if kind == "space":
            continue
        if kind == "line":
            if position == len(text):
                raise Refusal(
                    f"a comment at the end of {quoted(text)}",
                    "none there: it would hide what Knarr writes behind it",
                    _COMMENT_HINT,
                )
            continue
        if kind == "block":
            position = _after_block(text, position)
            continue
        first = first or value.upper()
        if kind == "word":
            if not opened:
                words.append(value.upper())
        elif kind in ("escaped", "text", "name", "dollar"):
            position = _after_quote(text, kind, value, position)
        elif kind == "parameter":
            raise Refusal(f"the parameter {value} in {quoted(text)}", "an expression without parameters")
        elif kind == "open":
            opened.append(value)
        elif kind == "close":
            if not opened or opened.pop() != _PAIRS[value]:
                raise Refusal(f"a '{value}' without its '{_PAIRS[value]}' in {quoted(text)}", "balanced parentheses")
        elif value == ";":
            raise Refusal(f"a ';' in {quoted(text)}", "one piece of SQL without it")
        elif value == "," and not opened:
            commas = True
    if opened:
        closing = ")" if opened[-1] == "(" else "]"
        raise Refusal(f"a '{opened[-1]}' without its '{closing}' in {quoted(text)}", "balanced parentheses")
    if not first:
        raise Refusal(f"nothing but a comment in {quoted(text)}" if text.strip() else "an empty text", "SQL")
    return Scan(tuple(words), first, commas)


def check_expression(text: str) -> None:
    """Hold a text against what may stand for one value.

    Raises:
        Refusal: `scan` refuses it, or it is a list of several expressions.
    """
    if scan(text).commas:
        raise Refusal(f"a ',' outside parentheses in {quoted(text)}", "one expression")


def check_predicate(text: str) -> None:
    """Hold a text against what may stand after WHERE or in a CHECK.

    Raises:
        Refusal: `check_expression` refuses it, or it begins with the keyword itself.
    """
    check_expression(text)
    word = scan(text).first
    if word in ("WHERE", "CHECK", "AND", "OR"):
        raise Refusal(f"the keyword {word} in {quoted(text)}", "the predicate alone", f"Leave {word} out.")


def check_query(text: str) -> None:
    """Hold a text against what may be one query that only reads.

    Raises:
        Refusal: `scan` refuses it, or it is not a query.
    """
    if scan(text).first not in ("SELECT", "WITH", "VALUES", "TABLE"):
        raise Refusal(quoted(text), "a query that begins with SELECT, WITH, VALUES or TABLE")


def check_joins(text: str) -> None:
    """Hold a text against what may follow a table in FROM.

    Raises:
        Refusal: `scan` refuses it, or it does not begin with a join.
    """
    found = scan(text)
    if found.first not in ("JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL"):
        raise Refusal(quoted(text), "JOIN clauses, such as LEFT JOIN public.nation n ON n.id = c.nation")
    for word in ("WHERE", "GROUP", "ORDER", "LIMIT", "UNION"):
        if word in found.words:
            hint = "Put the predicate under `where`." if word == "WHERE" else ""
            raise Refusal(f"the keyword {word} in {quoted(text)}", "JOIN clauses alone", hint)


def check_type(text: str) -> None:
    """Hold a text against what may be a type's name, such as numeric(12, 2).

    Raises:
        Refusal: `scan` refuses it, or a comma stands outside its parentheses.
    """
    if scan(text).commas:
        raise Refusal(quoted(text), "one type, such as numeric(12, 2)")


def _after_block(text: str, position: int) -> int:
    """Where a block comment ends; in PostgreSQL they nest."""
    depth = 1
    while depth:
        edge = _BLOCK_EDGE.search(text, position)
        if edge is None:
            raise Refusal(f"a '/*' without its '*/' in {quoted(text)}", "a comment that ends", _COMMENT_HINT)
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def _after_quote(text: str, kind: str, opening: str, position: int) -> int:
    """Where a literal, a quoted name or a dollar-quoted text ends."""
    if kind == "dollar":
        end = text.find(opening, position)
        if end < 0:
            raise Refusal(f"a {opening} without its end in {quoted(text)}", "balanced quotes")
        return end + len(opening)
    rest = {"escaped": _ESCAPED_REST, "text": _TEXT_REST, "name": _NAME_REST}[kind]
    while True:
        match = rest.match(text, position)
        if match is None:
            raise Refusal(f"a {opening[-1]} without its end in {quoted(text)}", "balanced quotes")
        position = match.end()
        more = _CONTINUED.match(text, position) if kind != "name" else None
        if more is None:
            return position
        position = more.end()
