"""Downstream checks, as far as can be known before a run: that they can be asked, not what will be answered.

Nothing is asked here that has an effect, or that only the moved data could answer. What can be known only later is
said to be so, as a warning.
"""

import asyncio
import inspect
import urllib.request
from typing import Final
from urllib.parse import urlsplit

from knarr.errors import KnarrError, PlanError
from knarr.plan.downstream import OtherQuery
from knarr.postgres.survey.future import columns_on_target
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.surroundings import Surroundings, columns_at, imported, refused_by
from knarr.redis import greet
from knarr.settings import CONNECTION_PREFIX

LOOKUP_SECONDS: Final = 5.0
_REDIS: Final = "redis://host:6379/0"


async def check_downstream(inquiry: Inquiry, surroundings: Surroundings) -> None:
    """Every downstream check of the plan.

    Raises:
        TransientError: a connection was lost after it had been made.
    """
    for position, check in enumerate(inquiry.plan.downstream):
        place = f"downstream[{position}].{{}} ({check.name})"
        if check.query is not None:
            await _check_query(inquiry, surroundings, place, check.query)
        elif check.redis is not None:
            await _check_redis(inquiry, surroundings, place.format("redis.alias"), check.redis.alias)
        elif check.http is not None:
            await _check_host(inquiry, place.format("http.url"), check.http.url)
        else:
            await _check_function(inquiry, surroundings, place.format("function"), check.function or "")


async def _check_query(inquiry: Inquiry, surroundings: Surroundings, place: str, query: OtherQuery) -> None:
    named_at, where = place.format("query.alias"), place.format("query.query")
    there = await columns_at(inquiry, surroundings, query.alias, query.query, named_at=named_at, where=where)
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
        refused_by(inquiry, where, error, "a Redis server that answers")


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


async def _check_function(inquiry: Inquiry, surroundings: Surroundings, where: str, name: str) -> None:
    expected = "a Python function that is called without arguments"
    function = await imported(inquiry, surroundings, where, name, expected)
    if function is None:
        return
    if inspect.iscoroutinefunction(function):
        inquiry.problems.error(where, f"function '{name}' is async", expected=expected, hint="def, not async def")
    try:
        inspect.signature(function).bind()
    except TypeError:
        inquiry.problems.error(where, f"function '{name}' wants arguments", expected=expected)
    except ValueError:
        return  # one that is not written in Python tells nobody what it takes
