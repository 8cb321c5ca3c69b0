"""Checks a JSON report of Knarr alone: any Python from 3.11, no package, no database, no network.

    python -m knarr.audit.offline report.json [--witness POSITION:DIGEST ...]     (or: python offline.py report.json)

Recomputes the report's own digest, the audit trail's chain, every verdict's digest and those of the results behind it.
Ends with 0 when all hold and with 1 when one does not. A witness is a head of the chain that you have from elsewhere
(Temporal's history, your notes), whole or its first 12 characters: only it shows that a whole trail was written anew.
"""

import argparse
import hashlib
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PLACE = ("phase", "round", "kind", "name", "mapping")


def canonical(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, lone surrogates escaped: the one form that is hashed."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match.group()):04x}", text).encode()


def digest_of(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


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
        faults.append(f"the trail is empty, or its head {head} is not its last entry ({last}:{previous})")
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
            faults.append(f"{name}: says passed={verdict['passed']}, its document says {document.get('passed')}")
        for check in document["checks"]:
            place = (verdict["phase"], verdict["round"], check["kind"], check["name"], check["mapping"])
            behind = [row for row in report["checks"] if place == tuple(row[key] for key in PLACE)]
            results = [row["result"] for row in sorted(behind, key=lambda row: int(row["partition"]))]
            if digest_of(results) != check["results_digest"]:
                faults.append(f"{name}: it was not computed from the results of {check['kind']} {check['name']!r}")
            if verdict["passed"] and check["outcome"] != "passed":
                faults.append(f"{name}: passed, although {check['kind']} {check['name']!r} {check['outcome']}")
    return faults


def check(raw: bytes, witnesses: list[tuple[int, str]]) -> list[str]:
    """Everything that is wrong with a report; whatever can't be read is a fault, never a reason to pass."""
    try:
        report = json.loads(raw)
        return [*check_document(raw, report), *check_chain(report, witnesses), *check_verdicts(report)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        return [f"not a whole Knarr report ({type(error).__name__}: {error})"]


def witness(text: str) -> tuple[int, str]:
    if not (match := re.fullmatch("([0-9]+):([0-9a-f]{12,64})", text)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected POSITION:DIGEST with 12 to 64 hexadecimal digits")
    return int(match[1]), match[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--witness", type=witness, action="append", default=[], metavar="POSITION:DIGEST")
    arguments = parser.parse_args()
    raw = arguments.report.read_bytes()
    faults = check(raw, arguments.witness)
    lines = [f"✗ {fault}" for fault in faults]
    if not faults:
        report = json.loads(raw)
        lines = [f"✓ {report['headline']}", f"✓ chain, verdicts and report are whole; head {report['trail']['head']}"]
        lines += [] if arguments.witness else ["  no witness given: hold it against the head in Temporal's history"]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
