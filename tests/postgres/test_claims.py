"""A claim covers the whole tree that a table stands in: who writes to it writes to its partitions."""

import asyncio
from typing import Any, Final

import pytest

from knarr.audit import chain
from knarr.errors import ClaimRefused
from knarr.plan.resolved import TableName
from knarr.postgres import lease, schema
from knarr.postgres.session import Connection, connect
from tests.postgres.specimens import Run, plan

TAKEN: Final = TableName(schema_name="public", name="taken")
OTHER: Final = TableName(schema_name="public", name="other")

# A table taken, by the fixture's run, with others around it; what another run wants, and what it is told.
FAMILY: Final[dict[str, tuple[str, str, str]]] = {
    "a partition": (
        "CREATE TABLE taken (n int) PARTITION BY RANGE (n); CREATE TABLE part PARTITION OF taken DEFAULT",
        "part",
        "public.taken, of which public.part is a part, is held by run run-1 (plan 'specimen'",
    ),
    "a partition of a partition": (
        "CREATE TABLE taken (n int) PARTITION BY RANGE (n);"
        "CREATE TABLE mid PARTITION OF taken DEFAULT PARTITION BY RANGE (n);"
        "CREATE TABLE part PARTITION OF mid DEFAULT",
        "part",
        "public.taken, of which public.part is a part, is held by run run-1 (plan 'specimen'",
    ),
    "the table that it is a partition of": (
        "CREATE TABLE root (n int) PARTITION BY RANGE (n); CREATE TABLE taken PARTITION OF root DEFAULT",
        "root",
        "public.taken, a part of public.root, is held by run run-1 (plan 'specimen'",
    ),
    "a table that inherits": (
        "CREATE TABLE taken (n int); CREATE TABLE child () INHERITS (taken)",
        "child",
        "public.taken, of which public.child is a part, is held by run run-1 (plan 'specimen'",
    ),
}


@pytest.mark.parametrize("case", FAMILY)
async def test_a_claim_covers_what_is_above_and_below_the_table(case: str, run: Run) -> None:
    tables, wanted, told = FAMILY[case]
    await run.target.execute(f"SET search_path = public; {tables}")

    with pytest.raises(ClaimRefused) as refused:
        await lease.claim(run.target, "run-2", plan(), "1" * 64, [TableName(schema_name="public", name=wanted)])

    assert told in str(refused.value)
    assert await run.target.fetchval("SELECT count(*) FROM knarr.claim") == 1
    assert await run.target.fetchval("SELECT count(*) FROM knarr.run") == 1


async def test_partitions_beside_each_other_may_be_held_by_two_runs_and_all_of_them_by_one(run: Run) -> None:
    await run.target.execute("""
        CREATE TABLE public.root (n int) PARTITION BY RANGE (n);
        CREATE TABLE public.taken PARTITION OF public.root FOR VALUES FROM (0) TO (9);
        CREATE TABLE public.other PARTITION OF public.root DEFAULT;
    """)

    await lease.claim(run.target, "run-2", plan(), "0" * 64, [OTHER])
    await lease.release(run.target, "run-2", "completed")
    own = [OTHER, TableName(schema_name="public", name="root")]
    again = await lease.claim(run.target, run.run_id, plan(), "0" * 64, own)

    assert again == run.lease


async def test_of_two_claims_at_once_the_second_sees_the_first_though_it_names_only_a_partition(
    target: Connection, target_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await schema.install(target)
    await target.execute("CREATE TABLE public.taken (n int) PARTITION BY RANGE (n)")
    await target.execute("CREATE TABLE public.other PARTITION OF public.taken DEFAULT")
    rivals = [await connect(target_dsn, application_name="rival") for _ in range(2)]
    claimed, go_on, append = asyncio.Event(), asyncio.Event(), chain.append

    async def pause(connection: Connection, run_id: str, *rest: Any) -> Any:
        claimed.set()
        await go_on.wait()  # between the claim and its commit
        return await append(connection, run_id, *rest)

    monkeypatch.setattr(chain, "append", pause)
    first = asyncio.create_task(lease.claim(rivals[0], "run-1", plan(), "0" * 64, [TAKEN]))
    await claimed.wait()
    second = asyncio.create_task(lease.claim(rivals[1], "run-2", plan(), "0" * 64, [OTHER]))
    await asyncio.sleep(0.3)
    go_on.set()
    results = await asyncio.gather(first, second, return_exceptions=True)

    assert isinstance(results[0], lease.Lease)
    assert isinstance(results[1], ClaimRefused)
    assert "public.taken, of which public.other is a part, is held by run run-1" in str(results[1])
    for rival in rivals:
        await rival.close()
