"""Checks a JSON report of Knarr alone: any Python from 3.11, no package, no database, no network.

    python -m knarr.audit.offline report.json [--witness POSITION:DIGEST ...] [--key FILE]

Recomputes the report's own digest, the audit trail's chain, every verdict's digest and those of the results behind it,
and whether every check that the plan asks for has one; with the signing key also each verdict's signature.
Ends with 0 when all hold, with 1 when one does not. A witness is a head of the chain that you have from elsewhere
(Temporal's history, your notes), whole or its first 12 characters: only it shows that a whole trail was written anew.
"""

import argparse
import hashlib
import hmac
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PLACE, KEY = ("phase", "round", "kind", "name", "mapping"), ("kind", "name", "mapping", "partition")


def canonical(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, lone surrogates escaped: the one form that is hashed."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match.group()):04x}", text).encode()


def digest_of(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def placed(head: dict[str, Any]) -> str:
    return f"position {head['position']}, digest {head['digest']}"


def named(kind: str, name: str, mapping: int, partition: int) -> str:
    return f"{kind} {name!r}" + (f", partition {partition}" if partition >= 0 else "")


def check_document(raw: bytes, report: dict[str, Any]) -> list[str]:
    """The file must be canonical to the byte, and its digest that of all the rest of it."""
    whole = canonical(report) + b"\n" == raw
    faults = [] if whole else ["the file is not canonical JSON as Knarr writes it: bytes were changed"]
    computed = digest_of({key: value for key, value in report.items() if key != "digest"})
    if report.get("digest") != computed:
        faults.append(f"the report says digest {report.get('digest')}, its content gives {computed}")
    return faults


def check_chain(report: dict[str, Any], witnesses: list[tuple[int, str]]) -> list[str]:
    """Each entry must follow the one before it, say what its digest covers, and end where the head stands."""
    run, trail = report["run"]["run_id"], report["trail"]
    faults, previous, digests = [], "0" * 64, {0: "0" * 64}
    for expected, entry in enumerate(trail["entries"], start=1):
        if (entry["run_id"], entry["position"]) != (run, expected):
            faults.append(f"entry {expected}: found entry {entry['position']} of run {entry['run_id']!r}")
        if entry["previous"] != previous:
            faults.append(f"entry {expected}: follows {entry['previous']}, the entry before it is {previous}")
        at = (datetime.fromisoformat(entry["at"]) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        words = (entry["run_id"], str(entry["position"]), str(at), entry["kind"], entry["key"], entry["body"])
        computed = hashlib.sha256(bytes.fromhex(entry["previous"]) + "\x1f".join(words).encode()).hexdigest()
        if entry["digest"] != computed:
            faults.append(f"entry {expected}: says {entry['digest']}, its words give {computed}")
        previous = digests[expected] = entry["digest"]
    head, last = trail["head"], len(trail["entries"])
    if not last or head is None or (head["position"], head["digest"]) != (last, previous):
        stands = f"is at {placed(head)}" if head else "is missing"
        faults.append(f"the trail is empty, or its head is not its last entry: it {stands}, not at {last}, {previous}")
    for position, digest in [(kept["position"], kept["digest"]) for kept in trail["witnesses"]] + witnesses:
        if not (found := digests.get(position, "no such entry")).startswith(digest):
            faults.append(f"a witness saw {digest} at {position}; the trail has {found}")
    return faults


def check_verdicts(report: dict[str, Any]) -> list[str]:
    """Verdicts and chain must name each other, and a verdict's results must be those that it was computed from."""
    bodies = [json.loads(entry["body"]) for entry in report["trail"]["entries"] if entry["kind"] == "verdict"]
    chained, given = [body["digest"] for body in bodies], [verdict["digest"] for verdict in report["verdicts"]]
    faults = [f"verdict {digest}: not both in the trail and in the report" for digest in set(chained) ^ set(given)]
    for verdict in report["verdicts"]:
        name, document = f"verdict of {verdict['phase']}, round {verdict['round']}", verdict["document"]
        if digest_of(document) != verdict["digest"]:
            faults.append(f"{name}: its document does not give its digest {verdict['digest']}")
        if document.get("passed") is not verdict["passed"]:
            faults.append(f"{name}: its own row and its document do not agree on whether it passed")
        for check in document["checks"]:
            place = (verdict["phase"], verdict["round"], check["kind"], check["name"], check["mapping"])
            behind = [row for row in report["checks"] if place == tuple(row[key] for key in PLACE)]
            results = [row["result"] for row in sorted(behind, key=lambda row: int(row["partition"]))]
            if digest_of(results) != check["results_digest"]:
                faults.append(f"{name}: it was not computed from the results of {check['kind']} {check['name']!r}")
            if verdict["passed"] and check["outcome"] != "passed":
                faults.append(f"{name}: passed, although {check['kind']} {check['name']!r} {check['outcome']}")
    return faults


def check_coverage(report: dict[str, Any]) -> list[str]:
    """A verdict that passed needs a result for every check of the plan, and a statement behind each."""
    faults, plan = [], report["plan"]
    phases = [phase["phase"] for phase in plan.get("rollout", [])] or ["everyone"]
    for verdict in report["verdicts"]:
        if not verdict["passed"]:
            continue
        place, of = (verdict["phase"], verdict["round"]), f"verdict of {verdict['phase']}, round {verdict['round']}"
        stored = [row for row in report["checks"] if place == (row["phase"], row["round"])]
        there = {tuple(row[key] for key in KEY) for row in stored}
        so_far = phases[: phases.index(verdict["phase"]) + 1]
        expected: list[tuple[str, str, int, int]] = []
        for mapping in report["mappings"]:
            if so_far != phases and not set(so_far) & set(mapping["phases"]):
                continue
            name, number = mapping["name"], mapping["number"]
            expected += [("parity", name, number, part) for part in range(max(mapping["partitions_planned"], 1))]
            expected += [("integrity", name, number, -1)] + [("rule", rule, number, -1) for rule in mapping["rules"]]
        for kind, part in (("cross", "checks"), ("downstream", "downstream")) if so_far == phases else ():
            expected += [(kind, one["name"], -1, -1) for one in plan.get(part, []) if "***" not in one["name"]]
        faults += [f"{of}: passed without a result of {named(*key)}" for key in expected if key not in there]
        computed = [row for row in stored if row["kind"] != "downstream" and row["outcome"] == "passed"]
        empty = [tuple(row[key] for key in KEY) for row in computed if not row["result"].get("sql")]
        faults += [f"{of}: no statement behind {named(*key)}, so nothing was computed" for key in empty]
    return faults


def check_signatures(report: dict[str, Any], key: bytes) -> list[str]:
    """Every verdict in the trail must be signed with the key."""
    faults, words = [], ("phase", "round", "passed", "digest")
    for entry in report["trail"]["entries"]:
        if entry["kind"] == "verdict":
            body = json.loads(entry["body"])
            statement = canonical({"run_id": entry["run_id"]} | {word: body[word] for word in words})
            if not hmac.compare_digest(hmac.new(key, statement, "sha256").hexdigest(), body.get("signature", "")):
                faults.append(f"entry {entry['position']}: the verdict is not signed with this key")
    return faults


def check(raw: bytes, witnesses: list[tuple[int, str]], key: bytes | None = None) -> list[str]:
    """Everything that is wrong with a report; whatever can't be read is a fault, never a reason to pass."""
    try:
        report = json.loads(raw)
        faults = [*check_document(raw, report), *check_chain(report, witnesses), *check_verdicts(report)]
        faults += check_coverage(report)
        return faults + (check_signatures(report, key) if key is not None else [])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        return [f"not a whole Knarr report: {why}"]


def witness(text: str) -> tuple[int, str]:
    if not (match := re.fullmatch("([0-9]+):([0-9a-f]{12,64})", text)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected POSITION:DIGEST with 12 to 64 hexadecimal digits")
    return int(match[1]), match[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--witness", type=witness, action="append", default=[], metavar="POSITION:DIGEST")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the workers' KNARR_SIGNING_KEY_FILE")
    arguments = parser.parse_args()
    try:
        raw, key = arguments.report.read_bytes(), arguments.key.read_bytes().rstrip(b"\r\n") if arguments.key else None
    except OSError as error:
        parser.error(f"{error.filename} can't be read: {error.strerror}")
    faults = check(raw, arguments.witness, key)
    lines = [f"✗ {fault}" for fault in faults]
    if not faults:
        report = json.loads(raw)
        signed = sum(entry["kind"] == "verdict" for entry in report["trail"]["entries"])
        lines = [f"✓ {report['headline']}", "✓ chain, verdicts and report are whole"]
        lines += [f"  head of the trail: {placed(report['trail']['head'])}"]
        lines += [] if arguments.witness else ["  no witness given: hold it against the head in Temporal's history"]
        lines += [f"✓ verdicts signed with this key: {signed:,}" if key else "  no key given: no signature was checked"]
    # A report may come from a forger: what would act on the terminal is spelled out.
    lines = ["".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in line) for line in lines]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
