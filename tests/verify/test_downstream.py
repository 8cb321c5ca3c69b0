"""Downstream checks: asked until they hold or the time is over."""

import asyncio
import http.server
import itertools
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr, ValidationError

from knarr.plan.downstream import DownstreamCheck, Endpoint, OtherQuery
from knarr.postgres.session import Connection, Pools
from knarr.settings import Connections
from knarr.verify.downstream import Lender, check_downstream
from tests.faults.proxy import Proxy
from tests.faults.stage import through

MODULES: Final = itertools.count(1)
Answer = Callable[[int], tuple[int, bytes]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Starts an HTTP server that answers the n-th request as told; returns its URL."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        count = itertools.count(1)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answer(next(count))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/orders"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
async def pools(source_dsn: str, target_dsn: str) -> AsyncIterator[Pools]:
    addresses = {"search": SecretStr(source_dsn), "shop": SecretStr(target_dsn)}
    pools = Pools(Connections(addresses, Path("knarr.toml")))
    yield pools
    await pools.close()


def lent(pools: Pools) -> Lender:
    return lambda: pools.acquire("shop", read_only=True)


async def test_an_endpoint_is_asked_until_its_cache_has_caught_up(pools: Pools, serve: Callable[[Answer], str]) -> None:
    url = serve(lambda n: (503, b"") if n == 1 else (200, json.dumps({"orders": [{"total": n * 10}]}).encode()))
    endpoint = Endpoint(url=url, pointer="/orders/0/total", equals=40)
    check = DownstreamCheck(name="api", http=endpoint, within="20s", every="50ms")
    result = await check_downstream(check, lent(pools), pools)
    assert result.outcome == "passed" and "try 4" in result.message
    late = DownstreamCheck(name="api", http=endpoint)
    result = await check_downstream(late, lent(pools), pools)
    assert (result.outcome, result.counts) == ("failed", {"downstream": 1})
    assert (result.findings[0].expected, result.findings[0].found) == ("40", "50")


@pytest.mark.parametrize(
    ("answer", "pointer", "reason"),
    [
        ((404, b""), "", "answered 404"),
        ((200, b"<html>"), "", "something else than JSON"),
        ((200, b"{}"), "/nobody", "nothing at /nobody"),
    ],
)
async def test_an_endpoint_without_an_answer_has_failed(
    target: Connection,
    pools: Pools,
    serve: Callable[[Answer], str],
    answer: tuple[int, bytes],
    pointer: str,
    reason: str,
) -> None:
    check = DownstreamCheck(name="api", http=Endpoint(url=serve(lambda _: answer), pointer=pointer, equals=1))
    result = await check_downstream(check, lent(pools), pools)
    assert result.outcome == "could not run" and reason in result.message


async def test_nobody_listening_has_failed(pools: Pools) -> None:
    check = DownstreamCheck(name="api", http=Endpoint(url="http://127.0.0.1:9/", equals=1))
    result = await check_downstream(check, lent(pools), pools)
    assert result.outcome == "could not run" and "did not answer" in result.message


async def test_true_is_not_one(pools: Pools, serve: Callable[[Answer], str]) -> None:
    check = DownstreamCheck(name="api", http=Endpoint(url=serve(lambda _: (200, b"true")), equals=1))
    assert (await check_downstream(check, lent(pools), pools)).outcome == "failed"


async def test_another_database_must_give_what_the_target_gives(pools: Pools) -> None:
    query = OtherQuery(alias="search", query="VALUES ('a', 1.0), ('b', 2)", target="VALUES ('b', 2.0), ('a', 1.004)")
    result = await check_downstream(DownstreamCheck(name="index", query=query), lent(pools), pools)
    assert result.outcome == "failed" and result.findings[0].kind == "downstream"
    assert (result.findings[0].expected, result.findings[0].found) == ("1.004", "1.0")
    within = query.model_copy(update={"tolerance": 0.01})
    assert (await check_downstream(DownstreamCheck(name="index", query=within), lent(pools), pools)).outcome == "passed"


async def test_a_database_that_fails_while_the_target_only_begins_is_asked_again(
    source: Connection, source_dsn: str, target_dsn: str
) -> None:
    query = OtherQuery(alias="search", query="SELECT count(*) FROM public.catching_up", target="SELECT 0")
    check = DownstreamCheck(name="index", query=query, within="20s", every="100ms")
    with Proxy(target_dsn, delay=0.03) as proxy:
        addresses = {"search": SecretStr(source_dsn), "shop": SecretStr(through(target_dsn, proxy.port))}
        pools = Pools(Connections(addresses, Path("knarr.toml")))
        asking = asyncio.create_task(check_downstream(check, lent(pools), pools))
        await asyncio.sleep(1)
        await source.execute("CREATE TABLE public.catching_up ()")
        result = await asking
        await pools.close()
    assert result.outcome == "passed" and "try 1," not in result.message


async def test_an_alias_that_leads_nowhere_has_failed(pools: Pools) -> None:
    query = OtherQuery(alias="nobody", query="SELECT 1", target="SELECT 1")
    result = await check_downstream(DownstreamCheck(name="index", query=query), lent(pools), pools)
    assert result.outcome == "could not run" and "nobody" in result.message.lower()


async def test_a_function_gives_its_problems(pools: Pools, tmp_path: Path) -> None:
    module = f"downstream_{next(MODULES)}"
    (tmp_path / f"{module}.py").write_text(
        "calls = []\n"
        "def caught_up():\n    calls.append(1)\n    return [] if len(calls) > 2 else ['key order:7 is stale']\n"
        "def stale():\n    return ['one', 'two', 'three']\n"
        "def odd():\n    return None\n"
        "def broken():\n    raise RuntimeError('no route')\n"
    )

    async def outcome(function: str, within: str = "0s") -> tuple[str, int, str]:
        check = DownstreamCheck(name="redis", function=f"{module}:{function}", within=within, every="10ms")
        result = await check_downstream(check, lent(pools), pools, folder=tmp_path, shown=2)
        assert len(result.findings) <= 2
        return result.outcome, result.findings_total, result.message

    assert (await outcome("caught_up", "10s"))[:2] == ("passed", 0)
    assert (await outcome("stale"))[:2] == ("failed", 3)
    assert "expected a list of problems" in (await outcome("odd"))[2]
    assert "no route" in (await outcome("broken"))[2]


def test_a_check_is_of_exactly_one_kind_and_holds_no_secret() -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        DownstreamCheck(name="none")
    with pytest.raises(ValidationError, match="credentials"):
        Endpoint(url="https://user:secret@host/", equals=1)
