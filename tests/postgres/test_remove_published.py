"""A publication that covers the tables of a run: what keeps its rows from going is said, and can be mended."""

import pytest

from knarr.errors import PlanError
from tests.postgres.specimens import Run
from tests.postgres.test_remove import ids
from tests.postgres.test_remove_others import ADDED, seal, take_back, whole


async def test_rows_that_a_publication_keeps_go_with_a_retry_after_what_the_error_says(run: Run) -> None:
    item = await whole(run)
    await seal(run)
    await run.target.execute("ALTER TABLE public.taken DROP CONSTRAINT IF EXISTS taken_pkey")
    await run.target.execute(f"CREATE PUBLICATION feed FOR ALL TABLES; {ADDED}")

    with pytest.raises(PlanError) as stopped:
        await take_back(run, item, "keep theirs")

    assert 'cannot delete from table "taken" because it does not have a replica identity' in stopped.value.message
    assert "ALTER TABLE ... REPLICA IDENTITY FULL" in stopped.value.hint
    assert len(await ids(run)) == 31
    await run.target.execute("ALTER TABLE public.taken REPLICA IDENTITY FULL")
    assert await take_back(run, item, "keep theirs") == 30
    assert await ids(run) == [99]


async def test_the_runs_own_record_can_be_written_under_a_publication_for_all_tables(run: Run) -> None:
    await run.target.execute("CREATE PUBLICATION feed FOR ALL TABLES")

    without_key = """
        SELECT c.relname FROM pg_class c
         WHERE c.relnamespace = 'knarr'::regnamespace AND c.relkind = 'r'
           AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
    """
    assert await run.target.fetch(without_key) == []
