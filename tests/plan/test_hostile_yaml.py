"""Text that wants to hurt the reader: refused soon, in little memory, and never by another error than ours."""

import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from knarr.plan import PlanProblems, load_plan, parse_plan

ANYWHERE: Final = Path("plan.yaml")
# Seconds of CPU. Row 44 of the fault matrix asks for 1 s; a slower machine gets three times as much.
PATIENCE: Final = 3.0

ALIASES: Final = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MAPPING: Final = "name: x\nsource: a\ntarget: b\nmappings:\n- source: a.b\n  target: c.d\n"
BOMBS: Final = {
    "aliases of aliases": ALIASES,
    "brackets": "[" * 40_000,
    "braces": "{a: " * 40_000,
    "dashes": "- " * 40_000,
    "question marks": "? " * 40_000,
    "very many values": "[" + "a," * 499_000 + "]",
    "many values of the wrong type": MAPPING + "  indexes: [" + "1," * 39_000 + "]",
    "many unknown keys": "\n".join(f"k{n}: 1" for n in range(39_000)),
    "many labels": "types: {a.b: [" + "a," * 39_000 + "]}\n" + MAPPING,
    "many unknown columns": MAPPING + "  key: {id: x}\n  columns: {}\n  primary_key: [" + "a," * 39_000 + "]",
    "a huge scalar": "name: " + "x" * 990_000,
    "a huge key": "? " + "x" * 990_000 + "\n: 1",
    "many parentheses": MAPPING + "  where: '" + "(" * 900_000 + "'",
    "many comments": MAPPING + "  where: '" + "/*" * 49_000 + "'",
    "many strings": MAPPING + "  where: |\n" + "    'a'\n" * 12_000 + "    '\n",
    "many blanks in a name": MAPPING.replace("a.b", "a.b" + " " * 900_000 + "!"),
    "many columns of a foreign key": MAPPING + "  foreign_keys: ['" + "a," * 400_000 + " -> a.b']",
    "many words in a criterion": MAPPING + "rollback: {on: ['deadline " + "a " * 400_000 + "']}",
    "many quotes": "a: '" + "x 'y " * 150_000,
    "many tabs": "\t" * 990_000,
    "many tags and wrong values": MAPPING + "  indexes: [" + "!a b," * 900 + "1," * 38_000 + "]",
    "many anchors": "- &a b\n" * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_soon(name: str) -> None:
    started = time.process_time()

    with pytest.raises(PlanProblems):
        parse_plan(BOMBS[name], ANYWHERE)

    assert time.process_time() - started < PATIENCE


MEASURE: Final = """
import resource, sys
from pathlib import Path
from knarr.plan import PlanProblems, load_plan
try:
    load_plan(Path(sys.argv[1]))
except PlanProblems as problems:
    print(problems.total)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize(
    "name", ["aliases of aliases", "many unknown keys", "many values of the wrong type", "brackets"]
)
def test_a_bomb_is_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(BOMBS[name], encoding="utf-8")

    # A process of its own, since a peak never goes down again; and a ceiling, should it be no peak but a summit.
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(bomb)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    ).stdout.split()

    assert int(told[0]) > 0
    assert int(told[1]) < 200 * 1024


def test_a_file_of_more_than_a_megabyte_is_not_read(tmp_path: Path) -> None:
    plan = tmp_path / "large.yaml"
    with plan.open("wb") as file:
        file.truncate(10**12)

    with pytest.raises(PlanProblems, match="found more than 1,000,000 bytes"):
        load_plan(plan)


indicators: Final = st.text(st.sampled_from("ab:,-?[]{}&*!|>'\"%@`#=~01 \n\t"), max_size=80)


@given(st.text(max_size=200) | indicators)
@example("%YAML 9.9\n---\na")
@example("!<tag:yaml.org,2002:float> x")
@example("a: \ud800")
@example("\ufeff\ufeffa: 1")
@example("a: 1e999\n? \n: 1e-999")
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_plan_or_has_problems(text: str) -> None:
    with pytest.raises(PlanProblems) as raised:
        parse_plan(text, ANYWHERE)

    assert raised.value.total >= 1
    assert str(raised.value).startswith("plan.yaml")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_plan_or_have_problems(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    plan = tmp_path_factory.getbasetemp() / "bytes.yaml"
    plan.write_bytes(content)

    with pytest.raises(PlanProblems):
        load_plan(plan)


GOOD: Final = (Path(__file__).parent / "good" / "long-forms.yaml").read_text(encoding="utf-8")
TOKENS: Final = sorted(
    {*GOOD.split(), "[", "]", "{", "}", "null", "true", "1", "-1", "1e9", "''", "*a", "&a", "!t", ":"}
)


@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.sampled_from(TOKENS) | st.text(max_size=5))
@settings(max_examples=400, deadline=None)
def test_a_plan_with_something_else_in_it_is_a_plan_or_has_problems(start: int, length: int, other: str) -> None:
    with suppress(PlanProblems):
        parse_plan(GOOD[:start] + other + GOOD[start + length :], ANYWHERE)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["=", "a.b", "public.*", "x", "6h", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "from", "columns"]), inner),
    max_leaves=5,
)
KEYS: Final = [
    "target", "source", "joins", "where", "key", "columns", "mode", "primary_key", "unique", "indexes", "foreign_keys",
    "constraints", "rules", "transform", "scope", "except", "types", "checks", "rollout", "rollback", "limits",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), values), st.dictionaries(st.sampled_from(KEYS), values))
@settings(max_examples=150, deadline=None)
def test_any_values_under_known_keys_are_a_plan_or_have_problems(
    plan: dict[str, object], mapping: dict[str, object]
) -> None:
    sound = {"name": "x", "source": "a", "target": "b"}
    for one in ({"source": "public.*"} | mapping, {"source": "a.b", "target": "c.d", "key": {"id": "="}} | mapping):
        with suppress(PlanProblems):
            parse_plan(json.dumps(sound | plan | {"mappings": [one, one]}), ANYWHERE)
