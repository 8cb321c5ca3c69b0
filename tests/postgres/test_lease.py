"""At most one run holds a table, a stale writer commits nothing, and raising the epoch never waits for busy writers."""

import asyncio
import contextlib
import time

import pytest

from knarr.audit import chain
from knarr.errors import ClaimRefused, LostLease, PlanError, TransientError
from knarr.plan.models import Limits
from knarr.plan.resolved import TableName
from knarr.postgres import lease, schema
from knarr.postgres.failures import classified
from knarr.postgres.session import Connection, connect
from knarr.postgres.transactions import transaction
from tests.postgres.specimens import Run, gone, plan

TAKEN = TableName(schema_name="public", name="taken")
OTHER = TableName(schema_name="public", name="other")


async def test_installing_twice_is_as_once_also_at_the_same_time(target: Connection, target_dsn: str) -> None:
    others = [await connect(target_dsn, application_name="installer") for _ in range(6)]

    await asyncio.gather(*(schema.install(connection) for connection in [target, *others]))
    await schema.install(target)

    assert await target.fetchval("SELECT version FROM knarr.version") == schema.VERSION
    for connection in others:
        await connection.close()


async def test_a_schema_of_another_version_is_refused(target: Connection) -> None:
    await schema.install(target)
    await target.execute("UPDATE knarr.version SET version = 99")

    with pytest.raises(PlanError, match="version 99"):
        await schema.install(target)


async def test_a_claim_made_again_returns_the_same_lease(run: Run) -> None:
    again = await lease.claim(run.target, run.run_id, plan(), "0" * 64, [TAKEN])

    assert again == run.lease
    assert [entry.kind for entry in await chain.read(run.target, run.run_id)] == ["run started"]


async def test_a_second_run_on_the_same_table_is_refused_by_the_holders_name(run: Run) -> None:
    with pytest.raises(ClaimRefused) as refused:
        await lease.claim(run.target, "run-2", plan("rival"), "1" * 64, [OTHER, TAKEN])

    assert "public.taken is held by run run-1 (plan 'specimen'" in str(refused.value)
    assert await run.target.fetchval("SELECT count(*) FROM knarr.claim") == 1
    assert await run.target.fetchval("SELECT count(*) FROM knarr.run") == 1


async def test_a_run_can_not_go_on_with_another_plan(run: Run) -> None:
    with pytest.raises(PlanError, match="another plan"):
        await lease.claim(run.target, run.run_id, plan(), "f" * 64, [TAKEN])


async def test_of_twenty_claims_at_once_one_wins(target: Connection, target_dsn: str) -> None:
    await schema.install(target)
    rivals = [await connect(target_dsn, application_name="rival") for _ in range(20)]

    async def start(number: int) -> lease.Lease | ClaimRefused:
        tables = [TAKEN, OTHER] if number % 2 else [OTHER, TAKEN]
        try:
            return await lease.claim(rivals[number], f"run-{number}", plan(), "0" * 64, tables)
        except ClaimRefused as refused:
            return refused

    results = await asyncio.gather(*(start(number) for number in range(20)))

    winners = [result for result in results if isinstance(result, lease.Lease)]
    refusals = [result for result in results if isinstance(result, ClaimRefused)]
    holder = await target.fetchval("SELECT DISTINCT run_id FROM knarr.claim")
    assert len(winners) == 1
    assert len(refusals) == 19
    assert all(f"is held by run {holder}" in str(refusal) for refusal in refusals)
    assert await target.fetchval("SELECT count(*) FROM knarr.run") == 1
    for rival in rivals:
        await rival.close()


async def test_a_writer_with_the_current_epoch_commits(run: Run) -> None:
    await run.target.execute("CREATE TABLE public.taken (n integer)")

    async with lease.fenced(run.target, run.lease, limits=Limits(lock_timeout="2s", statement_timeout="7s")):
        await run.target.execute("INSERT INTO public.taken VALUES (1)")
        assert await run.target.fetchval("SHOW lock_timeout") == "2s"
        assert await run.target.fetchval("SHOW statement_timeout") == "7s"

    assert await run.target.fetchval("SELECT count(*) FROM public.taken") == 1
    assert await run.target.fetchval("SHOW lock_timeout") == "30s"


async def test_a_stale_writer_cannot_commit(run: Run) -> None:
    await run.target.execute("CREATE TABLE public.taken (n integer)")
    await lease.raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease), classified("writing"):
        async with lease.fenced(run.target, run.lease):
            await run.target.execute("INSERT INTO public.taken VALUES (1)")

    assert await run.target.fetchval("SELECT count(*) FROM public.taken") == 0


async def test_a_writer_that_is_behind_the_fence_when_the_epoch_is_raised_commits_nothing(run: Run) -> None:
    await run.target.execute("CREATE TABLE public.taken (n integer)")
    zombie = await run.open("zombie")

    with pytest.raises(TransientError), classified("writing"):
        async with lease.fenced(zombie, run.lease):
            await zombie.execute("INSERT INTO public.taken VALUES (1)")
            raised = await lease.raise_epoch(run.target, run.run_id, reason="test")

    assert raised.epoch == run.lease.epoch + 1
    assert await run.target.fetchval("SELECT count(*) FROM public.taken") == 0


async def test_the_fence_refuses_a_snapshot_older_than_its_lock(run: Run) -> None:
    for isolation in ("repeatable_read", "serializable"):
        with pytest.raises(LostLease, match="READ COMMITTED"), classified("writing"):
            async with run.target.transaction(isolation=isolation):
                await lease.fence(run.target, run.lease)


