"""What verification remembers: written once, fenced, and checked when it is read."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from knarr.audit import chain
from knarr.errors import DataError, LostLease
from knarr.plan.models import Mapping, Plan
from knarr.plan.resolved import TableName
from knarr.postgres import lease as leases
from knarr.postgres.lease import Lease
from knarr.postgres.schema import install
from knarr.postgres.session import Connection, connect
from knarr.verify import results
from knarr.verify.models import CheckKey, CheckResult, Verdict
from knarr.verify.verdict import conclude

RUN = "shop/1"
KEY = CheckKey(kind="parity", name="shop.t", mapping=0, partition=0)
RESULT = CheckResult(
    **KEY.model_dump(), outcome="passed", source_rows=1, target_rows=1, source_checksum="1/2", target_checksum="1/2",
    seconds=1e-07, sql=["SELECT 'Größe'"],
)  # fmt: skip


@pytest.fixture
async def knarr(target_dsn: str) -> AsyncIterator[Connection]:
    connection = await connect(target_dsn, application_name="test of verification")
    await install(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def lease(knarr: Connection) -> Lease:
    plan = Plan(name="shop", source="a", target="b", mappings=[Mapping(target="shop.t", source="public.t")])
    return await leases.claim(knarr, RUN, plan, "0" * 64, [TableName(schema_name="shop", name="t")])


def concluded(stored: list[CheckResult], round: int = 1, second: int = 0) -> Verdict:
    at = datetime(2026, 11, 24, 0, 0, second, tzinfo=UTC)
    return conclude(
        expected=[KEY],
        results=stored,
        run_id=RUN,
        phase="everyone",
        round=round,
        plan_name="shop",
        plan_hash="0" * 64,
        started_at=at,
        ended_at=at,
    )


async def test_a_stored_result_is_read_back_as_it_was(knarr: Connection, lease: Lease) -> None:
    assert await results.done(knarr, RUN, "everyone", 1, KEY) is None
    assert await results.store(knarr, lease, RUN, "everyone", 1, RESULT) == RESULT
    assert await results.done(knarr, RUN, "everyone", 1, KEY) == RESULT
    assert await results.load(knarr, RUN, "everyone", 1) == [RESULT]
    assert await results.load(knarr, RUN, "everyone", 2) == []
    assert await results.next_round(knarr, RUN, "everyone") == 2
    assert await results.next_round(knarr, RUN, "canary") == 1


async def test_the_first_result_stands(knarr: Connection, lease: Lease) -> None:
    await results.store(knarr, lease, RUN, "everyone", 1, RESULT)
    later = RESULT.model_copy(update={"outcome": "failed", "findings_total": 1})
    assert await results.store(knarr, lease, RUN, "everyone", 1, later) == RESULT


async def test_a_stale_verifier_stores_nothing(knarr: Connection, lease: Lease) -> None:
    await leases.raise_epoch(knarr, RUN)
    with pytest.raises(LostLease):
        await results.store(knarr, lease, RUN, "everyone", 1, RESULT)
    with pytest.raises(LostLease):
        await results.store_verdict(knarr, lease, concluded([RESULT]))
    assert await knarr.fetchval("SELECT count(*) FROM knarr.check_result") == 0
    assert await knarr.fetchval("SELECT count(*) FROM knarr.verdict") == 0


async def test_a_verdict_and_its_audit_entry_are_written_together(knarr: Connection, lease: Lease) -> None:
    verdict = concluded([RESULT])
    head = await results.store_verdict(knarr, lease, verdict)
    assert head == await chain.read_head(knarr, RUN)
    entry = (await chain.read(knarr, RUN))[-1]
    assert entry.kind == "verdict" and verdict.digest in entry.body
    assert await results.load_verdict(knarr, RUN, "everyone", 1) == verdict
    assert await results.latest_verdict(knarr, RUN) == verdict
    # A retry that concluded a moment later changes nothing.
    assert await results.store_verdict(knarr, lease, concluded([RESULT], second=9)) == head
    assert await results.load_verdict(knarr, RUN, "everyone", 1) == verdict


async def test_the_newest_verdict_is_found_and_can_be_withdrawn(knarr: Connection, lease: Lease) -> None:
    assert await results.newest_verdict(knarr, RUN) is None and await results.latest_verdict(knarr, RUN) is None
    await results.store_verdict(knarr, lease, concluded([], round=1, second=1))
    await results.store_verdict(knarr, lease, concluded([RESULT], round=2, second=2))
    newest = await results.newest_verdict(knarr, RUN)
    assert newest is not None and (newest.round, newest.passed, newest.withdrawn) == (2, True, False)
    async with leases.fenced(knarr, lease):
        assert await results.withdraw(knarr, RUN, "everyone") == 2
        assert await results.withdraw(knarr, RUN, "everyone") == 0
    newest = await results.newest_verdict(knarr, RUN)
    assert newest is not None and newest.withdrawn


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE knarr.verdict SET passed = true",
        "UPDATE knarr.verdict SET document = jsonb_set(document, '{passed}', 'true')",
        "UPDATE knarr.verdict SET digest = repeat('0', 64)",
        "UPDATE knarr.verdict SET document = jsonb_set(document, '{checks,0,outcome}', '\"passed\"')",
    ],
)
async def test_an_edited_verdict_is_noticed(knarr: Connection, lease: Lease, edit: str) -> None:
    await results.store_verdict(knarr, lease, concluded([]))
    await knarr.execute(edit)
    with pytest.raises(DataError, match="not what was written"):
        await results.load_verdict(knarr, RUN, "everyone", 1)


async def test_an_edited_result_is_noticed(knarr: Connection, lease: Lease) -> None:
    failed = RESULT.model_copy(update={"outcome": "failed", "findings_total": 1})
    await results.store(knarr, lease, RUN, "everyone", 1, failed)
    await knarr.execute("UPDATE knarr.check_result SET outcome = 'passed'")
    with pytest.raises(DataError, match="not what was written"):
        await results.load(knarr, RUN, "everyone", 1)
