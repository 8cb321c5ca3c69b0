"""Downstream checks, as far as can be known before a run: that they can be asked, not what will be answered.

Nothing is asked here that has an effect, or that only the moved data could answer. What can be known only later is
said to be so, as a warning.
"""

import asyncio
import inspect
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from knarr.errors import KnarrError, PlanError
from knarr.plan.downstream import DownstreamCheck, OtherQuery
from knarr.postgres import session
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection
from knarr.postgres.survey.future import columns_on, columns_on_target
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.transform import load_function
from knarr.redis import greet
from knarr.settings import CONNECTION_PREFIX

LOOKUP_SECONDS: Final = 5.0
_REDIS: Final = "redis://host:6379/0"


@dataclass(frozen=True)
class Surroundings:
    """What of this process the downstream checks of a plan need."""

    resolve: Callable[[str], SecretStr]
    """The address behind an alias; raises PlanError where it leads nowhere."""
    folders: Sequence[Path]
    """Where the module of a plan's function may lie, beside PYTHONPATH: the first in which it is found counts."""


async def check_downstream(inquiry: Inquiry, surroundings: Surroundings) -> None:
    """Every downstream check of the plan; each alias of a database is connected to once.

    Raises:
        TransientError: a connection was lost after it had been made.
    """
    queries: dict[str, list[tuple[str, OtherQuery]]] = {}
    for position, check in enumerate(inquiry.plan.downstream):
        place = f"downstream[{position}].{{}} ({check.name})"
        if check.query is not None:
            queries.setdefault(check.query.alias, []).append((place, check.query))
        elif check.redis is not None:
            await _check_redis(inquiry, surroundings, place.format("redis.alias"), check.redis.alias)
        elif check.http is not None:
            await _check_host(inquiry, place.format("http.url"), check.http.url)
        else:
            await _check_function(inquiry, surroundings, place.format("function"), check)
    for alias, asked in queries.items():
        await _check_queries(inquiry, surroundings, alias, asked)


async def _check_queries(
    inquiry: Inquiry, surroundings: Surroundings, alias: str, asked: list[tuple[str, OtherQuery]]
) -> None:
    try:
        other = await session.connect(surroundings.resolve(alias), application_name="knarr survey", read_only=True)
    except KnarrError as error:
        for place, query in asked:
            _cannot(inquiry, place.format("query.alias"), error, "a PostgreSQL database that can be reached")
            await columns_on_target(inquiry, place.format("query.target"), query.target)
        return
    try:
        for place, query in asked:
            with classified(f"asking '{alias}' about a downstream check"):
                await _check_query(inquiry, place, query, other)
    finally:
        await session.end(other)


async def _check_query(inquiry: Inquiry, place: str, query: OtherQuery, other: Connection) -> None:
    where = place.format("query.query")
    if query.alias == inquiry.plan.target:
        there = await columns_on_target(inquiry, where, query.query)
    else:
        there = await columns_on(inquiry, other, where, query.query, query.alias, a_copy=True)
    here = await columns_on_target(inquiry, place.format("query.target"), query.target)
    if there is not None and here is not None and len(there) != len(here):
        inquiry.problems.error(
            place.format("query"),
            f"{len(there)} columns from {query.alias}, {len(here)} from the target",
            expected="the same number on both sides",
        )


async def _check_redis(inquiry: Inquiry, surroundings: Surroundings, where: str, alias: str) -> None:
    try:
        address = surroundings.resolve(alias)
    except PlanError as error:
        hint = f"export {CONNECTION_PREFIX}{alias.upper()}={_REDIS} where the worker starts"
        inquiry.problems.error(where, error.message, expected="the address of a Redis server", hint=hint)
        return
    try:
        await greet(address)
    except KnarrError as error:
        _cannot(inquiry, where, error, "a Redis server that answers")


async def _check_host(inquiry: Inquiry, where: str, url: str) -> None:
    """Whether the host has an address. What it answers is the moved data's to say; it may not even run yet."""
    parts = urlsplit(url)
    if parts.scheme in urllib.request.getproxies() or parts.hostname is None:
        return  # the proxy knows which hosts there are
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            await asyncio.get_running_loop().getaddrinfo(parts.hostname, None)
    except (OSError, TimeoutError, UnicodeError) as error:
        inquiry.problems.warn(
            where,
            f"no host {parts.hostname} is known here ({type(error).__name__})",
            expected="a host that is there when the check is asked, after the last phase",
            hint="check its name, and this machine's DNS; whether it comes until then can't be known now",
        )


async def _check_function(inquiry: Inquiry, surroundings: Surroundings, where: str, check: DownstreamCheck) -> None:
    """Imports the module, as the check will; the function is not called."""
    name = check.function or ""
    expected = "a Python function that is called without arguments"
    try:
        function = await asyncio.to_thread(_loaded, name, surroundings.folders)
    except KnarrError as error:
        _cannot(inquiry, where, error, expected)
        return
    if inspect.iscoroutinefunction(function):
        inquiry.problems.error(where, f"function '{name}' is async", expected=expected, hint="def, not async def")
    try:
        inspect.signature(function).bind()
    except TypeError:
        inquiry.problems.error(where, f"function '{name}' wants arguments", expected=expected)
    except ValueError:
        return  # one that is not written in Python tells nobody what it takes


def _loaded(name: str, folders: Sequence[Path]) -> Callable[..., object]:
    for position, folder in enumerate(folders, start=1):
        try:
            return load_function(name, folder)
        except PlanError:
            if position == len(folders):
                raise
    raise ValueError("no folder in which a function could lie")


def _cannot(inquiry: Inquiry, where: str, error: KnarrError, expected: str) -> None:
    inquiry.problems.error(where, error.message, expected=expected, hint=error.hint, examples=error.detail)
