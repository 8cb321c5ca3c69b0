"""Plans without problems: what they become, and that their digest means what it should."""

import json
from pathlib import Path
from typing import Final

import pytest

from knarr.plan import LoadedPlan, Plan, canonical_json, load_plan, parse_plan

GOOD: Final = Path(__file__).parent / "good"
EXAMPLES: Final = Path(__file__).parents[2] / "examples"
ANYWHERE: Final = Path("plan.yaml")

HEAD: Final = (
    "name: shop\nsource: legacy\ntarget: shop\nmappings:\n  - target: shop.order\n    source: public.orders o\n"
)


def load(name: str) -> LoadedPlan:
    return load_plan(GOOD / f"{name}.yaml")


def digest(text: str) -> str:
    return parse_plan(text, ANYWHERE).digest


@pytest.mark.parametrize("path", [*GOOD.glob("*.yaml"), *EXAMPLES.glob("*/*.yaml")], ids=lambda path: path.name)
def test_a_good_plan_survives_storage_in_a_database_that_sorts_keys(path: Path) -> None:
    loaded = load_plan(path)

    stored = Plan.model_validate_json(loaded.canonical)

    assert stored == loaded.plan
    assert [list(mapping.all_columns() or {}) for mapping in stored.mappings] == [
        list(mapping.all_columns() or {}) for mapping in loaded.plan.mappings
    ]
    assert canonical_json(stored) == loaded.canonical
    assert len(loaded.digest) == 64


def test_the_plan_of_the_design_reads_as_it_is_written() -> None:
    plan = load("shop").plan

    customer, order = plan.mappings
    assert (plan.name, plan.source, plan.target) == ("shop-v2", "legacy", "shop")
    assert customer.joins == "LEFT JOIN public.nation n ON n.n_nationkey = c.c_nationkey"
    assert customer.source_name.alias == "c"
    assert {name: column.expression for name, column in (customer.all_columns() or {}).items()} == {
        "id": "c.c_custkey",
        "name": "trim(c.c_name)",
        "country": "n.n_name",
        "balance": "c.c_acctbal",
    }
    assert order.transform is not None
    assert order.transform.function == "transforms.orders:clean"
    assert order.all_columns() is None
    assert [phase.phase for phase in plan.rollout] == ["canary", "everyone"]
    assert plan.rollout[0].where == {"shop.customer": "c.c_custkey % 100 = 0"}
    assert plan.rollback.deadline == 6 * 3600
    assert plan.rollback.kinds == {"verification", "guard", "deadline"}


def test_a_whole_schema_keeps_its_name_unless_the_plan_gives_another() -> None:
    first, second = load("whole-schema").plan.mappings

    assert (first.target, first.whole_schema, first.target_table, first.except_) == ("public.*", True, None, ["log"])
    assert (second.source_name.schema_name, second.target_schema) == ("audit", "history")


def test_short_forms_are_the_long_ones() -> None:
    (order,) = load("short-forms").plan.mappings

    long = parse_plan(
        "name: short\nsource: legacy\ntarget: shop\nrollback: {on: [deadline 6h]}\n"
        "mappings:\n"
        "  - target: shop.order\n"
        "    source: public.orders\n"
        "    key: {id: =}\n"
        "    columns: {customer: {from: orders.customer}, total: {from: =}}\n"
        "    indexes: [{columns: [customer]}, {columns: [customer, total]}, {columns: [(lower(total::text))]}]\n"
        "    foreign_keys:\n"
        "      - {columns: [customer], references: shop.customer}\n"
        "      - {columns: [customer, id], references: 'shop.account(customer, id)'}\n"
        "    transform: {function: 'transforms.orders:clean'}\n",
        ANYWHERE,
    )
    assert long.plan.mappings == [order]
    assert long.digest == load("short-forms").digest


def test_text_that_other_readers_of_yaml_turn_into_something_else_stays_text() -> None:
    loaded = parse_plan(
        HEAD + "    key: {id: o.id}\n    columns:\n"
        "      no: o.no\n      on: o.on\n      null: {null: false, from: o.n}\n      y: 1:30\n      z: 017\n"
        "      w: 2026-11-24\n      v: NULL\n      u: TRUE\n"
        "      t: 1_000\n      s: 0x1F\n      r: 12345678901234567890\n",
        ANYWHERE,
    )

    columns = loaded.plan.mappings[0].columns or {}
    assert list(columns) == ["no", "on", "null", "y", "z", "w", "v", "u", "t", "s", "r"]
    assert [columns[name].expression for name in "yzwvutsr"] == [
        "1:30", "017", "2026-11-24", "NULL", "TRUE", "1_000", "0x1F", "12345678901234567890",
    ]  # fmt: skip


def test_the_digest_does_not_depend_on_comments_layout_or_the_order_of_keys() -> None:
    text = HEAD + "    key: {id: o.id}\n    columns: {a: o.a}\n    rules: {x: a > 0, y: a < 9}\n"
    other = (
        "# the same\nmappings:\n- columns:\n    a: 'o.a'   # quoted\n  rules: {y: a < 9, x: a > 0}\n"
        "  key:\n    id: o.id\n  source: public.orders o\n  target: shop.order\n"
        "target: shop\nsource: legacy\nname: shop\n"
    )

    assert digest(text) == digest(other)


def test_the_digest_does_not_depend_on_defaults_written_out() -> None:
    text = HEAD + "    key: {id: o.id}\n    columns: {a: o.a}\n"

    assert digest(text + "    mode: create\n    unique: []\n    where: null\n") == digest(text)
    assert digest(text + "rollout: [{phase: everyone, approve: automatic}]\nlimits: {findings: 100}\n") == digest(text)


@pytest.mark.parametrize(
    "change",
    [("o.id", "o.oid"), ("{a: o.a, b: o.b}", "{b: o.b, a: o.a}"), ("public.orders", "public.order"), ("shop\n", "s\n")],
)
def test_the_digest_depends_on_what_the_plan_does(change: tuple[str, str]) -> None:
    text = HEAD + "    key: {id: o.id}\n    columns: {a: o.a, b: o.b}\n"

    assert digest(text) != digest(text.replace(*change))


def test_the_canonical_form_is_json_with_sorted_keys() -> None:
    canonical = load("long-forms").canonical

    assert canonical == json.dumps(json.loads(canonical), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def test_a_byte_order_mark_and_foreign_line_ends_change_nothing(tmp_path: Path) -> None:
    plan = tmp_path / "windows.yaml"
    plan.write_bytes(b"\xef\xbb\xbf" + (GOOD / "shop.yaml").read_bytes().replace(b"\n", b"\r\n"))

    assert load_plan(plan).digest == load("shop").digest


def test_guards_and_criteria_read_as_they_are_written() -> None:
    plan = load("guards").plan

    assert [(guard.name, guard.on, guard.min, guard.max, guard.every, guard.during) for guard in plan.guards] == [
        ("error rate", "target", None, 5, "30s", "soak"),
        ("lag of the replica", "replica", None, 2.5, "10s", "always"),
        ("somebody buys", "source", 1, None, "10s", "copy"),
    ]
    assert plan.rollback.kinds == {"verification", "guard", "deadline", "errors"}
    assert plan.rollback.errors == 20
    assert load("shop").plan.rollback.errors is None
