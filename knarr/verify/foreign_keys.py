"""Orphans: rows whose foreign key points to nothing, found by asking the rows themselves."""

from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import qualified, quote
from knarr.verify.collected import Collected
from knarr.verify.integrity_sql import FOREIGN_KEYS


async def check_foreign_keys(table: Collected) -> None:
    """Every foreign key that the catalogue knows of the table, recomputed with an anti-join."""
    for row in await table.target.fetch(FOREIGN_KEYS, table.table):
        columns: list[str] = row["columns"]
        parent = TableName(schema_name=row["schema_name"], name=row["table_name"])
        own = [f"c.f{place}" for place in range(len(columns))]
        nulls = f"num_nulls({', '.join(own)})"
        equal = " AND ".join(f"p.{quote(there)} = {here}" for here, there in zip(own, row["referenced"], strict=True))
        broken = f"{nulls} = 0 AND NOT EXISTS (SELECT FROM {qualified(parent)} AS p WHERE {equal})"
        if row["match_full"]:
            broken = f"({broken}) OR {nulls} BETWEEN 1 AND {len(columns) - 1}"
        fields = ", ".join(f"{quote(column)} AS f{place}" for place, column in enumerate(columns))
        pointing = ", ".join(f"{field}::text" for field in own)
        # The count of all orphans comes beside the first of them.
        orphans = await table.ask(
            f"SELECT c.k, ARRAY[{pointing}]::text[] AS pointing, count(*) OVER () AS total\n"
            f"  FROM (SELECT {table.key} AS k, {fields}\n"
            f"          FROM {table.table}\n         WHERE {table.scope}) AS c\n"
            f" WHERE {broken}\n LIMIT {table.shown}"
        )
        total: int = orphans[0]["total"] if orphans else 0
        table.compared.append(f"foreign key {row['name']} to {parent}: {total} orphans")
        table.count("orphan", total)
        for orphan in orphans:
            pointed = ", ".join(f"{name}={text}" for name, text in zip(columns, orphan["pointing"], strict=True))
            table.show(
                "orphan",
                orphan["k"],
                column=", ".join(columns),
                expected=f"a row of {parent}",
                found=f"none for {pointed}",
                hint=f"foreign key {row['name']}: move the row it points to, or correct this one",
            )
