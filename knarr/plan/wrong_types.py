"""What pydantic says about a plan, in the words of `problems`: what was found, what was expected, the nearest name."""

import re
import types
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from knarr.plan import models, texts, units
from knarr.plan.problems import SHOWN, Fault, YamlPath, describe, quoted
from knarr.plan.yaml_lines import Document

_BY_TYPE: Final = {
    "string_type": "text",
    "string_unicode": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "finite_number": "a finite number",
}
_BY_PATTERN: Final = {
    texts.ALIAS_PATTERN: "a connection's alias: lower case letters, digits and _, beginning with a letter",
    texts.PLAN_NAME_PATTERN: "a name of lower case letters, digits and -",
    texts.FUNCTION_PATTERN: "a Python function as module:function",
    units.DURATION_PATTERN: units.DURATION_EXPECTED,
    units.SIZE_PATTERN: units.SIZE_EXPECTED,
}
_NAMES_OF: Final = {
    "Plan": "the plan",
    "Mapping": "a mapping",
    "Column": "a column",
    "ForeignKey": "a foreign key",
    "Index": "an index",
    "Transform": "a transform",
    "CrossCheck": "a check",
    "DownstreamCheck": "a downstream check",
    "Endpoint": "http",
    "OtherQuery": "query",
    "RedisKey": "redis",
    "Verification": "verification",
    "Busy": "pause_while",
    "Phase": "a phase",
    "Guard": "a guard",
    "RollbackCriteria": "rollback",
    "Parallelism": "parallelism",
    "Limits": "limits",
}


def faults(errors: list[ErrorDetails], document: Document) -> tuple[list[Fault], int]:
    """The first of a validation's errors, in the file's order, and how many more there are.

    Each has a path that exists in the file, or whose parent does. Errors at a value that the reader refused already
    are left out.
    """
    # What is missing may be just what the reader refused: a merge key, or the source that names the target.
    refused_in = {path[:-1] for path in document.refused if path}
    found: list[tuple[tuple[int, int], YamlPath, ErrorDetails]] = []
    for details in errors:
        loc = tuple(part for part in details["loc"] if part != "[key]")
        refused = any(loc[:length] in document.refused for length in range(len(loc) + 1))
        if not refused and not (details["type"] == "missing" and loc[:-1] in refused_in):
            place = document.places[document.nearest(loc)]
            found.append(((place.line, place.column), loc, details))
    found.sort(key=lambda entry: entry[0])
    shown = [_fault(details, loc, document) for _, loc, details in found[:SHOWN]]
    return shown, max(0, len(found) - SHOWN)


def _fault(details: ErrorDetails, loc: YamlPath, document: Document) -> Fault:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        field = _field_at(loc)
        expected = f"`{loc[-1]}`: {field.description}" if field is not None else f"`{loc[-1]}`"
        return Fault(loc, "nothing", expected, absent=True)
    if kind == "extra_forbidden":
        return _unknown_key(loc)
    path = document.nearest(loc)
    if kind == "refused":
        return Fault(path, context["found"], context["expected"], context["hint"] or _quote_hint(path, value, document))
    if kind == "literal_error":
        allowed = tuple(re.findall(r"'([^']*)'", context["expected"]))
        return Fault(path, describe(value), context["expected"], name=str(value), candidates=allowed)
    hint = _quote_hint(path, value, document) if kind == "string_type" else ""
    if kind in ("int_type", "float_type", "bool_type") and re.fullmatch(r"[0-9]+(\.[0-9]+)?|true|false", str(value)):
        hint = "Write it without quotes."
    if kind == "string_pattern_mismatch" and context["pattern"] == texts.ALIAS_PATTERN and "://" in value:
        hint = "The address belongs into KNARR_CONNECTION_<ALIAS>, and its alias here."
    return Fault(path, describe(value), _expected(kind, context, details["msg"], loc), hint)


def _expected(kind: str, context: dict[str, Any], message: str, loc: YamlPath) -> str:
    match kind:
        case "string_pattern_mismatch":
            return _BY_PATTERN[context["pattern"]]
        case "string_too_short":
            field = _field_at(loc)
            return f"text: {field.description}" if field is not None else "text"
        case "too_short":
            return "at least one entry"
        case "greater_than_equal":
            return f"at least {context['ge']:g}"
        case "less_than_equal":
            return f"at most {context['le']:g}"
    return _BY_TYPE.get(kind, message)


def _quote_hint(path: YamlPath, value: object, document: Document) -> str:
    """YAML read a number or a constant where text was meant, as it stands in the file."""
    place = document.places.get(path)
    if isinstance(value, bool | int | float) and place is not None and place.raw is not None:
        return f"Write it in quotes: {quoted(place.raw)}."
    return ""


def _unknown_key(loc: YamlPath) -> Fault:
    model = _model_at(loc[:-1])
    name = str(loc[-1])
    if model is None:
        return Fault(loc, f"the unknown key {quoted(name)}", "no key here")
    known = tuple(field.alias or field_name for field_name, field in model.model_fields.items())
    expected = f"a key of {_NAMES_OF[model.__name__]}: {', '.join(known)}"
    return Fault(loc, f"the unknown key {quoted(name)}", expected, name=name, candidates=known)


def _model_at(loc: YamlPath) -> type[BaseModel] | None:
    kind = _type_at(loc)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _field_at(loc: YamlPath) -> FieldInfo | None:
    model = _model_at(loc[:-1])
    return _field(model, loc[-1]) if model is not None else None


def _field(model: type[BaseModel], key: str | int) -> FieldInfo | None:
    return next((f for name, f in model.model_fields.items() if key == (f.alias or name)), None)


def _type_at(loc: YamlPath) -> object:
    """What the models expect at a path: a model, list[...], dict[...] or a plain type; None where nothing is known."""
    kind: object = models.Plan
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = _field(kind, part)
            kind = _bare(field.annotation) if field is not None else None
        elif get_origin(kind) in (list, dict):
            kind = _bare(get_args(kind)[-1])
        else:
            return None
    return kind


def _bare(kind: object) -> object:
    """A type without Annotated and without None."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in (Union, types.UnionType):
            kind = next(option for option in get_args(kind) if option is not type(None))
        else:
            return kind
