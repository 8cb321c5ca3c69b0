"""Hand-made runs for the tests of the report: an order system that was moved, and the same with a difference."""

from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from knarr.audit.canonical import canonical_json, digest_of
from knarr.audit.chain import GENESIS, AuditEntry, AuditHead, check_chain, compute_digest
from knarr.audit.evidence import doubts_about
from knarr.audit.facts import (
    EnvironmentFacts,
    MappingFacts,
    ObjectFacts,
    ReportData,
    RunFacts,
    StoredCheck,
    TrailFacts,
    VerdictFacts,
)
from knarr.audit.sentence import conclude

START = datetime(2026, 11, 24, 21, 4, 5, 123456, tzinfo=UTC)
RUN = "shop-v2/2026-11-24T21:04:05Z"
TABLES = [
    ("shop.country", "public.nation", 25, 3_041, 0.02),
    ("shop.customer", "public.customer", 15_000, 2_914_031, 0.21),
    ("shop.supplier", "public.supplier", 1_000, 171_201, 0.04),
    ("shop.part", "public.part", 20_000, 2_621_110, 0.24),
    ("shop.stock", "public.partsupp", 80_000, 11_921_410, 0.8),
    ("shop.order", "public.orders", 150_000, 19_612_310, 1.9),
    ("shop.order_line", "public.lineitem", 600_572, 81_312_770, 6.2),
    ("shop.order_note", "public.orders", 5, 812, 0.02),
]

Item = tuple[str, str, dict[str, object], float]


def linked(run_id: str, items: list[Item]) -> list[AuditEntry]:
    """A whole chain of (key, kind, body, seconds since START)."""
    entries: list[AuditEntry] = []
    for position, (key, kind, body, after) in enumerate(items, start=1):
        entry = AuditEntry(
            run_id=run_id,
            position=position,
            key=key,
            at=START + timedelta(seconds=after),
            kind=kind,
            body=canonical_json(body),
            previous=entries[-1].digest if entries else GENESIS,
            digest="",
        )
        entries.append(entry.model_copy(update={"digest": compute_digest(entry)}))
    return entries


def results(differs: bool) -> list[StoredCheck]:
    """Parity by partition, integrity, rules and a cross check, as verification stores them."""
    made: list[dict[str, JsonValue]] = []
    for number, (name, source, rows, _, seconds) in enumerate(TABLES):
        parts = 4 if rows > 100_000 else 1
        for part in range(parts):
            unlike = differs and number == 5 and part == 2
            first, second = 818_441_993_012_774_411 * (number + 3) + part, part - 5_551_102_332_977_106_131
            made.append(
                {
                    "kind": "parity",
                    "name": name,
                    "mapping": number,
                    "partition": part,
                    "outcome": "failed" if unlike else "passed",
                    "message": "1 row differs" if unlike else "counts and checksums agree",
                    "source_rows": rows // parts,
                    "target_rows": rows // parts,
                    "source_checksum": f"{first}/{second}",
                    "target_checksum": f"{first}/{second + unlike}",
                    "findings_total": int(unlike),
                    "findings": [finding()] if unlike else [],
                    "seconds": seconds * 0.4 / parts,
                    "sql": [f"SELECT count(*), sum(hashtextextended(…)) FROM {source}"],
                }
            )
        unique = f"SELECT count(*) FROM {name} GROUP BY id HAVING count(*) > 1"
        made.append(_plain("integrity", name, number, seconds * 0.15, "keys unique and present", unique))
    rule = 'SELECT count(*) FROM shop."order" o WHERE NOT (o.total = (SELECT sum(l.price) FROM shop.order_line l …))'
    made.append(_plain("rule", "an order's total is the sum of its lines", 5, 0.92, "holds for 150,000 rows", rule))
    made.append(_plain("rule", "name is present", 1, 0.04, "holds for 15,000 rows", "SELECT … WHERE NOT (name <> '')"))
    cross = "SELECT n.n_name, extract(year FROM o_orderdate), sum(o_totalprice) FROM orders … GROUP BY 1, 2"
    made.append(_plain("cross", "revenue by country and year", -1, 1.31, "175 groups agree", cross))
    return [
        StoredCheck(
            phase="everyone",
            round=1,
            kind=str(result["kind"]),
            name=str(result["name"]),
            mapping=_number(result["mapping"]),
            partition=_number(result["partition"]),
            outcome=str(result["outcome"]),
            computed_at=START + timedelta(seconds=13 + index / 10),
            result=result,
        )
        for index, result in enumerate(made)
    ]


