"""Sequences: the next value must lie beyond every value that is in use."""

from decimal import Decimal

from asyncpg import Record

from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.session import Connection
from knarr.verify.collected import Collected
from knarr.verify.integrity_sql import SEQUENCES


async def check_sequences(table: Collected, source: Connection | None) -> None:
    """Every sequence behind a column of the table, and every column that should have one.

    The position of the source's sequence is noted, and decides nothing: a source in use goes on counting.
    """
    found = await table.target.fetch(SEQUENCES, table.table)
    known = {item.column: item for item in table.mapping.sequences}
    for column in sorted(known.keys() - {row["column_name"] for row in found}):
        table.find(
            "sequence",
            column=column,
            expected="an identity, or a default that takes from a sequence",
            found="none",
            hint="rows that are inserted later would get no value here",
        )
    for row in found:
        await _check(table, row)
        item = known.get(row["column_name"])
        if source is not None and item is not None and item.source_sequence:
            position = await source.fetchrow(f"SELECT last_value FROM {item.source_sequence}")
            if position is not None:
                table.compared.append(f"sequence {item.source_sequence} of the source: at {position['last_value']}")


async def _check(table: Collected, row: Record) -> None:
    sequence = qualified(TableName(schema_name=row["schema_name"], name=row["sequence_name"]))
    column, name = quote(row["column_name"]), row["column_name"]
    if not row["countable"]:
        table.compared.append(f"sequence {sequence} behind {name}: the column holds no numbers, so nothing to compare")
        return
    [position] = await table.ask(f"SELECT last_value, is_called FROM {sequence}")
    ascending = row["seqincrement"] > 0
    following: int = position["last_value"] + (row["seqincrement"] if position["is_called"] else 0)
    furthest = "max" if ascending else "min"
    # Values outside the sequence's range can't meet it.
    [used] = await table.ask(
        f"SELECT {furthest}({column})::numeric AS furthest\n  FROM {table.table}\n"
        f" WHERE {column} BETWEEN {row['seqmin']} AND {row['seqmax']}"
    )
    last: Decimal | None = used["furthest"]
    table.compared.append(f"sequence {sequence} goes on at {following}; {furthest}({name}) is {last}")
    if last is not None and (following <= last if ascending else following >= last):
        table.find(
            "sequence",
            column=name,
            expected=f"next value beyond {last}",
            found=f"next value {following}",
            hint=f"SELECT setval('{sequence}', {last})",
        )
