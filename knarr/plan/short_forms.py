"""The short forms that YAML allows, each turned into the long form that the models know."""

from typing import Final, Literal, NamedTuple

from knarr.plan import names, sql_text, units
from knarr.plan.problems import Refusal, describe, did_you_mean, quoted

_CRITERIA: Final = ("verification", "guard", "deadline", "errors")
_CRITERIA_EXPECTED: Final = "verification, guard, deadline with a duration (deadline 6h), or errors with a number"


class Criterion(NamedTuple):
    """One entry of `rollback.on`."""

    kind: Literal["verification", "guard", "deadline", "errors"]
    seconds: float | None = None
    """Only a deadline has it: after how many seconds the run takes itself back."""
    number: int | None = None
    """Only errors have it: how many attempts to copy may fail."""


def column(value: object) -> object:
    """`name: trim(c.name)` is `name: {from: trim(c.name)}`."""
    if isinstance(value, str):
        return {"from": value}
    return _mapping(value, "a SQL expression, or a mapping with from, type, null, default, identity, generated")


def index(value: object) -> object:
    """`name` is `[name]`, and `[name, born]` is `{columns: [name, born]}`."""
    if isinstance(value, str):
        return {"columns": [value]}
    if isinstance(value, list):
        return {"columns": value}
    return _one_column(_mapping(value, "a column, a list of columns, or a mapping with columns, unique, method, …"))


def unique(value: object) -> object:
    """No short form: `unique: [a, b]` may mean one constraint or two, and they are not the same."""
    if isinstance(value, str):
        raise Refusal(quoted(value), "a list of columns that together are unique", f"Write [{value}] here.")
    return value


def foreign_key(value: object) -> object:
    """`customer -> shop.customer(id)` is `{columns: [customer], references: shop.customer(id)}`."""
    expected = "'column -> schema.table(column)', or a mapping with columns and references"
    if not isinstance(value, str):
        return _one_column(_mapping(value, expected))
    columns, arrow, reference = value.partition("->")
    if not (columns.strip() and arrow and reference.strip()):
        raise Refusal(quoted(value), expected)
    return {"columns": [name.strip() for name in columns.split(",")], "references": reference}


def transform(value: object) -> object:
    """`transforms.orders:clean` is `{function: transforms.orders:clean}`."""
    if isinstance(value, str):
        return {"function": value}
    return _mapping(value, "module:function, or a mapping with function and columns")


def mapping(value: object) -> object:
    """`source: public.*` without a target means the same schema on the target."""
    if isinstance(value, dict) and "target" not in value:
        source = value.get("source")
        if isinstance(source, str) and source.strip().endswith(".*"):
            return {**value, "target": source.strip()}
    return value


def pairs(value: object) -> object:
    """Columns as a stored plan has them, [[name, column], ...], as a mapping; anything else stays for the models."""
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        found = {pair[0]: pair[1] for pair in value if isinstance(pair[0], str)}
        return found if len(found) == len(value) else value
    return value


def guard(value: object) -> object:
    """No short form; but a guard without a bound, or with bounds that cross, can't watch anything."""
    if not isinstance(value, dict):
        return _mapping(value, "a mapping with name, query, and max or min")
    low, high = value.get("min"), value.get("max")
    if low is None and high is None:
        raise Refusal("a guard without bounds", "max or min, or both")
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise Refusal(f"min {low:g} above max {high:g}", "a min that is not above max")
    return value


def criterion(text: str) -> Criterion:
    """Read one entry of `rollback.on`: verification, guard, deadline 6h, or errors 20.

    Raises:
        Refusal: it is none of these, or the deadline's duration is missing, wrong or zero, or errors have no number.
    """
    match text.split():
        case ["verification"]:
            return Criterion("verification")
        case ["guard"]:
            return Criterion("guard")
        case ["deadline", duration]:
            seconds = units.seconds(duration)
            if seconds == 0:
                raise Refusal(quoted(text), "a deadline longer than nothing")
            return Criterion("deadline", seconds)
        case ["errors", number] if number.isascii() and number.isdigit() and len(number) <= 9:
            return Criterion("errors", number=int(number))
        case [kind, *_] if kind not in _CRITERIA:
            raise Refusal(quoted(text), _CRITERIA_EXPECTED, did_you_mean(kind, _CRITERIA))
    raise Refusal(quoted(text), _CRITERIA_EXPECTED)


def index_column(text: str) -> None:
    """Hold an entry of an index's columns against what it may be: a column's name, or (an expression).

    Raises:
        Refusal: it is an expression without its parentheses, or no SQL at all.
    """
    if text.startswith("("):
        if not text.endswith(")"):
            raise Refusal(quoted(text), "a column, or an expression in parentheses")
        # Without its own pair: `(a) || (b)` begins and ends with a parenthesis and yet is not in parentheses.
        sql_text.check_expression(text[1:-1])
    elif "(" in text:
        raise Refusal(quoted(text), "a column, or an expression in parentheses", f"Did you mean {quoted(f'({text})')}?")
    else:
        names.check_key(text)


def _mapping(value: object, expected: str) -> object:
    if value is None or isinstance(value, bool | int | float | str | list):
        raise Refusal(describe(value), expected)
    return value


def _one_column(value: object) -> object:
    if isinstance(value, dict) and isinstance(columns := value.get("columns"), str):
        return {**value, "columns": [columns]}
    return value
