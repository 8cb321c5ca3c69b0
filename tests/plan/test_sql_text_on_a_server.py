"""The lexer agrees with PostgreSQL's own on where a text ends."""

import random
from typing import Final

import asyncpg

from knarr.plan import Refusal
from knarr.plan.sql_text import check_expression

TOKENS: Final = [
    "1", "a", "'", "''", '"', '"a"', "'x'", "E'", "e'\\'", "\\", "\\'", "U&'", 'U&"', "N'", "B'1'", "$$", "$a$", "$a",
    "$", "$1", "--", "-", "/*", "*/", "/", "*", "(", ")", "[", "]", ",", ";", " ", "\n", "\r", "\t", "\f", "\v", "||",
    "::text", "\u00a0", "\u2028", "ä", "1e", "0x1", "_", "E", "AND", ".", "+", "@", "#", "%", "ARRAY[1]", "f(", "b$",
]  # fmt: skip
# The server's lexer gave up: had Knarr's agreed, it would have refused the text.
UNTERMINATED: Final = ("unterminated", "cannot insert multiple commands", "at end of input")
# Refused although PostgreSQL would take them: what is no single expression, or hides what is written behind it.
STRICTER: Final = ("a ','", "a comment at the end", "the parameter", "nothing but", "an empty text", "a ';'")

SPECIMENS: Final = 3_000
SEED: Final = 20_261_124


async def columns_of(connection: asyncpg.Connection, text: str) -> list[str] | str:
    """The columns of a query with `text` in parentheses as the server understands it, or why it does not."""
    try:
        # Line ends around it: what is asked is whether the text itself ends, not whether a comment does.
        statement = await connection.prepare(f"SELECT (\n{text}\n)::text AS first, 42 AS last")
    except asyncpg.PostgresError as error:
        return str(error)
    return [attribute.name for attribute in statement.get_attributes()]


async def test_no_accepted_text_ends_elsewhere_for_the_server(source_dsn: str) -> None:
    chance = random.Random(SEED)
    connection = await asyncpg.connect(source_dsn)
    accepted = understood = 0
    try:
        await connection.execute("SET standard_conforming_strings = on")
        for _ in range(SPECIMENS):
            text = "".join(chance.choice(TOKENS) for _ in range(chance.randint(1, 8)))
            try:
                check_expression(text)
                refused = ""
            except Refusal as refusal:
                refused = refusal.found
            answer = await columns_of(connection, text)
            if not refused:
                accepted += 1
                assert isinstance(answer, list) or not any(reason in answer for reason in UNTERMINATED), (text, answer)
            if isinstance(answer, list):
                understood += 1
                assert not refused or refused.startswith(STRICTER), (text, refused)
                assert refused or answer == ["first", "last"], (text, answer)
    finally:
        await connection.close()

    # Neither side may be idle, else the comparison says nothing.
    assert accepted > SPECIMENS // 10
    assert understood > SPECIMENS // 100
