"""Whether a verdict that passed rests on every check that the plan asks for, each with statements behind it.

The list of checks is derived here from the stored plan and mappings, by no code of the verification: a worker that was
made to leave a check out, or to store a result without computing it, also has the code that draws up its own list.
"""

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from knarr.audit.facts import MappingFacts, ReportData, StoredCheck, VerdictFacts
from knarr.telemetry.scrub import scrub
from knarr.wording import counted

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
        verb = "has" if len(missing) == 1 else "have"
        what = f"{counted(len(missing), 'check')} that the plan asks for {verb} no result"
        doubts.append(f"{what}: {_shown(missing)}")
    if empty:
        what = f"{counted(len(empty), 'result')} without a statement behind, so that nothing was computed"
        doubts.append(f"it rests on {what}: {_shown(empty)}")
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


def named(kind: str, name: str, partition: int) -> str:
    """A check as people call it: parity 'shop.order', partition 3."""
    return f"{kind} {name!r}" + (f", partition {partition}" if partition >= 0 else "")


def _name(key: Key) -> str:
    kind, name, _, partition = key
    return named(kind, name, partition)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
