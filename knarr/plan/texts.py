"""The kinds of text in a plan, each with what it must hold: names, SQL, durations, sizes."""

from collections.abc import Callable
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from knarr.plan import names, sql_text, units
from knarr.plan.problems import Refusal

_Read = TypeVar("_Read")
ALIAS_PATTERN: Final = r"^[a-z][a-z0-9_]{0,62}$"
PLAN_NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
FUNCTION_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"


def _refusal(refused: Refusal) -> PydanticCustomError:
    context = {"found": refused.found, "expected": refused.expected, "hint": refused.hint}
    return PydanticCustomError("refused", "found {found}, expected {expected}", context)


def holds(check: Callable[[str], object]) -> AfterValidator:
    """A validator that leaves the text as it is, if `check` does not refuse it."""

    def validate(text: str) -> str:
        try:
            check(text)
        except Refusal as refused:
            raise _refusal(refused) from refused
        return text

    return AfterValidator(validate)


def refusing(read: Callable[[object], _Read], value: object) -> _Read:
    """What `read` makes of a value; its Refusal as the error that pydantic collects with all others.

    Raises:
        PydanticCustomError: of type `refused`, with found, expected and hint in its context.
    """
    try:
        return read(value)
    except Refusal as refused:
        raise _refusal(refused) from refused


def _or_same(text: str) -> None:
    if text != "=":
        sql_text.check_expression(text)


Alias = Annotated[str, Field(pattern=ALIAS_PATTERN, description="name of a connection; no address, no secret")]
PlanName = Annotated[str, Field(pattern=PLAN_NAME_PATTERN, description="lower case, digits, hyphens")]
Expression = Annotated[str, Field(min_length=1, description="a SQL expression over the source row"), holds(_or_same)]
Predicate = Annotated[str, Field(min_length=1, description="a SQL predicate"), holds(sql_text.check_predicate)]
Sql = Annotated[str, Field(min_length=1, description="a SQL expression"), holds(sql_text.check_expression)]
Query = Annotated[str, Field(min_length=1, description="a query"), holds(sql_text.check_query)]
Joins = Annotated[str, Field(min_length=1, description="JOIN clauses"), holds(sql_text.check_joins)]
SqlType = Annotated[str, Field(min_length=1, description="a type"), holds(sql_text.check_type)]
Duration = Annotated[str, Field(pattern=units.DURATION_PATTERN, description="90s, 10m, 6h, 7d"), holds(units.seconds)]
Size = Annotated[str, Field(pattern=units.SIZE_PATTERN, description="512MiB"), holds(units.size_bytes)]
Name = Annotated[str, holds(names.check_key)]
Table = Annotated[str, holds(names.parse_table)]