def _number(value: JsonValue) -> int:
    assert isinstance(value, int)
    return value


def _sums(documents: list[dict[str, JsonValue]], side: str) -> str | None:
    pairs = [str(document[side]).split("/") for document in documents if side in document]
    return "/".join(str(sum(int(part) for part in column)) for column in zip(*pairs, strict=True)) or None


def _plain(kind: str, name: str, mapping: int, seconds: float, message: str, sql: str = "") -> dict[str, JsonValue]:
    return {
        "kind": kind,
        "name": name,
        "mapping": mapping,
        "partition": -1,
        "outcome": "passed",
        "message": message,
        "seconds": seconds,
        "sql": [sql] if sql else [],
    }


def finding() -> dict[str, JsonValue]:
    """One changed cell."""
    return {
        "mapping": "shop.order",
        "kind": "changed",
        "key": {"id": "104231"},
        "column": "total",
        "expected": "173665.47",
        "found": "73665.47",
        "hint": "roll back, or repair this row",
    }


def verdict(checks: list[StoredCheck]) -> VerdictFacts:
    """What verification concludes from its results: partitions of one mapping are one check."""
    groups: dict[tuple[str, str, int], list[StoredCheck]] = {}
    for check in checks:
        groups.setdefault((check.kind, check.name, check.mapping), []).append(check)
    summaries: list[JsonValue] = []
    for (kind, name, mapping), group in groups.items():
        documents = [check.result for check in group]
        failed = [check for check in group if check.outcome != "passed"]
        worst = (failed or group)[0].result
        partitioned = group[0].partition >= 0
        summaries.append(
            {
                "kind": kind,
                "name": name,
                "mapping": mapping,
                "outcome": "failed" if failed else "passed",
                "message": worst["message"],
                "partitions": len(group) if partitioned else 0,
                "unlike_partitions": [check.partition for check in failed],
                "source_rows": sum(_number(document["source_rows"]) for document in documents) if partitioned else None,
                "target_rows": sum(_number(document["target_rows"]) for document in documents) if partitioned else None,
                "source_checksum": _sums(documents, "source_checksum"),
                "target_checksum": _sums(documents, "target_checksum"),
                "findings_total": len(failed),
                "findings": worst.get("findings", []),
                "seconds": sum(float(str(document["seconds"])) for document in documents),
                "sql": worst["sql"],
                "results_digest": digest_of(documents),
            }
        )
    passed = all(check.outcome == "passed" for check in checks)
    document: dict[str, JsonValue] = {
        "document": "knarr verdict",
        "run_id": RUN,
        "phase": "everyone",
        "round": 1,
        "passed": passed,
        "plan_hash": "5f" * 32,
        "checks": summaries,
    }
    return VerdictFacts(
        phase="everyone", round=1, passed=passed, withdrawn=False, digest=digest_of(document), document=document
    )


