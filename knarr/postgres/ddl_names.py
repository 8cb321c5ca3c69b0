"""How PostgreSQL names the objects that nobody named: `order_pkey`, `order_placed_on_idx`, cut to 63 bytes."""

from collections.abc import Sequence
from typing import Final

from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import LONGEST

_WHOLE_SCHEMA: Final = ""


def object_name(table: str, columns: Sequence[str], label: str) -> str:
    """`table_columns_label`, both halves cut as makeObjectName() in the server's indexcmds.c cuts them."""
    middle = "_".join(columns)
    first, second = table.encode(), middle.encode()
    room = LONGEST - len(label.encode()) - 1 - (1 if second else 0)
    first_length, second_length = len(first), len(second)
    while first_length + second_length > room:
        if first_length > second_length:
            first_length -= 1
        else:
            second_length -= 1
    parts = [first[:first_length].decode("utf-8", "ignore"), second[:second_length].decode("utf-8", "ignore"), label]
    return "_".join(part for part in parts if part)


class Names:
    """The names that the plan's objects take: relations share one space a schema, constraints one a table."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str, str]] = set()

    def relation(self, schema_name: str, wanted: str) -> str:
        """`wanted` if it is free among the schema's relations, else with the lowest number that is."""
        return self._take(schema_name, _WHOLE_SCHEMA, wanted)

    def constraint(self, table: TableName, wanted: str) -> str:
        """The same among the table's constraints."""
        return self._take(table.schema_name, table.name, wanted)

    def index_constraint(self, table: TableName, wanted: str) -> str:
        """A constraint that an index of the same name stands behind: free among both."""
        candidate, number = wanted, 0
        while not (self._free(table.schema_name, _WHOLE_SCHEMA, candidate) and self._free(*_of(table), candidate)):
            number += 1
            candidate = _numbered(wanted, number)
        self._taken |= {(table.schema_name, _WHOLE_SCHEMA, candidate), (*_of(table), candidate)}
        return candidate

    def _take(self, schema_name: str, table: str, wanted: str) -> str:
        candidate, number = wanted, 0
        while not self._free(schema_name, table, candidate):
            number += 1
            candidate = _numbered(wanted, number)
        self._taken.add((schema_name, table, candidate))
        return candidate

    def _free(self, schema_name: str, table: str, name: str) -> bool:
        return (schema_name, table, name) not in self._taken


def renamed(name: str, old_table: str, new_table: str) -> str:
    """A constraint's, index's or sequence's name after its table was renamed, where it begins with the table's."""
    if old_table == new_table or not name.startswith(f"{old_table}_"):
        return name
    return object_name(new_table, [], name[len(old_table) + 1 :])


def _of(table: TableName) -> tuple[str, str]:
    return table.schema_name, table.name


def _numbered(name: str, number: int) -> str:
    """The server appends 1, 2, 3 to the label, which comes last."""
    cut = name.encode()[: LONGEST - len(str(number))].decode("utf-8", "ignore")
    return f"{cut}{number}"
