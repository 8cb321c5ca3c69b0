"""A plan as far as it can be read, so that rules are held against its sound parts while others are still broken."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from knarr.plan.criteria import Guard, RollbackCriteria
from knarr.plan.downstream import DownstreamCheck
from knarr.plan.models import FROM_YAML, CrossCheck, Limits, Mapping, Phase, Plan
from knarr.plan.problems import YamlPath
from knarr.plan.texts import Alias, Table
from knarr.plan.yaml_lines import YamlValue

_Part = TypeVar("_Part", bound=BaseModel)

# Stands for a source or a target that can't be read, so that the rest of its mapping can be judged.
_ILLEGIBLE: Final = '"?"."?"'
_ILLEGIBLE_SCHEMA: Final = '"?".*'


@dataclass(frozen=True, slots=True)
class Draft:
    """The parts of a plan that are sound, each by its position in the file."""

    source: str | None = None
    target: str | None = None
    types: dict[str, list[str]] = field(default_factory=dict)
    mappings: dict[int, Mapping] = field(default_factory=dict)
    checks: dict[int, CrossCheck] = field(default_factory=dict)
    downstream: dict[int, DownstreamCheck] = field(default_factory=dict)
    phases: dict[int, Phase] = field(default_factory=dict)
    guards: dict[int, Guard] = field(default_factory=dict)
    rollback: RollbackCriteria | None = None
    limits: Limits | None = None
    complete: bool = True
    """The target of every mapping and the rows of every phase are known."""
    patched: frozenset[int] = frozenset()
    """Mappings from which something broken was taken out; what they lack may well be in the file."""
    removed: dict[int, dict[str, set[int]]] = field(default_factory=dict)
    """By mapping and list: the broken entries that were taken out, as they are numbered in the file."""

    def in_file(self, path: YamlPath) -> YamlPath:
        """A path into the draft as it is in the file, where broken entries of a list still count."""
        match path:
            case ("mappings", int(number), str(part), int(entry), *below):
                for gone in sorted(self.removed.get(number, {}).get(part, ())):
                    entry += gone <= entry
                return ("mappings", number, part, entry, *below)
        return path

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """A draft of a plan that is sound in all its parts."""
        return cls(
            source=plan.source,
            target=plan.target,
            types=plan.types,
            mappings=dict(enumerate(plan.mappings)),
            checks=dict(enumerate(plan.checks)),
            downstream=dict(enumerate(plan.downstream)),
            phases=dict(enumerate(plan.rollout)),
            guards=dict(enumerate(plan.guards)),
            rollback=plan.rollback,
            limits=plan.limits,
        )


def salvage(data: YamlValue, broken: Iterable[YamlPath]) -> Draft:
    """What is sound in the data of a plan that is not; `broken` are the paths at which it is not."""
    if not isinstance(data, dict):
        return Draft(complete=False)
    wrong: dict[YamlPath, list[YamlPath]] = {}
    for loc in broken:
        wrong.setdefault(loc[:2], []).append(loc[2:])
    entries, rollout = _list(data.get("mappings")), _list(data.get("rollout"))
    mappings: dict[int, Mapping] = {}
    removed: dict[int, dict[str, set[int]]] = {}
    for number, entry in enumerate(entries):
        if ("mappings", number) in wrong:
            mapping, removed[number] = _mended(entry, wrong["mappings", number])
        else:
            mapping = _part(entry, Mapping)
        if mapping is not None:
            mappings[number] = mapping
    phases = {
        number: phase
        for number, entry in enumerate(rollout)
        if (phase := _phase(entry, wrong.get(("rollout", number), []))) is not None
    }
    named = all("?" not in mapping.target for mapping in mappings.values())
    return Draft(
        source=_alias(data.get("source")),
        target=_alias(data.get("target")),
        types=_types(data.get("types")),
        mappings=mappings,
        checks={n: part for n, entry in enumerate(_list(data.get("checks"))) if (part := _part(entry, CrossCheck))},
        downstream={
            n: seen for n, entry in enumerate(_list(data.get("downstream"))) if (seen := _part(entry, DownstreamCheck))
        },
        phases=phases,
        guards={n: guard for n, entry in enumerate(_list(data.get("guards"))) if (guard := _part(entry, Guard))},
        rollback=_part(data.get("rollback", {}), RollbackCriteria),
        limits=_part(data.get("limits", {}), Limits),
        complete=named and 0 < len(entries) == len(mappings) and len(rollout) == len(phases),
        patched=frozenset(removed),
        removed=removed,
    )


def _mended(data: YamlValue, broken: list[YamlPath]) -> tuple[Mapping | None, dict[str, set[int]]]:
    """A mapping without its broken parts, if that is still one, and which entries of its lists were left out.

    A broken column becomes `=`, so that its name is still known.
    """
    removed: dict[str, set[int]] = {}
    if not isinstance(data, dict):
        return None, removed
    mended = dict(data)
    for loc in broken:
        if not loc:
            continue
        field_name, below = str(loc[0]), loc[1:]
        value = data.get(field_name)
        if field_name in ("key", "columns") and below and isinstance(value, dict):
            mended[field_name] = {**_dict(mended.get(field_name)), str(below[0]): "="}
        elif below and isinstance(value, list) and isinstance(below[0], int):
            removed.setdefault(field_name, set()).add(below[0])
        else:
            mended.pop(field_name, None)
    for field_name, numbers in removed.items():
        mended[field_name] = [entry for n, entry in enumerate(_list(data[field_name])) if n not in numbers]
    for part, other in (("source", "target"), ("target", "source")):
        if part not in mended:
            whole_schema = str(mended.get(other, data.get(part, ""))).rstrip().endswith("*")
            mended[part] = _ILLEGIBLE_SCHEMA if whole_schema else _ILLEGIBLE
    return _part(mended, Mapping), removed


def _phase(data: YamlValue, broken: list[YamlPath]) -> Phase | None:
    """A phase whose name and rows are sound, whatever is wrong with the rest."""
    if not isinstance(data, dict):
        return None
    gone = {loc[0] for loc in broken if loc} - {"phase", "where"}
    return _part({key: value for key, value in data.items() if key not in gone}, Phase)


def _part(data: YamlValue, model: type[_Part]) -> _Part | None:
    try:
        return model.model_validate(data, context=FROM_YAML, by_alias=True, by_name=False)
    except ValidationError:
        return None


def _dict(data: YamlValue) -> dict[str, YamlValue]:
    return data if isinstance(data, dict) else {}


def _list(data: YamlValue) -> list[YamlValue]:
    return data if isinstance(data, list) else []


def _alias(data: YamlValue) -> str | None:
    try:
        return TypeAdapter(Alias).validate_python(data)
    except ValidationError:
        return None


def _types(data: YamlValue) -> dict[str, list[str]]:
    sound: dict[str, list[str]] = {}
    for name, labels in data.items() if isinstance(data, dict) else []:
        try:
            sound |= TypeAdapter(dict[Table, list[str]]).validate_python({name: labels}, strict=True)
        except ValidationError:
            continue
    return sound
