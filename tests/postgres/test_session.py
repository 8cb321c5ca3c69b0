"""Connections are pinned for good, and a pool never lends one that somebody left in a mess."""

import asyncio

import pytest

from knarr.errors import PlanError
from knarr.postgres.session import PINNED, Connection, Pools, connect, rename, short_name
from knarr.settings import Connections, Settings
from tests.postgres.specimens import gone


@pytest.fixture
def pools(target_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Pools:
    monkeypatch.setenv("KNARR_CONNECTION_SHOP", target_dsn)
    return Pools(Connections.load(Settings()), size=2)


async def test_a_connection_is_pinned_whatever_the_server_says(target: Connection) -> None:
    shown = {name: await target.fetchval("SELECT current_setting($1)", name) for name in PINNED}

    assert shown == PINNED
    assert await target.fetchval("SELECT '2024-02-03 10:00+00'::timestamptz::text") == "2024-02-03 10:00:00+00"
    assert await target.fetchval("SELECT (1.0 / 3)::float8::text") == "0.3333333333333333"


async def test_pinned_settings_survive_a_reset(target: Connection) -> None:
    await target.execute("SET TimeZone = 'Asia/Tokyo'")
    await rename(target, "something else")

    await target.reset()

    assert await target.fetchval("SHOW TimeZone") == "UTC"
    assert await target.fetchval("SHOW application_name") == "test target"


async def test_a_row_that_a_policy_hides_is_an_error(target: Connection, target_dsn: str) -> None:
    await target.execute(
        "CREATE TABLE public.secret (n integer); ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY;"
        "CREATE ROLE reader_of_rows; GRANT SELECT ON public.secret TO reader_of_rows"
    )
    try:
        await target.execute("SET ROLE reader_of_rows")
        with pytest.raises(Exception, match="row-level security"):
            await target.fetch("SELECT * FROM public.secret")
    finally:
        await target.execute("RESET ROLE; DROP OWNED BY reader_of_rows; DROP ROLE reader_of_rows")


async def test_a_read_only_connection_refuses_to_write(target_dsn: str) -> None:
    connection = await connect(target_dsn, application_name="reader", read_only=True)

    with pytest.raises(Exception, match="read-only transaction"):
        await connection.execute("CREATE TABLE public.x ()")

    await connection.close()


def test_a_long_name_is_cut_between_characters() -> None:
    assert short_name("x" * 70) == "x" * 63
    assert short_name("x" * 62 + "é") == "x" * 62


async def test_a_connection_that_was_given_back_is_lent_again_as_new(pools: Pools) -> None:
    async with pools.acquire("shop", application_name="first") as connection:
        first = connection.get_server_pid()
        await connection.execute("SET lock_timeout = '1s'")
        await connection.execute("SELECT pg_advisory_lock(7)")

    async with pools.acquire("shop") as connection:
        assert connection.get_server_pid() == first
        assert await connection.fetchval("SHOW lock_timeout") == PINNED["lock_timeout"]
        assert await connection.fetchval("SHOW application_name") == "knarr"
        assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    await pools.close()


async def test_a_connection_that_failed_is_ended_and_not_lent_again(pools: Pools) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pools.acquire("shop") as connection:
            first = connection.get_server_pid()
            await connection.execute("BEGIN")
            raise ZeroDivisionError

    async with pools.acquire("shop") as connection:
        assert connection.get_server_pid() != first
        assert not connection.is_in_transaction()
    await pools.close()


async def test_a_cancelled_borrower_leaves_no_backend_behind(pools: Pools, target: Connection) -> None:
    started = asyncio.Event()

    async def borrow() -> None:
        async with pools.acquire("shop", application_name="sleeper") as connection:
            started.set()
            await connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(borrow())
    await started.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await gone(target, "sleeper", within=1.0)
    await pools.close()


async def test_a_pool_lends_no_more_than_its_size(pools: Pools) -> None:
    async with pools.acquire("shop"), pools.acquire("shop"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), pools.acquire("shop"):
                raise AssertionError("a third connection was lent")
    await pools.close()


async def test_closing_cuts_off_connections_that_are_lent(pools: Pools) -> None:
    with pytest.raises(Exception, match="closed"):
        async with pools.acquire("shop") as connection:
            await pools.close()
            await connection.execute("SELECT 1")


async def test_an_unknown_alias_is_a_plan_error(pools: Pools) -> None:
    with pytest.raises(PlanError, match="KNARR_CONNECTION_NOWHERE"):
        async with pools.acquire("nowhere"):
            raise AssertionError("a connection to nowhere")