async def test_the_intent_to_raise_is_audited_before_anything_is_ended(run: Run) -> None:
    zombie = await run.open("zombie")
    await zombie.execute("BEGIN")
    await lease.fence(zombie, run.lease)
    await run.target.execute("BEGIN; LOCK TABLE knarr.audit_head")
    other = await run.open("raiser")

    raising = asyncio.create_task(lease.raise_epoch(other, run.run_id, reason="a test"))
    await asyncio.sleep(0.3)
    alive = await zombie.fetchval("SELECT true")  # the entry can't be written yet, so nobody was ended
    await run.target.execute("ROLLBACK")
    await raising

    assert alive
    assert await gone(run.target, "zombie")
    last = (await chain.read(run.target, run.run_id))[-1]
    assert (last.kind, last.key) == ("decision", "raise epoch 1")
    assert '"reason":"a test"' in last.body


async def test_raising_does_not_wait_for_busy_writers(run: Run) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            with contextlib.suppress(TransientError, LostLease), classified("writing"):
                connection = await run.open("busy")
                while not stop.is_set():
                    async with lease.fenced(connection, run.lease):
                        await connection.execute("SELECT pg_sleep(0.2)")

    writers = [asyncio.create_task(write()) for _ in range(8)]
    await asyncio.sleep(0.6)

    started = time.monotonic()
    raised = await lease.raise_epoch(run.target, run.run_id)
    took = time.monotonic() - started

    stop.set()
    await asyncio.gather(*writers)
    assert raised.epoch == 2
    assert took < 2.0


async def test_raising_gives_up_on_a_writer_that_can_not_be_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RAISE_SECONDS", 0.5)
    monkeypatch.setattr(lease, "END_HOLDERS", "SELECT $1::bigint, $2::bigint")
    writer = await run.open("writer")
    await writer.execute("BEGIN")
    await lease.fence(writer, run.lease)

    with pytest.raises(TransientError, match="did not end"):
        await lease.raise_epoch(run.target, run.run_id)

    assert await run.target.fetchval("SELECT epoch FROM knarr.lease") == 1
    assert await run.target.fetchval("SELECT true")


async def test_a_step_lock_ends_the_attempt_before_but_nobody_else(run: Run) -> None:
    older, unrelated, newer = [await run.open("attempt") for _ in range(3)]
    await older.execute("BEGIN")
    await lease.step_lock(older, "run-1/0/all/3")
    await unrelated.execute("BEGIN")
    await lease.step_lock(unrelated, "run-1/0/all/4")

    await newer.execute("BEGIN")
    await lease.step_lock(newer, "run-1/0/all/3")
    await lease.step_lock(newer, "run-1/0/all/3")

    with pytest.raises(TransientError), classified("writing"):
        await older.execute("SELECT 1")
    assert await unrelated.fetchval("SELECT true")
    assert await newer.fetchval("SELECT true")


async def test_releasing_frees_the_tables_and_fences_the_last_writers(run: Run) -> None:
    await lease.release(run.target, run.run_id, "completed")
    await lease.release(run.target, run.run_id, "completed")

    with pytest.raises(LostLease), classified("writing"):
        async with lease.fenced(run.target, run.lease):
            await run.target.execute("SELECT 1")
    with pytest.raises(ClaimRefused, match="has ended"):
        await lease.claim(run.target, run.run_id, plan(), "0" * 64, [TAKEN])
    next_run = await lease.claim(run.target, "run-2", plan(), "0" * 64, [TAKEN])
    assert next_run.lease_id != run.lease.lease_id
    assert await run.target.fetchval("SELECT state FROM knarr.run WHERE run_id = 'run-1'") == "completed"
    assert [entry.kind for entry in await chain.read(run.target, run.run_id)] == ["run started", "run ended"]


async def test_a_raise_that_is_cancelled_while_it_waits_leaves_nothing_behind(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "END_HOLDERS", "SELECT $1::bigint, $2::bigint")
    writer = await run.open("writer")
    await writer.execute("BEGIN")
    await lease.fence(writer, run.lease)
    raiser = await run.open("raiser")

    raising = asyncio.create_task(lease.raise_epoch(raiser, run.run_id))
    await asyncio.sleep(0.4)
    raising.cancel()
    with pytest.raises(asyncio.CancelledError):
        await raising

    assert raiser.is_closed()
    assert await gone(run.target, "raiser")
    assert await run.target.fetchval("SELECT epoch FROM knarr.lease") == 1


async def test_a_writer_that_froze_with_the_trails_head_in_its_hand_does_not_stop_a_raise(run: Run) -> None:
    frozen = await run.open("frozen")
    await frozen.execute("BEGIN")
    await lease.fence(frozen, run.lease)
    await chain.append(frozen, run.run_id, "a copy", "copy", {})

    raised = await lease.raise_epoch(run.target, run.run_id)

    assert raised.epoch == 2
    kinds = [entry.kind for entry in await chain.read(run.target, run.run_id)]
    assert kinds == ["run started", "decision"]


async def test_what_a_run_commits_is_on_the_disk_whatever_the_role_has_set(run: Run) -> None:
    """A commit that a crash may lose is one that Temporal's history knows of, and the target no longer does."""
    await run.target.execute("SET synchronous_commit = off")

    async with lease.fenced(run.target, run.lease):
        assert await run.target.fetchval("SHOW synchronous_commit") == "on"
    async with transaction(run.target):
        await chain.append(run.target, run.run_id, "key", "step", {})
        assert await run.target.fetchval("SHOW synchronous_commit") == "on"
    assert await run.target.fetchval("SHOW synchronous_commit") == "off"
    await run.target.execute("SET synchronous_commit = remote_apply")
    async with lease.fenced(run.target, run.lease):
        assert await run.target.fetchval("SHOW synchronous_commit") == "remote_apply"
