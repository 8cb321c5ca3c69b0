"""What a plan names besides its source and its target: further connections, and functions in Python."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from knarr.errors import KnarrError, PlanError
from knarr.postgres import session
from knarr.postgres.failures import classified
from knarr.postgres.reach import AGAIN
from knarr.postgres.survey.future import columns_on, columns_on_target
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.transform import load_function


@dataclass(frozen=True)
class Surroundings:
    """What of this process a plan needs."""

    resolve: Callable[[str], SecretStr]
    """The address behind an alias; raises PlanError where it leads nowhere."""
    folders: Sequence[Path]
    """Where the module of a plan's function may lie, beside PYTHONPATH: the first in which it is found counts."""


async def columns_at(
    inquiry: Inquiry, surroundings: Surroundings | None, alias: str, query: str, *, named_at: str, where: str
) -> list[int] | None:
    """The type oids of the columns that a query of the plan gives, or will give, wherever it is asked.

    Args:
        surroundings: None: a further connection is not tried.
        named_at: where the plan names the alias.
        where: where it says the query.

    Returns:
        None where that can't be known now, and after a problem that was told.

    Raises:
        TransientError: the connection was lost after it had been made.
    """
    if alias == inquiry.plan.target:
        return await columns_on_target(inquiry, where, query)
    if alias == inquiry.plan.source:
        return await columns_on(inquiry, inquiry.source, where, query, "the source")
    if surroundings is None:
        return None
    try:
        other = await session.connect(surroundings.resolve(alias), application_name="knarr survey", read_only=True)
    except KnarrError as error:
        refused_by(inquiry, named_at, error, "a PostgreSQL database that can be reached")
        return None
    try:
        with classified(f"asking '{alias}' about the plan's SQL"):
            return await columns_on(inquiry, other, where, query, alias, a_copy=True)
    finally:
        await session.end(other)


async def check_transforms(inquiry: Inquiry, surroundings: Surroundings) -> None:
    """The functions that rows go through can be imported: else the first copy would fail, with the tables made."""
    for one in inquiry.sketches:
        if (transform := one.mapping.transform) is not None:
            expected = "a Python function that takes rows and gives rows back"
            await imported(inquiry, surroundings, one.where("transform"), transform.function, expected)


async def imported(
    inquiry: Inquiry, surroundings: Surroundings, where: str, name: str, expected: str
) -> Callable[..., object] | None:
    """The plan's function, not called; None after a problem that was told. What its module does on import is done."""
    try:
        return await asyncio.to_thread(_loaded, name, surroundings.folders)
    except KnarrError as error:
        refused_by(inquiry, where, error, expected)
        return None


def refused_by(inquiry: Inquiry, where: str, error: KnarrError, expected: str) -> None:
    """An error of ours as a problem of the plan, which a run does not wait out: it is refused."""
    hint = error.hint.removesuffix(f"; {AGAIN}")
    inquiry.problems.error(where, error.message, expected=expected, hint=hint, examples=error.detail)


def _loaded(name: str, folders: Sequence[Path]) -> Callable[..., object]:
    *others, last = folders
    for folder in others:
        try:
            return load_function(name, folder)
        except PlanError:
            continue
    return load_function(name, last)
