"""Integrity of one target table: keys, foreign keys, constraints, sequences; recomputed, not read off the catalogue.

A constraint that the catalogue calls valid can still be broken: by a trigger that was switched off while rows came in
(session_replication_role), an index built under another collation, damage. So each is asked of the rows themselves.
"""

import time
from collections.abc import Sequence
from typing import Final

from knarr.plan.resolved import STAGES, ResolvedMapping, Stage
from knarr.postgres.identifiers import quote
from knarr.postgres.session import Connection
from knarr.verify import integrity_sql
from knarr.verify.attempt import attempted
from knarr.verify.collected import Collected
from knarr.verify.foreign_keys import check_foreign_keys
from knarr.verify.models import CheckKey, CheckResult, FindingKind
from knarr.verify.sequences import check_sequences
from knarr.verify.snapshot import snapshot

# Until all rows have been moved a foreign key could point to one that comes later.
BEFORE_LAST_PHASE: Final[tuple[Stage, ...]] = tuple(stage for stage in STAGES if stage != "foreign keys")


async def check_integrity(
    target: Connection,
    mapping: ResolvedMapping,
    *,
    source: Connection | None = None,
    shown: int = 100,
    stages: Sequence[Stage] = STAGES,
    sequences: bool = True,
) -> CheckResult:
    """One result for everything that must hold within the target table and between it and those it points to.

    Args:
        target: pinned session, not in a transaction.
        mapping: the resolved mapping.
        source: if given, the positions of its sequences are noted beside the target's. They decide nothing, because
            a source that is still in use goes on counting.
        shown: how many findings the result holds at most; all are counted.
        stages: the mapping's objects of these stages must be there.
        sequences: False while the sequences have not been set.

    Raises:
        TransientError: a server or the network was in the way.
    """
    key = CheckKey(kind="integrity", name=mapping.name, mapping=mapping.number)

    async def check() -> CheckResult:
        started = time.monotonic()
        table = Collected(target, mapping, shown)
        async with snapshot(target) as seen:
            await _check_objects(table, stages)
            rows = await _check_rows(table)
            await _check_doubled_keys(table)
            await check_foreign_keys(table)
            await _check_catalogue(table)
            if sequences:
                await check_sequences(table, source)
        total = sum(table.counts.values())
        return CheckResult(
            **key.model_dump(),
            outcome="failed" if total else "passed",
            message=_message(mapping, rows, table.counts),
            target_rows=rows,
            counts=table.counts,
            findings_total=total,
            findings=table.findings[:shown],
            seconds=time.monotonic() - started,
            sql=table.statements,
            compared=table.compared,
            target_snapshot=seen,
        )

    return await attempted(key, check)


async def _check_objects(table: Collected, stages: Sequence[Stage]) -> None:
    due = [item for item in table.mapping.objects if item.stage in stages]
    for item in due:
        if await table.target.fetchrow(item.probe) is None:
            table.find("object", expected=f"{item.kind} {item.name}", found="not there", hint=item.create)
    table.compared.append(f"{len(due)} objects of the plan, which must be there")


async def _check_rows(table: Collected) -> int:
    """One pass for NULLs in the key and in columns that forbid them, and for CHECK constraints."""
    nulls = " OR ".join(f"{quote(column.name)} IS NULL" for column in table.mapping.key)
    wanted: list[tuple[FindingKind, str, str]] = []
    if nulls and not table.mapping.occupied:  # a row of somebody else's may have one
        wanted.append(("null key", f"({table.scope}) AND ({nulls})", "no NULL in the key"))
    for row in await table.target.fetch(integrity_sql.NOT_NULL, table.table):
        wanted.append(("constraint", f"{quote(row['name'])} IS NULL", f"{row['name']} NOT NULL"))
    for row in await table.target.fetch(integrity_sql.CONSTRAINTS, table.table):
        if row["predicate"]:
            wanted.append(("constraint", f"({row['predicate']}) IS FALSE", f"{row['name']}: {row['predicate']}"))
    counting = "".join(f",\n       count(*) FILTER (WHERE {broken})" for _, broken, _ in wanted)
    [counted] = await table.ask(f"SELECT count(*) AS total{counting}\n  FROM {table.table}")
    for (kind, broken, expected), count in zip(wanted, list(counted.values())[1:], strict=True):
        table.compared.append(f"{expected}: broken by {count:,} of {counted['total']:,} rows")
        table.count(kind, count)
        if count:
            naming = f"SELECT {table.key} AS k\n  FROM {table.table}\n WHERE {broken}\n LIMIT {table.shown}"
            for row in await table.ask(naming):
                table.show(kind, row["k"], expected=expected, found="broken", hint="correct the row, or remove it")
    total: int = counted["total"]
    return total


async def _check_doubled_keys(table: Collected) -> None:
    key = table.mapping.key
    if not key:
        return
    grouped = ", ".join(
        f'{value.hashed} COLLATE "C"' if column.collatable or column.category != "builtin" else value.hashed
        for column, value in zip(table.identity, table.values, strict=True)
    )
    known = f"num_nulls({', '.join(quote(column.name) for column in key)}) = 0"
    # The count of all surplus rows comes beside the first keys.
    doubled = await table.ask(
        f"SELECT k, n, sum(n - 1) OVER ()::bigint AS surplus\n"
        f"  FROM (SELECT min({table.key}) AS k, count(*) AS n\n          FROM {table.table}\n"
        f"         WHERE ({table.scope}) AND {known}\n         GROUP BY {grouped}\n"
        f"        HAVING count(*) > 1) AS doubled\n LIMIT {table.shown}"
    )
    surplus: int = doubled[0]["surplus"] if doubled else 0
    table.compared.append(f"key ({', '.join(column.name for column in key)}): {surplus:,} rows too many")
    table.count("doubled", surplus)
    for row in doubled:
        table.show(
            "doubled",
            row["k"],
            expected="one row with this key",
            found=f"{row['n']:,} rows",
            hint="remove the surplus rows; a primary key would have refused them",
        )


async def _check_catalogue(table: Collected) -> None:
    for row in await table.target.fetch(integrity_sql.CONSTRAINTS, table.table):
        if not (row["valid"] and row["enforced"]):
            table.find(
                "constraint",
                expected=f"constraint {row['name']} enforced and validated",
                found="not validated" if row["enforced"] else "not enforced",
                hint=f"ALTER TABLE {table.table} VALIDATE CONSTRAINT {quote(row['name'])}",
            )
    for row in await table.target.fetch(integrity_sql.INDEXES, table.table):
        if not row["usable"]:
            schema = quote(table.mapping.target.schema_name)
            hint = f"REINDEX INDEX {schema}.{quote(row['name'])}"
            table.find("constraint", expected=f"index {row['name']} valid", found="not valid", hint=hint)
    table.compared.append("constraints, which must be enforced and validated; indexes, which must be valid")


def _message(mapping: ResolvedMapping, rows: int, counts: dict[str, int]) -> str:
    if not counts:
        return f"{rows:,} rows: keys, foreign keys, constraints and sequences hold"
    return f"{mapping.name}: " + ", ".join(f"{count} × {kind}" for kind, count in sorted(counts.items()))
