"""Downstream checks: what those who live on the data must see now, asked again until a deadline, as caches need time.

Four kinds: the JSON of an HTTP endpoint, a query on any other alias held against one on the target, a Redis key, a
Python function of the plan's author.
"""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from knarr.errors import DataError, PlanError, TransientError, raised_at
from knarr.plan.downstream import DownstreamCheck, Endpoint, OtherQuery
from knarr.plan.models import CrossCheck
from knarr.plan.units import seconds
from knarr.postgres.session import Connection, Pools
from knarr.postgres.transform import load_function
from knarr.redis import get
from knarr.verify.attempt import attempted
from knarr.verify.cross import check_cross
from knarr.verify.models import CheckKey, CheckResult, Finding, shorten

LARGEST_ANSWER: Final = 8 * 1024 * 1024  # bytes
REQUEST_SECONDS: Final = 30.0

Lender = Callable[[], AbstractAsyncContextManager[Connection]]


async def check_downstream(
    check: DownstreamCheck, target: Lender, pools: Pools, *, folder: Path | None = None, shown: int = 100
) -> CheckResult:
    """Asks until it holds or the time is over; the last answer is the result.

    Args:
        check: what to ask.
        target: lends a pinned session, once for each try: the other side's failure may end it.
        pools: lends connections of the alias that a query names.
        folder: where the plan lies, for its function; None: the working directory.
        shown: how many findings the result holds at most; all are counted.

    Raises:
        TransientError: a database was still out of reach when the time was over.
    """
    key = CheckKey(kind="downstream", name=check.name)
    started, tries = time.monotonic(), 0
    end = started + seconds(check.within)

    async def once() -> CheckResult:
        if check.http is not None:
            found = await asyncio.to_thread(_ask_endpoint, check.http)
            return _compared(key, check, found, shown)
        if check.query is not None:
            return await _ask_database(key, check.name, check.query, target, pools, shown)
        if check.redis is not None:
            held = await get(pools.resolve(check.redis.alias), check.redis.key)
            unlike = [] if held == check.redis.equals else [_key_finding(check.name, check.redis.equals, held)]
            return _result(key, unlike, shown, f"{check.redis.alias} {check.redis.key}: {shorten(held)}")
        problems = await asyncio.to_thread(_ask_function, check.function or "", folder)
        findings = [_finding(check.name, expected="no problem", found=problem) for problem in problems]
        return _result(key, findings, shown, f"{check.function} gave {len(findings)} problems")

    while True:
        tries += 1
        last = time.monotonic() >= end
        try:
            result = await attempted(key, once)
        except TransientError:
            if last:
                raise
        else:
            if last or result.outcome == "passed":
                return result.model_copy(
                    update={
                        "seconds": time.monotonic() - started,
                        "message": f"{result.message} (try {tries}, within {check.within})",
                    }
                )
        await asyncio.sleep(min(seconds(check.every), max(end - time.monotonic(), 0.0)))


def _ask_endpoint(endpoint: Endpoint) -> JsonValue:
    request = urllib.request.Request(endpoint.url, headers={"Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            body: bytes = answer.read(LARGEST_ANSWER + 1)
    except urllib.error.HTTPError as error:
        with error:
            found = f"{endpoint.url} answered {error.code}, expected 200"
            raise DataError(found, detail=f"{found}: {error.reason}") from error
    except (OSError, ValueError) as error:
        # Not transient: whether it is tried again is the check's own deadline's to say.
        found = f"{endpoint.url} did not answer: {type(error).__name__}"
        raise DataError(found, detail=f"{found}: {error}") from error
    if len(body) > LARGEST_ANSWER:
        raise DataError(f"{endpoint.url} answered with more than {LARGEST_ANSWER} bytes")
    try:
        document: JsonValue = json.loads(body)
    except ValueError as error:
        found = f"{endpoint.url} answered with something else than JSON"
        raise DataError(found, detail=f"{found}: {shorten(repr(body))}") from error
    return _at(document, endpoint)


def _at(document: JsonValue, endpoint: Endpoint) -> JsonValue:
    place = document
    for step in endpoint.pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and name in place:
            place = place[name]
        elif isinstance(place, list) and name.isascii() and name.isdigit() and int(name) < len(place):
            place = place[int(name)]
        else:
            found = f"{endpoint.url} has nothing at {endpoint.pointer}"
            raise DataError(found, detail=f"{found}: {shorten(json.dumps(document))}")
    return place


def _compared(key: CheckKey, check: DownstreamCheck, found: JsonValue, shown: int) -> CheckResult:
    assert check.http is not None
    # As JSON texts: true is not 1 there, as it is in Python.
    wanted, there = (json.dumps(value, sort_keys=True) for value in (check.http.equals, found))
    findings = [] if wanted == there else [_finding(check.name, expected=wanted, found=there)]
    return _result(key, findings, shown, f"{check.http.url} {check.http.pointer}: {shorten(there)}")


async def _ask_database(
    key: CheckKey, name: str, query: OtherQuery, target: Lender, pools: Pools, shown: int
) -> CheckResult:
    async with target() as ours, pools.acquire(query.alias, read_only=True) as other:
        # The target says what must be there, so it takes the part that the source has in a cross check.
        cross = CrossCheck(name=name, source=query.target, target=query.query, tolerance=query.tolerance)
        result = await check_cross(ours, other, cross, shown)
    told = {"kind": "downstream", "hint": f"downstream check '{name}': found on {query.alias}"}
    return CheckResult(
        **key.model_dump(),
        outcome=result.outcome,
        message=f"target against {query.alias}: {result.message}",
        counts={"downstream": result.findings_total} if result.findings_total else {},
        findings_total=result.findings_total,
        findings=[finding.model_copy(update=told) for finding in result.findings],
        sql=result.sql,
        compared=result.compared,
        source_snapshot=result.source_snapshot,
        target_snapshot=result.target_snapshot,
    )


def _ask_function(name: str, folder: Path | None) -> list[str]:
    function: Callable[..., object] = load_function(name, folder)
    try:
        problems = function()
    except BaseException as error:  # a library's sys.exit() would end the worker
        # Not transient, whatever it is: when it is tried again is the check's own deadline's to say.
        found = f"function '{name}' raised {type(error).__name__}{raised_at(error)}"
        raise DataError(found, detail=f"{found}: {error}") from error
    if not isinstance(problems, list) or not all(isinstance(problem, str) for problem in problems):
        wanted = "expected a list of problems (texts), empty if there is none"
        raise PlanError(
            f"function '{name}' gave {type(problems).__name__}, {wanted}",
            detail=f"function '{name}' gave {problems!r:.200}, {wanted}",
        )
    return problems


def _key_finding(name: str, expected: str | None, found: str | None) -> Finding:
    nothing = "no such key"
    return _finding(
        name,
        expected=nothing if expected is None else json.dumps(expected),
        found=nothing if found is None else json.dumps(found),
    )


def _finding(name: str, *, expected: str, found: str) -> Finding:
    hint = f"downstream check '{name}': its cache may need longer than `within`, or it reads from elsewhere"
    return Finding(mapping="", kind="downstream", expected=shorten(expected), found=shorten(found), hint=hint)


def _result(key: CheckKey, findings: list[Finding], shown: int, message: str) -> CheckResult:
    return CheckResult(
        **key.model_dump(),
        outcome="failed" if findings else "passed",
        message=message,
        counts={"downstream": len(findings)} if findings else {},
        findings_total=len(findings),
        findings=findings[:shown],
    )
