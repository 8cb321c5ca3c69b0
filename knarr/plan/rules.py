"""What must hold in a plan beyond the types of its parts, as far as that can be known without a database."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

from knarr.plan import mapping_rules, units
from knarr.plan.draft import Draft
from knarr.plan.mapping_rules import count, reserved, reserved_schema, unknown_column
from knarr.plan.models import Mapping
from knarr.plan.names import LONGEST_NAME, parse_table
from knarr.plan.problems import Fault, YamlPath, quoted, written
from knarr.plan.resolved import TableName

# Two statements of this length are the longest attempt that is well (workflows/policies.py, LONGEST_ATTEMPT).
LONGEST_STATEMENT: Final = "6h"


def check(draft: Draft) -> list[Fault]:
    """All that is wrong with the sound parts of a plan, each apart and with one another."""
    each = (
        mapping_rules.check(number, mapping, whole=number not in draft.patched)
        for number, mapping in draft.mappings.items()
    )
    faults = chain(
        chain.from_iterable(each),
        _same_rows(draft),
        _own_source(draft),
        _relation_names(draft),
        _references(draft),
        _types(draft),
        _checks(draft),
        _phase_names(draft),
        _phase_rows(draft),
        _guards(draft),
        _criteria(draft),
        _ceilings(draft),
    )
    return [replace(fault, path=draft.in_file(fault.path)) for fault in faults]


def _name(number: int) -> str:
    return written(("mappings", number))


def _same_rows(draft: Draft) -> Iterator[Fault]:
    """Two mappings may share a table only if each says which of its rows are its own."""
    first: dict[str, int] = {}
    for number, mapping in draft.mappings.items():
        target = str(mapping.target_table) if mapping.target_table else f"{mapping.target_schema}.*"
        if target not in first:
            first[target] = number
            continue
        other = draft.mappings[first[target]]
        if {number, first[target]} & draft.patched:
            continue
        path: YamlPath = ("mappings", number, "target")
        found = f"{quoted(mapping.target)}, which {_name(first[target])} writes too"
        if mapping.whole_schema:
            yield Fault(path, found, "each schema once")
        elif mapping.scope is None or other.scope is None:
            yield Fault(path, found, "one mapping for a table, or a scope on each of them")
        elif " ".join(mapping.scope.split()) == " ".join(other.scope.split()):
            yield Fault(path, f"{found} with the same scope", "scopes that share no row")


def _own_source(draft: Draft) -> Iterator[Fault]:
    """On one connection, nothing may be written that is also read: the source is only read."""
    if draft.source is None or draft.source != draft.target:
        return
    tables = {str(m.target_table): n for n, m in draft.mappings.items() if m.target_table is not None}
    schemas: dict[str, int] = {}
    whole: dict[str, int] = {}
    for number, mapping in draft.mappings.items():
        schemas.setdefault(mapping.target_schema, number)
        if mapping.target_table is None:
            whole.setdefault(mapping.target_schema, number)
    for number, mapping in draft.mappings.items():
        if number in draft.patched:
            continue
        source = mapping.source_name
        writer = whole.get(source.schema_name)
        if writer is None:
            writer = schemas.get(source.schema_name) if source.whole_schema else tables.get(str(source.table_name))
        if writer is not None:
            found = f"{quoted(mapping.source)}, which {_name(writer)} writes to on the same connection"
            hint = f"source and target are both {quoted(draft.source)}."
            yield Fault(("mappings", number, "source"), found, "a table that is only read", hint)


def _relation_names(draft: Draft) -> Iterator[Fault]:
    """Tables and indexes share one name space in a schema."""
    taken: dict[tuple[str, str], str] = {}
    for number, mapping in draft.mappings.items():
        if mapping.target_table is not None:
            taken[mapping.target_schema, mapping.target_table.name] = f"the table of {_name(number)}"
    for number, mapping in draft.mappings.items():
        for i, index in enumerate(mapping.indexes):
            if index.name is None:
                continue
            place = mapping.target_schema, index.name
            if place in taken:
                found = f"{quoted(index.name)}, the name of {taken[place]} too"
                yield Fault(("mappings", number, "indexes", i, "name"), found, f"a name that is free in {place[0]}")
            else:
                taken[place] = f"an index of {_name(number)}"


def _references(draft: Draft) -> Iterator[Fault]:
    """A foreign key into the plan must meet columns that are unique there."""
    by_table = {str(m.target_table): n for n, m in draft.mappings.items() if m.target_table is not None}
    for number, mapping in draft.mappings.items():
        for i, key in enumerate(mapping.foreign_keys):
            reference = key.reference
            other = by_table.get(str(reference.table))
            if other is None or other in draft.patched:
                continue
            path: YamlPath = ("mappings", number, "foreign_keys", i, "references")
            yield from _reference(path, key.columns, reference.columns, draft.mappings[other])


def _reference(path: YamlPath, columns: list[str], referenced: list[str], other: Mapping) -> Iterator[Fault]:
    known = other.all_columns()
    if known is None:
        return
    unknown = [name for name in referenced if name not in known]
    for name in unknown:
        yield unknown_column(path, name, other)
    primary = other.primary_key if other.primary_key is not None else list(other.key)
    if not referenced and len(primary) != len(columns):
        shown = f"({', '.join(primary)})" if primary else "none"
        found = f"{count(columns)} against the primary key of {other.target}: {shown}"
        yield Fault(path, found, "as many columns on both sides", "Name the columns: schema.table(column, ...).")
    unique = [primary, *other.unique, *(x.columns for x in other.indexes if x.unique and x.where is None)]
    if referenced and not unknown and set(referenced) not in map(set, unique):
        found = f"({', '.join(referenced)}), which nothing keeps unique in {other.target}"
        yield Fault(path, found, "its primary key or columns under its `unique`")


def _types(draft: Draft) -> Iterator[Fault]:
    tables = {str(m.target_table): n for n, m in draft.mappings.items() if m.target_table is not None}
    seen: set[TableName] = set()
    for text, labels in draft.types.items():
        path: YamlPath = ("types", text)
        name = parse_table(text)
        if reserved(name.schema_name):
            yield reserved_schema(path, name.schema_name)
        if name in seen:
            yield Fault(path, f"{quoted(text)} again in another spelling", "each type once")
        seen.add(name)
        if (table := tables.get(str(name))) is not None:
            found = f"{quoted(text)}, the target table of {_name(table)} too"
            yield Fault(path, found, "another name: a table is a type in PostgreSQL")
        if not labels:
            yield Fault(path, "no labels", "at least one label for the enum")
        known: set[str] = set()
        for i, label in enumerate(labels):
            if label in known:
                yield Fault((*path, i), f"the label {quoted(label)} again", "each label once")
            known.add(label)
            if (length := len(label.encode())) > LONGEST_NAME:
                expected = f"at most {LONGEST_NAME}: PostgreSQL refuses longer ones"
                yield Fault((*path, i), f"a label of {length} bytes", expected)


def _checks(draft: Draft) -> Iterator[Fault]:
    for part, entries in (("checks", draft.checks), ("downstream", draft.downstream)):
        seen: dict[str, int] = {}
        for number, entry in entries.items():
            if entry.name in seen:
                found = f"{quoted(entry.name)}, the name of {written((part, seen[entry.name]))} too"
                yield Fault((part, number, "name"), found, "a name of its own for each check")
            seen.setdefault(entry.name, number)


def _phase_names(draft: Draft) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for number, phase in draft.phases.items():
        if phase.phase in seen:
            found = f"{quoted(phase.phase)}, the name of {written(('rollout', seen[phase.phase]))} too"
            yield Fault(("rollout", number, "phase"), found, "a name of its own for each phase")
        seen.setdefault(phase.phase, number)


def _phase_rows(draft: Draft) -> Iterator[Fault]:
    """Every row belongs to exactly one phase: predicates name mappings, and the last phase takes what remains."""
    if not draft.complete:
        return
    targets: dict[TableName, list[int]] = {}
    for number, mapping in draft.mappings.items():
        if mapping.target_table is not None:
            targets.setdefault(mapping.target_table, []).append(number)
    whole = {m.target_schema for m in draft.mappings.values() if m.whole_schema}
    last = max(draft.phases, default=-1)
    for number, phase in draft.phases.items():
        path: YamlPath = ("rollout", number, "where")
        if number == last and phase.where:
            yield Fault(path, "a where in the last phase", "none: the last phase takes all rows that remain")
        if number != last and not phase.where:
            expected = "mapping: predicate, since only the last phase takes all rows that remain"
            yield Fault(path, "nothing", expected, absent=True)
        for text in phase.where:
            name = parse_table(text)
            if name not in targets and name.schema_name not in whole:
                known = tuple(str(target) for target in targets)
                shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
                expected = f"the target of a mapping: {shown}"
                yield Fault((*path, text), f"the unknown mapping {quoted(text)}", expected, name=text, candidates=known)
            elif len(targets.get(name, [])) > 1:
                found = f"{quoted(text)}, the target of {' and '.join(map(_name, targets[name]))}"
                yield Fault((*path, text), found, "a target that only one mapping has")


def _guards(draft: Draft) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for number, guard in draft.guards.items():
        if guard.name in seen:
            found = f"{quoted(guard.name)}, the name of {written(('guards', seen[guard.name]))} too"
            yield Fault(("guards", number, "name"), found, "a name of its own for each guard")
        seen.setdefault(guard.name, number)
        if units.seconds(guard.every) < 1:
            yield Fault(("guards", number, "every"), quoted(guard.every), "at least 1s: a guard is no load test")


def _criteria(draft: Draft) -> Iterator[Fault]:
    entries = draft.rollback.on if draft.rollback is not None else []
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        kind = entry.split()[0]
        if kind in seen:
            yield Fault(("rollback", "on", i), f"{kind} again", "each criterion once")
        seen.add(kind)


def _ceilings(draft: Draft) -> Iterator[Fault]:
    """PostgreSQL takes a timeout of 0 for none at all, and a partition of no bytes would never end.

    A statement that outlasts its attempt would be cut in the middle and begun again, for ever.
    """
    if draft.limits is None:
        return
    for field in ("lock_timeout", "statement_timeout"):
        text = getattr(draft.limits, field)
        if units.seconds(text) == 0:
            yield Fault(("limits", field), quoted(text), "more than nothing: PostgreSQL takes 0 for no limit")
    if units.seconds(draft.limits.statement_timeout) > units.seconds(LONGEST_STATEMENT):
        hint = "Temporal ends an attempt after two of these; smaller partitions (limits.partition_size) need less time."
        found = quoted(draft.limits.statement_timeout)
        yield Fault(("limits", "statement_timeout"), found, f"at most {LONGEST_STATEMENT}", hint)
    if units.size_bytes(draft.limits.partition_size) == 0:
        yield Fault(("limits", "partition_size"), quoted(draft.limits.partition_size), "more than nothing")
