"""The JSON Schema for editors agrees with the loader on what a plan may look like."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from knarr.plan import plan_json_schema, yaml_lines

GOOD: Final = Path(__file__).parent / "good"
BROKEN: Final = Path(__file__).parent / "broken"
EXAMPLES: Final = Path(__file__).parents[2] / "examples"


def errors(data: object) -> list[str]:
    return [error.json_path for error in Draft202012Validator(plan_json_schema()).iter_errors(data)]


def data_of(path: Path) -> Any:
    return yaml_lines.read(path.read_text(encoding="utf-8")).data


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(plan_json_schema())


@pytest.mark.parametrize("path", [*GOOD.glob("*.yaml"), *EXAMPLES.glob("*/*.yaml")], ids=lambda path: path.name)
def test_a_good_plan_is_valid(path: Path) -> None:
    assert errors(data_of(path)) == []


@pytest.mark.parametrize(
    "name",
    [
        "unknown-key",
        "unknown-key-far",
        "unknown-key-in-column",
        "missing-target",
        "missing-source-of-mapping",
        "empty-mappings",
        "mappings-as-mapping",
        "bad-plan-name",
        "number-as-expression",
        "nothing-as-expression",
        "wrong-mode",
        "text-for-number",
        "bad-transform",
        "unique-without-list",
        "empty-rollout",
    ],
)
def test_a_plan_of_the_wrong_form_is_not(name: str) -> None:
    assert errors(data_of(BROKEN / f"{name}.yaml"))


def test_a_mapping_needs_a_target_unless_it_takes_a_whole_schema() -> None:
    plan = {"name": "x", "source": "a", "target": "b"}

    assert errors(plan | {"mappings": [{"source": "public.*"}]}) == []
    assert errors(plan | {"mappings": [{"source": "public.orders"}]}) == ["$.mappings[0]"]


def test_every_key_has_a_description() -> None:
    schema = plan_json_schema()

    for name, model in {"Plan": schema, **schema["$defs"]}.items():
        full = next((form for form in model.get("anyOf", []) if "properties" in form and "title" in form), model)
        for key, field in full["properties"].items():
            assert field.get("description"), f"{name}.{key}"
            assert field.get("title"), f"{name}.{key}"


def test_a_tool_for_editors_and_ci_takes_it(tmp_path: Path) -> None:
    schema = tmp_path / "plan.schema.json"
    schema.write_text(json.dumps(plan_json_schema()), encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema)]

    good = subprocess.run([*command, str(GOOD / "shop.yaml")], capture_output=True, text=True, check=False)
    bad = subprocess.run([*command, str(BROKEN / "unknown-key.yaml")], capture_output=True, text=True, check=False)

    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1
    assert "'colums' was unexpected" in bad.stdout
