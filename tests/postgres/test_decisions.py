"""A person's decision about rows of others: about one table, in the undoing that has stopped for it, and no further."""

from contextlib import nullcontext

import asyncpg
import pytest

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.resolved import TableName
from knarr.postgres import lease, others
from knarr.postgres.unwind import unwind
from tests.postgres.specimens import Run
from tests.postgres.test_remove import ITEM, ids
from tests.postgres.test_remove_others import ADDED, take_back, whole

OTHER = ITEM.model_copy(update={"number": 1, "target": TableName(schema_name="public", name="other")})
DECIDE = "SELECT knarr.decide($1, $2, 'restore ours', 'ann', 'agreed')"


async def test_a_decision_about_one_table_is_none_about_another(run: Run) -> None:
    await run.store(ITEM, OTHER)

    await run.target.execute(DECIDE, run.run_id, "public.taken")
    assert await others.policy(run.target, run.run_id, 0, "stop") == "restore ours"
    assert await others.policy(run.target, run.run_id, 1, "stop") == "stop"

    await run.target.execute("SELECT knarr.decide($1, NULL, 'keep theirs', 'ann', 'agreed')", run.run_id)
    for mapping in (0, 1):
        assert await others.policy(run.target, run.run_id, mapping, "stop") == "keep theirs"


async def test_a_decision_does_not_outlive_its_undoing(run: Run) -> None:
    """Back to a checkpoint, on again, and back once more: the second time there are other rows."""
    item = await whole(run)
    await run.target.execute(ADDED)
    await run.target.execute(DECIDE, run.run_id, item.name)
    assert await take_back(run, item, "stop") == 30
    await run.copy(run.job(item, phase="everyone", phase_order=["canary", "everyone"], attempt=2))
    await run.target.execute(ADDED)

    run.lease = await lease.raise_epoch(run.target, run.run_id)  # as every rollback does first

    with pytest.raises(DataError, match="1 of them show transactions that are not the run's"):
        await take_back(run, item, "stop")
    assert len(await ids(run)) == 31


async def test_what_was_decided_at_a_stop_of_doctors_holds_when_it_is_told_to_go_on(run: Run) -> None:
    item = await whole(run)
    await run.target.execute(ADDED)
    # Left from an undoing of the workflow's: nobody has decided about what doctor will find.
    await run.target.execute(DECIDE, run.run_id, item.name)

    async def by_doctor() -> int:
        done = await unwind(run.target, lambda: nullcontext(run.source), run.run_id, actor="ann", reason="gone")
        return done.rows

    with pytest.raises(DataError, match="1 of them show transactions that are not the run's"):
        await by_doctor()
    with pytest.raises(DataError, match="1 of them show transactions that are not the run's"):
        await by_doctor()
    await run.target.execute(DECIDE, run.run_id, item.name)
    assert await by_doctor() == 30
    assert await ids(run) == []


async def test_decisions_in_one_transaction_are_all_in_the_trail(run: Run) -> None:
    await run.store(ITEM, OTHER)

    async with run.target.transaction():
        await run.target.execute(DECIDE, run.run_id, "public.taken")
        await run.target.execute(DECIDE, run.run_id, "public.other")

    said = [entry.body for entry in await chain.read(run.target, run.run_id) if entry.kind == "operator"]
    assert ["rows of public.taken" in said[0], "rows of public.other" in said[1]] == [True, True]


async def test_a_run_that_has_ended_takes_no_decision(run: Run) -> None:
    await run.store(ITEM)
    await lease.release(run.target, run.run_id, "rolled back")

    with pytest.raises(asyncpg.NoDataFoundError, match="run run-1 is not known in this database, or has ended"):
        await run.target.execute(DECIDE, run.run_id, None)
