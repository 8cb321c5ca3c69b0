"""What the survey found is stored once, and read back as it was."""

import pytest

from knarr.errors import LostLease, PlanError
from knarr.plan.models import Plan
from knarr.plan.resolved import Survey
from knarr.postgres import lease, mappings
from knarr.postgres.session import Connection
from tests.postgres.specimens import Run, column, mapping


def survey(*found: object) -> Survey:
    return Survey.model_validate(
        {
            "source_version": "15.1",
            "target_version": "18.6",
            "source_identity": "1/a",
            "target_identity": "2/b",
            "mappings": list(found),
            "objects": [],
            "problems": [{"severity": "warning", "where": "x", "found": "y"}],
        }
    )


FIRST = mapping([column("zeta", "integer"), column("alpha", "text")], key=["zeta"], where="t.x = '$1 \\ \"'")
SECOND = mapping([column("b", "uuid")], number=1, target='od"d')


async def test_a_survey_comes_back_as_it_was(run: Run) -> None:
    await mappings.store_survey(run.target, run.lease, run.run_id, survey(FIRST, SECOND))

    assert await mappings.load_survey(run.target, run.run_id) == survey(FIRST, SECOND)
    assert await mappings.load_mapping(run.target, run.run_id, 0) == FIRST
    assert await mappings.load_mappings(run.target, run.run_id) == [FIRST, SECOND]


async def test_a_repeated_survey_replaces_the_first_until_partitions_exist(run: Run) -> None:
    better = FIRST.model_copy(update={"estimated_rows": 5})
    other = FIRST.model_copy(update={"estimated_rows": 9})
    await mappings.store_survey(run.target, run.lease, run.run_id, survey(FIRST))
    await mappings.store_survey(run.target, run.lease, run.run_id, survey(better))
    await run.store(better)

    await mappings.store_survey(run.target, run.lease, run.run_id, survey(other))
    await mappings.store_mappings(run.target, run.lease, run.run_id, [other])

    assert await mappings.load_mapping(run.target, run.run_id, 0) == better


async def test_the_order_of_a_plans_columns_is_kept(target: Connection, run: Run) -> None:
    plan = Plan.model_validate(
        {
            "name": "ordered",
            "source": "a",
            "target": "b",
            "mappings": [
                {
                    "target": "s.t",
                    "source": "s.t",
                    "key": {"zz": "1", "a": "2"},
                    "columns": {name: {"from": "x"} for name in ("zeta", "b", "alpha", "y")},
                }
            ],
        }
    )
    await lease.claim(target, "run-ordered", plan, "1" * 64, [])

    loaded = await mappings.load_plan(target, "run-ordered")

    assert loaded == plan
    assert list(loaded.mappings[0].columns or {}) == ["zeta", "b", "alpha", "y"]
    assert list(loaded.mappings[0].key) == ["zz", "a"]


async def test_what_is_not_there_is_a_plan_error(run: Run) -> None:
    with pytest.raises(PlanError, match="no mapping 7"):
        await mappings.load_mapping(run.target, run.run_id, 7)
    with pytest.raises(PlanError, match="not known"):
        await mappings.load_plan(run.target, "nobody")
    with pytest.raises(PlanError, match="no survey"):
        await mappings.load_survey(run.target, run.run_id)
    assert await mappings.load_mappings(run.target, "nobody") == []


async def test_a_stale_writer_stores_nothing(run: Run) -> None:
    await lease.raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease):
        await mappings.store_survey(run.target, run.lease, run.run_id, survey(FIRST))

    assert await mappings.load_mappings(run.target, run.run_id) == []
