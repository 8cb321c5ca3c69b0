"""Business rules: a predicate that every target row must meet. False fails, and so does NULL: unknown is not met."""

import time

from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.identifiers import enclosed, qualified
from knarr.postgres.session import Connection
from knarr.verify.attempt import attempted
from knarr.verify.canonical import actual_value
from knarr.verify.expected import target_scope
from knarr.verify.models import CheckKey, CheckResult, Finding, shorten
from knarr.verify.snapshot import snapshot


async def check_rules(target: Connection, mapping: ResolvedMapping, shown: int = 100) -> list[CheckResult]:
    """One result for each rule of a mapping; a rule that can't be computed does not keep the others from it.

    Args:
        target: pinned session, not in a transaction.
        mapping: its `rules` are predicates over the target's row.
        shown: how many failing keys a result holds at most; all are counted.

    Raises:
        TransientError: the server or the network was in the way.
    """
    results = []
    for name, predicate in mapping.rules.items():
        key = CheckKey(kind="rule", name=name, mapping=mapping.number)

        async def check(key: CheckKey = key, predicate: str = predicate) -> CheckResult:
            return await _check(target, mapping, key, predicate, shown)

        results.append(await attempted(key, check))
    return results


async def _check(
    target: Connection, mapping: ResolvedMapping, key: CheckKey, predicate: str, shown: int
) -> CheckResult:
    started = time.monotonic()
    scope = target_scope(mapping)
    counting = (
        f"SELECT count(*) AS total, count(*) FILTER (WHERE {enclosed(predicate)} IS NOT TRUE) AS failing\n"
        f"  FROM {qualified(mapping.target)}" + "".join(f"\n WHERE {condition}" for condition in scope)
    )
    identity = mapping.key or mapping.columns
    texts = ", ".join(actual_value(column).shown for column in identity)
    conditions = "\n   AND ".join([*scope, f"{enclosed(predicate)} IS NOT TRUE"])
    naming = (
        f"SELECT ARRAY[{texts}]::text[] AS k, {enclosed(predicate)} IS NULL AS unknown\n"
        f"  FROM {qualified(mapping.target)}\n WHERE {conditions}\n LIMIT {shown}"
    )
    async with snapshot(target) as seen:
        row = await target.fetchrow(counting)
        if row is None:
            raise RuntimeError("counting returned no row")
        failing = await target.fetch(naming) if row["failing"] else []
    findings = [
        Finding(
            mapping=mapping.name,
            kind="rule",
            key={column.name: shorten(text) for column, text in zip(identity, record["k"], strict=True)},
            expected=shorten(predicate),
            found="NULL" if record["unknown"] else "false",
            hint=f"rule '{key.name}': correct the row at the source, the mapping's expressions, or the rule",
        )
        for record in failing
    ]
    verdict = "all meet it" if not row["failing"] else f"{row['failing']} do not meet it"
    return CheckResult(
        **key.model_dump(),
        outcome="failed" if row["failing"] else "passed",
        message=f"{mapping.name}: of {row['total']:,} rows {verdict}: {predicate}",
        target_rows=row["total"],
        counts={"rule": row["failing"]} if row["failing"] else {},
        findings_total=row["failing"],
        findings=findings,
        seconds=time.monotonic() - started,
        sql=[counting, naming] if row["failing"] else [counting],
        compared=[f"{predicate}, which must be true of every row"]
        + [f"only target rows in the mapping's scope: {condition}" for condition in scope],
        target_snapshot=seen,
    )
