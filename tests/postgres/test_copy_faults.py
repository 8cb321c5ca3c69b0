"""Whatever dies in the middle of a copy, and whenever: nothing is visible, or all of it, and a retry ends it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from knarr.errors import DataError, KnarrError, LostLease, TransientError
from knarr.postgres import lease, stream
from knarr.postgres.session import Connection, Pools, connect
from knarr.settings import Connections, Settings
from tests.postgres.specimens import Run, column, dsn_of, gone, mapping

ROWS = 20_000
# Sleeps a little now and then, two seconds in all, so that a test can act in the middle.
SLOW = mapping(
    [
        column(
            "id", "integer", expression="t.id + CASE t.id % 20 WHEN 0 THEN length(pg_sleep(0.001)::text) ELSE 0 END"
        ),
        column("name", "text"),
    ],
    key=["id"],
)
END = "SELECT pg_terminate_backend($1)"


@pytest.fixture
async def filled(run: Run) -> Run:
    """Rows enough for a copy of some seconds."""
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT n AS id, repeat('x', 200) AS name FROM generate_series(1, 20000) AS n"
    )
    await run.target.execute("CREATE TABLE public.taken (id integer, name text)")
    await run.store(SLOW)
    return run


async def begun(task: "asyncio.Task[object]", progress: asyncio.Event) -> None:
    """Waits until bytes flow."""
    waiting = asyncio.create_task(progress.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    waiting.cancel()
    assert progress.is_set()


async def disturbed(
    run: Run, disturb: Callable[[Connection, Connection], Awaitable[object]]
) -> tuple[BaseException | None, float]:
    """Copies on connections of its own, disturbs it in the middle, and tells what came of it and how soon."""
    source = await connect(await dsn_of(run.source), application_name="copying source")
    target = await run.open("copying target")
    progress = asyncio.Event()
    task = asyncio.create_task(
        run.copy(run.job(SLOW), source=source, target=target, on_progress=lambda rows, size: progress.set())
    )
    await begun(task, progress)
    started = time.monotonic()
    await disturb(source, target)
    error: BaseException | None = None
    try:
        await asyncio.wait_for(task, 30)
    except (KnarrError, asyncio.CancelledError) as raised:
        error = raised
    took = time.monotonic() - started
    await source.close()
    return error, took


async def nothing_is_there(run: Run) -> bool:
    assert await gone(run.target, "knarr/%")
    rows = await run.target.fetchval("SELECT count(*) FROM public.taken")
    ledger_rows = await run.target.fetchval("SELECT count(*) FROM knarr.ledger")
    return (rows, ledger_rows) == (0, 0)


async def test_a_killed_source_backend_is_transient_and_leaves_nothing(filled: Run) -> None:
    error, took = await disturbed(filled, lambda source, target: filled.source.execute(END, source.get_server_pid()))

    assert isinstance(error, TransientError)
    assert await nothing_is_there(filled)
    assert took < 5


async def test_a_killed_target_backend_is_transient_and_leaves_nothing(filled: Run) -> None:
    error, took = await disturbed(filled, lambda source, target: filled.target.execute(END, target.get_server_pid()))

    assert isinstance(error, TransientError)
    assert "target" in str(error)
    assert await nothing_is_there(filled)
    assert took < 5


async def test_after_a_kill_a_retry_brings_each_row_once(filled: Run) -> None:
    await disturbed(filled, lambda source, target: filled.target.execute(END, target.get_server_pid()))

    outcome = await filled.copy(filled.job(SLOW, attempt=2))

    assert (outcome.rows, outcome.already_done) == (ROWS, False)
    assert await filled.target.fetchval("SELECT count(DISTINCT id) FROM public.taken") == ROWS
    assert await filled.target.fetchval("SELECT count(*) FROM public.taken") == ROWS


async def test_a_cancelled_copy_ends_on_both_sides_at_once(filled: Run) -> None:
    source = await connect(await dsn_of(filled.source), application_name="copying source")
    target = await filled.open("copying target")
    progress = asyncio.Event()
    task = asyncio.create_task(
        filled.copy(filled.job(SLOW), source=source, target=target, on_progress=lambda rows, size: progress.set())
    )
    await begun(task, progress)

    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert time.monotonic() - started < 3
    assert source.is_closed()
    assert target.is_closed()
    assert await gone(filled.source, "knarr/%")
    assert await nothing_is_there(filled)


async def test_a_cancelled_copy_on_pooled_connections_leaves_clean_pools(
    filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNARR_CONNECTION_LEGACY", await dsn_of(filled.source))
    monkeypatch.setenv("KNARR_CONNECTION_SHOP", filled.target_dsn)
    pools = Pools(Connections.load(Settings()))
    progress = asyncio.Event()

    async def activity() -> None:
        async with pools.acquire("legacy") as source, pools.acquire("shop") as target:
            await filled.copy(
                filled.job(SLOW), source=source, target=target, on_progress=lambda rows, size: progress.set()
            )

    task = asyncio.create_task(activity())
    await begun(task, progress)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with pools.acquire("legacy") as source, pools.acquire("shop") as target:
        outcome = await filled.copy(filled.job(SLOW, attempt=2), source=source, target=target)
    assert outcome.rows == ROWS
    await pools.close()


async def test_of_two_overlapping_attempts_one_brings_the_rows(filled: Run) -> None:
    sources = [await connect(await dsn_of(filled.source), application_name="copying source") for _ in range(2)]
    targets = [await filled.open("copying target") for _ in range(2)]
    progress = asyncio.Event()
    first = asyncio.create_task(
        filled.copy(
            filled.job(SLOW), source=sources[0], target=targets[0], on_progress=lambda rows, size: progress.set()
        )
    )
    await begun(first, progress)

    second = await filled.copy(filled.job(SLOW, attempt=2), source=sources[1], target=targets[1])
    with pytest.raises(TransientError):
        await first

    assert (second.rows, second.already_done) == (ROWS, False)
    assert await filled.target.fetchval("SELECT count(*) FROM public.taken") == ROWS
    assert await filled.target.fetchval("SELECT attempt FROM knarr.ledger") == 2
    for connection in sources:
        await connection.close()


async def test_a_raised_epoch_ends_a_copy_that_is_under_way(filled: Run) -> None:
    error, took = await disturbed(filled, lambda source, target: lease.raise_epoch(filled.target, filled.run_id))

    assert isinstance(error, TransientError)
    assert await nothing_is_there(filled)
    with pytest.raises(LostLease):
        await filled.copy(filled.job(SLOW, attempt=2))
    assert took < 5


async def test_a_commit_whose_answer_is_lost_is_looked_up_in_the_ledger(filled: Run) -> None:
    target = await filled.open("copying target")

    class LosesTheAnswer:
        """A connection whose COMMIT arrives, and whose answer does not."""

        def __init__(self, real: Connection) -> None:
            self._real = real

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def transaction(self, **options: object) -> object:
            real = self._real.transaction(**options)  # type: ignore[arg-type]

            class Transaction:
                start = staticmethod(real.start)
                rollback = staticmethod(real.rollback)

                @staticmethod
                async def commit() -> None:
                    await real.commit()
                    target.terminate()
                    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

            return Transaction()

    outcome = await filled.copy(filled.job(SLOW), target=LosesTheAnswer(target))  # type: ignore[arg-type]

    assert (outcome.rows, outcome.already_done) == (ROWS, True)
    assert await filled.target.fetchval("SELECT count(*) FROM public.taken") == ROWS


async def test_a_commit_that_never_arrived_is_transient(filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    target = await filled.open("copying target")

    async def die_before_commit(*arguments: object, **more: object) -> object:
        await filled.target.execute(END, target.get_server_pid())
        await asyncio.sleep(0.2)
        return None

    monkeypatch.setattr("knarr.postgres.ledger.close", die_before_commit)

    with pytest.raises(TransientError):
        await filled.copy(filled.job(SLOW), target=target)

    assert await nothing_is_there(filled)


async def test_a_target_that_has_failed_is_noticed_long_before_the_last_row(
    filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WATCH_SECONDS", 0.2)
    await filled.target.execute("ALTER TABLE public.taken ADD CHECK (id <> 1000)")
    await filled.source.execute("UPDATE public.given SET name = repeat('x', 2000)")
    sent = 0

    def count(rows: int, size: int) -> None:
        nonlocal sent
        sent = size

    with pytest.raises(DataError, match="taken_id_check"):
        await filled.copy(filled.job(SLOW), on_progress=count)

    assert sent < ROWS * 2000 * 0.7
    with contextlib.suppress(Exception):
        await filled.source.close()


async def test_a_target_that_dies_while_it_takes_no_bytes_does_not_hang_the_copy(filled: Run) -> None:
    await filled.source.execute("UPDATE public.given SET name = repeat('x', 4000)")
    blocker = await filled.open("blocker")
    await blocker.execute("BEGIN; LOCK TABLE public.taken")
    target = await filled.open("copying target")
    item = SLOW.model_copy(update={"columns": [column("id", "integer"), column("name", "text")]})
    task = asyncio.create_task(filled.copy(filled.job(item), target=target))
    await asyncio.sleep(2)  # by now all buffers are full
    assert not task.done()

    await filled.target.execute(END, target.get_server_pid())

    with pytest.raises(TransientError, match="connection to the target was lost"):
        await asyncio.wait_for(task, 5)
    await blocker.execute("ROLLBACK")
    assert await nothing_is_there(filled)


async def test_a_lock_that_somebody_holds_is_transient_after_the_plans_timeout(
    filled: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WATCH_SECONDS", 0.2)
    blocker = await filled.open("blocker")
    await blocker.execute("BEGIN; LOCK TABLE public.taken")
    job = filled.job(SLOW)
    job = job.model_copy(update={"limits": job.limits.model_copy(update={"lock_timeout": "300ms"})})

    started = time.monotonic()
    with pytest.raises(TransientError) as waited:
        await filled.copy(job)

    assert waited.value.sqlstate == "55P03"
    assert time.monotonic() - started < 5
