"""Whether a verdict that passed rests on every check that the plan asks for, each with statements behind it.

The list of checks is derived here from the stored plan and mappings, by no code of the verification: a worker that was
made to leave a check out, or to store a result without computing it, also has the code that draws up its own list.
"""

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from knarr.audit.facts import MappingFacts, ReportData, StoredCheck, VerdictFacts
from knarr.telemetry.scrub import scrub

Key = tuple[str, str, int, int]  # kind, name, mapping, partition

# What these say without a statement that was sent to a server was not computed. (A downstream check may ask elsewhere.)
IN_SQL = ("parity", "integrity", "rule", "cross")
DEFAULT_PHASE = "everyone"
SHOWN = 5


def not_computed(data: ReportData, verdict: VerdictFacts, stored: Sequence[StoredCheck]) -> list[str]:
    """What is missing behind a verdict that passed, a clause each; `stored` are the results of its round."""
    # The plan was scrubbed when it was read: a name that looks like a password is blanked there.
    there = {(check.kind, scrub(check.name), check.mapping, check.partition): check for check in stored}
    missing = [_name(key) for key in _expected(data, verdict.phase) if key not in there]
    empty = [
        _name(key)
        for key, check in there.items()
        if check.kind in IN_SQL and check.outcome == "passed" and not check.result.get("sql")
    ]
    doubts = []
    if missing:
        doubts.append(f"{len(missing)} checks that the plan asks for have no result: {_shown(missing)}")
    if empty:
        doubts.append(f"{len(empty)} results have no statement behind them, so nothing was computed: {_shown(empty)}")
    return doubts


def _expected(data: ReportData, phase: str) -> Iterator[Key]:
    phases = _names(data.plan.get("rollout"), "phase") or [DEFAULT_PHASE]
    so_far = phases[: phases.index(phase) + 1] if phase in phases else phases
    is_last = so_far == phases
    for mapping in data.mappings:
        if is_last or set(so_far) & set(mapping.phases):
            yield from _of_mapping(mapping)
    if is_last:
        yield from (("cross", name, -1, -1) for name in _names(data.plan.get("checks"), "name"))
        yield from (("downstream", name, -1, -1) for name in _names(data.plan.get("downstream"), "name"))


def _of_mapping(mapping: MappingFacts) -> Iterator[Key]:
    for partition in range(max(mapping.partitions_planned, 1)):
        yield "parity", scrub(mapping.name), mapping.number, partition
    yield "integrity", scrub(mapping.name), mapping.number, -1
    yield from (("rule", scrub(name), mapping.number, -1) for name in mapping.rules)


def _names(entries: JsonValue, key: str) -> list[str]:
    found = entries if isinstance(entries, list) else []
    return [str(entry[key]) for entry in found if isinstance(entry, dict) and key in entry]


def _name(key: Key) -> str:
    kind, name, _, partition = key
    return f"{kind} {name!r}" + (f", partition {partition}" if partition >= 0 else "")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
