"""The JSON Schema of a plan, for editors: completion, descriptions, and the short forms that YAML allows."""

import re
from typing import Any, Final

from knarr.plan.models import Plan
from knarr.plan.texts import FUNCTION_PATTERN

JsonSchema = dict[str, Any]

_TEXT: Final[JsonSchema] = {"type": "string", "minLength": 1}
_SHORT_FORMS: Final[dict[str, list[JsonSchema]]] = {
    "Column": [_TEXT | {"description": "a SQL expression over the source row, or = for the column of the same name"}],
    "ForeignKey": [
        {"type": "string", "pattern": "->", "description": "column, ... -> schema.table(column, ...)"},
    ],
    "Index": [
        _TEXT | {"description": "a column, or an expression in parentheses"},
        {"type": "array", "items": _TEXT, "minItems": 1, "description": "columns or parenthesised expressions"},
    ],
    "Transform": [{"type": "string", "pattern": FUNCTION_PATTERN, "description": "module:function"}],
}
# Lists that may be written as their only entry.
_ONE_FOR_A_LIST: Final = (("ForeignKey", "columns"), ("Index", "columns"), ("RollbackCriteria", "on"))


def plan_json_schema() -> JsonSchema:
    """JSON Schema (draft 2020-12) of a plan's YAML.

    It accepts every plan that `load_plan` accepts; what needs more than the file's form (names that must match, SQL
    that must be balanced) it leaves to `load_plan`.
    """
    schema = Plan.model_json_schema(by_alias=True, mode="validation")
    definitions: dict[str, JsonSchema] = schema["$defs"]
    del definitions["JsonValue"]  # any JSON at all, which is what a schema that says nothing takes
    definitions["Endpoint"]["properties"]["equals"].pop("$ref")
    for name, definition in (("Plan", schema), *definitions.items()):
        definition["title"] = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
        for key, described in definition["properties"].items():
            described["title"] = key.replace("_", " ").capitalize()
    for model, field in _ONE_FOR_A_LIST:
        properties = definitions[model]["properties"]
        full = properties[field]
        kept = {key: full.pop(key) for key in ("description", "title", "default") if key in full}
        properties[field] = {**kept, "anyOf": [{"type": "string"}, full]}
    for model, short in _SHORT_FORMS.items():
        full = definitions[model]
        definitions[model] = {
            "title": full["title"],
            "description": full["description"],
            "anyOf": [*short, full],
        }
    mapping = definitions["Mapping"]
    mapping["required"] = ["source"]
    mapping["anyOf"] = [
        {"required": ["target"]},
        {"properties": {"source": {"pattern": r"\.\s*\*\s*$"}}},
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A plan for Knarr"}