def story(judged: VerdictFacts, differs: bool) -> list[Item]:
    """What the audit trail of such a run says."""
    items: list[Item] = [
        ("start", "run started", {"plan": "shop-v2", "source": "legacy", "target": "shop"}, 0.0),
        ("claim", "step", {"step": "claim", "outcome": "done", "summary": "8 tables", "seconds": 0.06}, 0.1),
        ("survey", "step", {"step": "survey", "outcome": "done", "summary": "no problem found", "seconds": 1.1}, 1.3),
        ("prepare", "step", {"step": "prepare", "outcome": "done", "summary": "11 objects", "seconds": 0.3}, 1.7),
    ]
    at = 1.8
    for number, (name, _, rows, size, seconds) in enumerate(TABLES):
        parts = 4 if rows > 100_000 else 1
        for part in range(parts):
            at += seconds / parts
            body = {
                "mapping": name if number % 2 else number,
                "phase": "everyone",
                "partition": part,
                "rows": rows // parts,
                "bytes": size // parts,
            }
            items.append((f"copy/{number}/{part}", "copy", body | {"seconds": seconds / parts}, at))
    pause = {"actor": "mira@ops.example", "action": "pause", "reason": "backup window", "accepted": True}
    resume = {"actor": "mira@ops.example", "action": "resume", "reason": "", "accepted": True, "answer": "running"}
    approve = {"actor": "jan", "action": "approve", "accepted": False, "answer": "nothing waits for an approval"}
    index: dict[str, object] = {"step": "index and constrain", "outcome": "done", "seconds": 2.2}
    items += [
        ("order/1", "operator", pause | {"answer": "paused after the open partition"}, at + 0.1),
        ("order/2", "operator", resume, at + 0.9),
        ("order/3", "operator", approve, at + 1.0),
        ("index", "step", index, at + 3.3),
        (
            "verify",
            "step",
            {"step": "verify", "outcome": "failed" if differs else "done", "summary": "27 checks", "seconds": 4.6},
            at + 8.0,
        ),
        (
            "verdict",
            "verdict",
            {"phase": "everyone", "round": 1, "passed": judged.passed, "digest": judged.digest},
            at + 8.1,
        ),
    ]
    if differs:
        undo = {"step": "copy everyone", "outcome": "done", "summary": "866,602 rows removed", "seconds": 1.2}
        items.append(("undo/1", "compensation", undo, at + 9.5))
        undo = {"step": "prepare", "outcome": "done", "summary": "11 objects dropped", "seconds": 0.4}
        items.append(("undo/2", "compensation", undo, at + 10.0))
    state = "rolled back" if differs else "completed"
    items.append(("end", "run ended", {"state": state}, at + 10.4))
    return items


def report(*, differs: bool = False) -> ReportData:
    """A whole report, worked out as `gather` does it."""
    checks = results(differs)
    judged = verdict(checks)
    if differs:
        judged = judged.model_copy(update={"withdrawn": True})
    entries = linked(RUN, story(judged, differs))
    head = AuditHead(position=entries[-1].position, digest=entries[-1].digest)
    witnesses = [head, AuditHead(position=3, digest=entries[2].digest)]
    data = ReportData(
        generated_at=entries[-1].at + timedelta(seconds=2),
        outcome="not verified",
        headline="",
        explanation="",
        run=RunFacts(
            run_id=RUN,
            plan_name="shop-v2",
            plan_hash="5f" * 32,
            description="the order system, reshaped",
            state="rolled back" if differs else "completed",
            source="legacy",
            target="shop",
            started_at=START,
            ended_at=entries[-1].at,
        ),
        environment=EnvironmentFacts(
            source_version="18.6",
            target_version="18.6",
            source_identity="7512345678901234567 legacy",
            target_identity="7512345678907654321 shop",
            knarr_version="0.1.0",
            python_version="3.11.7",
            warnings=["shop.order: a trigger on the source is not copied"],
        ),
        mappings=[
            MappingFacts(
                number=number,
                name=name,
                source=source,
                mode="create",
                key=["id"],
                columns=8,
                transform="transforms.customer:phones" if name == "shop.customer" else None,
                rows=0 if differs else rows,
                bytes=0 if differs else size,
                seconds=0 if differs else seconds,
                partitions_copied=0 if differs else 4 if rows > 100_000 else 1,
                partitions_planned=4 if rows > 100_000 else 1,
            )
            for number, (name, source, rows, size, seconds) in enumerate(TABLES)
        ],
        checks=checks,
        verdicts=[judged],
        objects=[]
        if differs
        else [ObjectFacts(mapping=n, stage="table", kind="table", name=table[0]) for n, table in enumerate(TABLES)],
        plan={"name": "shop-v2", "source": "legacy", "target": "shop", "mappings": [{"target": t[0]} for t in TABLES]},
        trail=TrailFacts(entries=entries, head=head, witnesses=witnesses, faults=check_chain(entries, head, witnesses)),
    )
    return conclude(data.model_copy(update={"doubts": doubts_about(data)}))
