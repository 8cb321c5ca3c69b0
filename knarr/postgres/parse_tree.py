"""How a server reads expressions: its own parse tree, in which every function, operator and cast has been found.

A server shows it to whoever asks (`debug_print_parse`), as a message of level LOG to the client. That needs no object,
no right and no execution, so a source that is only read can be asked; the same lines go into the server's log.
Nothing else tells as much: EXPLAIN leaves implicit casts out, writes `a.price` for a function as for a column, and puts
the bodies of functions in their place.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from asyncpg import PostgresLogMessage

from knarr.postgres.identifiers import enclosed
from knarr.postgres.session import Connection

# What a constant holds is bytes in brackets; in names every character that has a meaning here is behind a backslash.
_TOKENS: Final = re.compile(r"\{|\}|\[[^\]]*\]|(?:\\.|[^\s{}()\[\]\\])+", re.DOTALL)
_SHOW: Final = (
    "SET LOCAL debug_pretty_print = off; SET LOCAL client_min_messages = log; SET LOCAL debug_print_parse = on"
)
_HIDE: Final = "SET LOCAL debug_print_parse = off"
_SELECT: Final = "1"


@dataclass(frozen=True)
class Node:
    """A node by its name, with all that stands under each of its fields."""

    name: str
    fields: dict[str, list["Node | str"]] = field(default_factory=dict)

    def atom(self, key: str) -> str:
        """The field's first word; empty if it has none."""
        return next((found for found in self.fields.get(key, []) if isinstance(found, str)), "")

    def children(self, key: str) -> list["Node"]:
        """The nodes under a field."""
        return [found for found in self.fields.get(key, []) if isinstance(found, Node)]

    def walk(self) -> Iterator["Node"]:
        """The node and every one below it."""
        yield self
        for key in self.fields:
            for child in self.children(key):
                yield from child.walk()


def parse(dump: str) -> Node:
    """The tree that a server has written."""
    top = Node("")
    open_nodes: list[tuple[Node, str]] = [(top, "")]
    tokens = _TOKENS.finditer(dump)
    for token in tokens:
        text, (node, key) = token[0], open_nodes[-1]
        if text == "{":
            child = Node(next(tokens)[0])
            node.fields.setdefault(key, []).append(child)
            open_nodes.append((child, ""))
        elif text == "}":
            open_nodes.pop()
        elif text.startswith(":"):
            open_nodes[-1] = (node, text[1:])
        else:
            node.fields.setdefault(key, []).append(text)
    return top.children("")[0]


async def parse_tree(connection: Connection, expressions: Sequence[str], from_clause: str) -> Node | None:
    """The query whose entries are `expression IS NULL`, one for each; None if the server did not show it.

    Nothing is executed. IS NULL makes every entry a boolean, about which the driver has no questions of its own.

    Raises:
        asyncpg.PostgresError: the server refuses the expressions.
    """
    shown: list[str] = []

    def keep(_: object, message: PostgresLogMessage) -> None:
        shown.append(getattr(message, "detail", None) or "")

    tested = ", ".join(f"{enclosed(expression)} IS NULL" for expression in expressions)
    async with connection.transaction(readonly=True):
        await connection.execute(_SHOW)
        connection.add_log_listener(keep)
        try:
            await connection.prepare(f"SELECT {tested} FROM {from_clause}")
            await asyncio.sleep(0)  # listeners are called by the loop
        finally:
            connection.remove_log_listener(keep)
        await connection.execute(_HIDE)
    trees = [parse(dump) for dump in shown if dump.startswith("{QUERY ")]
    queries = [tree for tree in trees if tree.atom("commandType") == _SELECT]
    return queries[0] if len(queries) == 1 else None
