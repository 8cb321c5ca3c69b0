"""Rows of somebody else in a table that the run made or filled: found, and left until it was decided about them."""

import re
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal

import pytest

from knarr.audit import chain
from knarr.errors import DataError, PlanError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import ledger
from knarr.postgres.remove import remove_rows
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from tests.postgres.specimens import Run
from tests.postgres.test_remove import ITEM, KEYLESS, ORDER, copied, ids, remove

Mode = Literal["create", "fill"]

ADDED = "INSERT INTO public.taken VALUES (99, 'a guest''s', 'x')"
CHANGED = "UPDATE public.taken SET name = 'used' WHERE id IN (5, 6)"
SWAPPED = "DELETE FROM public.taken WHERE id = 5; INSERT INTO public.taken VALUES (99, 'a guest''s', 'x')"


def of(mode: Mode) -> ResolvedMapping:
    """A mapping of that mode; the tests make its table themselves."""
    return ITEM.model_copy(update={"mode": mode})


async def whole(run: Run, mode: Mode = "create") -> ResolvedMapping:
    """Thirty rows, all of them copied in one phase."""
    item = of(mode).model_copy(update={"phases": {}})
    await copied(run, item, phases=["everyone"])
    return item


async def seal(run: Run) -> None:
    """What the seal leaves once it was taken back; `tests/activities` holds that the activity leaves it too."""
    await chain.append(run.target, run.run_id, "step/seal/-1//1", "step", {"step": "seal", "outcome": "done"})


async def take_back(run: Run, item: ResolvedMapping, changed_since: ChangedSince, phase: str = "everyone") -> int:
    removed = await remove_rows(
        run.target,
        lambda: nullcontext(run.source),
        run.lease,
        run.run_id,
        item,
        phase,
        ORDER,
        changed_since=changed_since,
    )
    return removed.rows


async def decide(run: Run, changed_since: ChangedSince) -> None:
    await run.target.execute("SELECT knarr.decide($1, NULL, $2, 'ann', 'agreed')", run.run_id, changed_since)


async def decisions(run: Run) -> list[str]:
    entries = await chain.read(run.target, run.run_id)
    return [entry.body for entry in entries if entry.kind == "decision" and "changed_since" in entry.body]


@pytest.mark.parametrize("mode", ["create", "fill"])
async def test_a_row_that_was_added_stops_it_before_the_seal_too(mode: Mode, run: Run) -> None:
    item = await whole(run, mode)
    await run.target.execute(ADDED)

    with pytest.raises(DataError, match=r"holds 31 rows, .* put 30 there; 1 of them show") as stopped:
        await take_back(run, item, "stop")

    assert "guest" not in str(stopped.value)
    assert len(await ids(run)) == 31
    assert list(await ledger.phase_totals(run.target, run.run_id, 0)) == ["everyone"]


async def test_the_hint_lists_the_rows_and_says_how_to_decide(run: Run) -> None:
    item = await whole(run)
    await run.target.execute(f"{ADDED}; {CHANGED}")

    with pytest.raises(DataError) as stopped:
        await take_back(run, item, "stop")

    listed = re.search(r"look at them: (.*?); then on the target", stopped.value.hint)
    assert listed is not None
    assert sorted(row["id"] for row in await run.target.fetch(listed[1])) == [5, 6, 99]
    asked = re.search(r"SELECT knarr\.decide\(.*?'restore ours', WHO, WHY\)", stopped.value.hint)
    assert asked is not None
    decide = asked[0].rpartition("SELECT")[2].replace("WHO", "'ann'").replace("WHY", "'agreed'")
    await run.target.execute(f"SELECT {decide}")
    assert await take_back(run, item, "stop") == 30
    assert await ids(run) == []


@pytest.mark.parametrize("mode", ["create", "fill"])
@pytest.mark.parametrize("change", [CHANGED, "DELETE FROM public.taken WHERE id IN (5, 6)"])
async def test_before_the_seal_a_row_that_was_tampered_with_goes_with_the_rest(
    change: str, mode: Mode, run: Run
) -> None:
    item = await whole(run, mode)
    await run.target.execute(change)

    assert await take_back(run, item, "stop") == 30
    assert await ids(run) == []
    assert await decisions(run) == []


async def test_a_row_that_was_added_among_rows_that_were_deleted_stops_it(run: Run) -> None:
    item = await whole(run)
    await run.target.execute("DELETE FROM public.taken WHERE id < 5")
    await run.target.execute(ADDED)

    with pytest.raises(DataError, match="holds 27 rows"):
        await take_back(run, item, "stop")


@pytest.mark.parametrize("mode", ["create", "fill"])
@pytest.mark.parametrize("change", [CHANGED, SWAPPED])
async def test_once_the_run_was_sealed_rows_that_were_changed_or_swapped_stop_it(
    change: str, mode: Mode, run: Run
) -> None:
    item = await whole(run, mode)
    await seal(run)
    await run.target.execute(change)

    with pytest.raises(DataError, match=r"holds 30 rows, .* put 30 there; [12] of them show"):
        await take_back(run, item, "stop")

    assert len(await ids(run)) == 30


@pytest.mark.parametrize("change", ["DELETE FROM public.taken WHERE id = 5", "VACUUM FULL public.taken"])
async def test_what_leaves_only_rows_of_the_run_does_not_stop_it_after_the_seal(change: str, run: Run) -> None:
    item = await whole(run)
    await seal(run)
    await run.target.execute(change)

    assert await take_back(run, item, "stop") == 30
    assert await ids(run) == []


async def test_what_a_repair_of_the_run_wrote_is_its_own(run: Run) -> None:
    item = await whole(run)
    await seal(run)
    async with run.target.transaction():
        await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id < 10")
        assert await ledger.note_repair(run.target, run.lease, run.run_id, 0, "everyone", 0)

    assert await take_back(run, item, "stop") == 30
    assert await ids(run) == []


async def test_restore_ours_empties_the_table_and_the_trail_says_how_many_rows_of_others_went(run: Run) -> None:
    item = await whole(run)
    await seal(run)
    await run.target.execute(f"{ADDED}; {CHANGED}")

    assert await take_back(run, item, "restore ours") == 30
    assert await ids(run) == []
    (decision,) = await decisions(run)
    assert "public.taken: 3 rows written or changed by others went" in decision
    assert "changed_since: restore ours" in decision


async def test_keep_theirs_deletes_only_what_the_run_wrote(run: Run) -> None:
    item = await whole(run, "fill")
    await seal(run)
    await run.target.execute(f"{ADDED}; {CHANGED}")

    assert await take_back(run, item, "keep theirs") == 30
    assert await ids(run) == [5, 6, 99]
    assert await ledger.phase_totals(run.target, run.run_id, 0) == {}
    (decision,) = await decisions(run)
    assert "public.taken: kept 3 rows written or changed by others; 28 rows of the run went" in decision
    again = await remove_rows(run.target, None, run.lease, run.run_id, item, "everyone", ORDER)  # its answer was lost
    assert (again.rows, again.left) == (0, ["3 rows of public.taken that others have written stay"])


async def test_a_persons_decision_comes_before_the_plans(run: Run) -> None:
    item = await whole(run)
    await run.target.execute(ADDED)
    await decide(run, "keep theirs")

    assert await take_back(run, item, "restore ours") == 30
    assert await ids(run) == [99]


async def test_rows_of_others_after_an_empty_source_are_found(run: Run) -> None:
    await run.source.execute("CREATE TABLE public.given (id bigint, code text, name text)")
    await run.target.execute("CREATE TABLE public.taken (id bigint, code text, name text)")
    item = of("create").model_copy(update={"phases": {}})
    await run.store(item)
    await run.copy(run.job(item, phase="everyone", phase_order=ORDER))
    await run.target.execute(ADDED)

    with pytest.raises(DataError, match="holds 1 row, the ledger says that the run put 0 there"):
        await take_back(run, item, "stop")


async def test_rows_in_tables_that_inherit_are_found_and_never_taken_out(run: Run) -> None:
    item = await whole(run)
    await run.target.execute(
        "CREATE TABLE public.heir () INHERITS (public.taken); INSERT INTO public.heir VALUES (99, 'theirs', 'x')"
    )

    with pytest.raises(DataError, match="holds 31 rows"):
        await take_back(run, item, "stop")
    with pytest.raises(DataError, match="holds 1 row where 0 should stay"):
        await take_back(run, item, "restore ours")

    assert len(await ids(run)) == 31


@pytest.mark.parametrize("mode", ["create", "fill"])
async def test_a_ledger_without_transactions_goes_by_counts_alone(mode: Mode, run: Run) -> None:
    item = await whole(run, mode)
    await seal(run)
    await run.target.execute("UPDATE knarr.ledger SET xid = NULL")
    await run.target.execute(f"{CHANGED}; {ADDED}")

    for policy in ("stop", "keep theirs"):
        with pytest.raises(DataError, match="of an older version, does not say to which rows"):
            await take_back(run, item, policy)
    await run.target.execute("DELETE FROM public.taken WHERE id = 99")
    assert await take_back(run, item, "stop") == 30
    assert await ids(run) == []


async def test_a_ledger_without_transactions_and_restore_ours_empty_the_table(run: Run) -> None:
    item = await whole(run)
    await run.target.execute("UPDATE knarr.ledger SET xid = NULL")
    await run.target.execute(ADDED)

    assert await take_back(run, item, "restore ours") == 30
    assert await ids(run) == []


async def test_a_guest_beside_several_phases_stays_by_decision_to_the_end(run: Run) -> None:
    await copied(run)
    await run.target.execute(ADDED)

    with pytest.raises(DataError) as stopped:
        await remove(run, "everyone")
    assert "knarr.decide('run-1', 'public.taken', 'keep theirs', WHO, WHY)" in stopped.value.hint
    await decide(run, "keep theirs")
    assert await remove(run, "everyone") == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28, 99]
    assert await remove(run, "canary") == 7
    assert await ids(run) == [99]
    first, second = await decisions(run)
    assert "23 rows written by phase everyone went; kept 1 row written since" in first
    assert "kept 1 row written or changed by others" in second


@pytest.mark.parametrize("change", [ADDED, CHANGED, SWAPPED])
async def test_restore_ours_takes_rows_of_others_out_with_the_last_of_several_phases(change: str, run: Run) -> None:
    await copied(run)
    await run.target.execute(change)

    with pytest.raises(DataError):
        await remove(run, "everyone")
    await decide(run, "restore ours")
    assert await remove(run, "everyone") == 23
    assert await remove(run, "canary") == 7
    assert await ids(run) == []


async def test_what_the_source_can_tell_is_told_by_it_whatever_was_decided(run: Run) -> None:
    await copied(run)
    await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id IN (4, 5, 6, 8)")
    await decide(run, "restore ours")

    assert await remove(run, "everyone") == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]
    assert await decisions(run) == []


async def test_rows_in_doubt_without_a_key_stay_by_decision(run: Run) -> None:
    await copied(run, KEYLESS)
    await run.target.execute(CHANGED)

    with pytest.raises(PlanError, match="has no key"):
        await remove(run, "everyone", KEYLESS)
    await decide(run, "keep theirs")
    assert await remove(run, "everyone", KEYLESS) == 23
    assert await ids(run) == [4, 5, 6, 8, 12, 16, 20, 24, 28]


async def test_what_a_repair_wrote_is_not_kept_as_somebody_elses(run: Run) -> None:
    await copied(run)
    async with run.target.transaction():
        await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id IN (4, 5)")
        for phase in ORDER:
            assert await ledger.note_repair(run.target, run.lease, run.run_id, 0, phase, 0)
    await run.target.execute(ADDED)
    await decide(run, "keep theirs")

    with pytest.raises(DataError) as stopped:
        await remove(run, "everyone")
    assert "keep theirs" not in stopped.value.hint
    await decide(run, "restore ours")
    assert await remove(run, "everyone") == 23
    assert await remove(run, "canary") == 7
    assert await ids(run) == []


async def test_a_ledger_without_transactions_has_no_way_out_beside_several_phases(run: Run) -> None:
    await copied(run)
    await run.target.execute("UPDATE knarr.ledger SET xid = NULL")
    await run.target.execute(ADDED)
    await decide(run, "restore ours")

    with pytest.raises(DataError, match="holds 31 rows") as stopped:
        await remove(run, "everyone")

    assert "knarr.decide" not in stopped.value.hint
    assert len(await ids(run)) == 31


async def test_a_row_elsewhere_that_points_at_a_row_of_the_phase_stops_it_whatever_was_decided(run: Run) -> None:
    await copied(run)
    await run.target.execute(
        "ALTER TABLE public.taken ADD PRIMARY KEY (id);"
        "CREATE TABLE public.pointing (own bigint REFERENCES public.taken ON DELETE CASCADE);"
        f"INSERT INTO public.pointing VALUES (7); {ADDED}"
    )
    await decide(run, "keep theirs")

    with pytest.raises(DataError, match="point at rows"):
        await remove(run, "everyone")

    assert len(await ids(run)) == 31


async def test_the_source_is_reached_only_when_rows_are_in_doubt(run: Run) -> None:
    await copied(run)
    asked = 0

    def reach() -> AbstractAsyncContextManager[Connection]:
        nonlocal asked
        asked += 1
        return nullcontext(run.source)

    await run.target.execute("UPDATE public.taken SET name = name WHERE id IN (4, 5)")
    assert (await remove_rows(run.target, reach, run.lease, run.run_id, ITEM, "everyone", ORDER)).rows == 23
    assert asked == 1
    assert (await remove_rows(run.target, reach, run.lease, run.run_id, ITEM, "canary", ORDER)).rows == 7
    assert asked == 1


async def test_what_the_source_was_asked_about_in_vain_is_not_taken_out(run: Run) -> None:
    await copied(run)
    await run.target.execute("UPDATE public.taken SET name = CASE id WHEN 6 THEN 'used' ELSE name END WHERE id < 7")
    await decide(run, "keep theirs")

    assert await remove(run, "everyone") == 23
    assert await ids(run) == [1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 28]


async def test_a_partitioned_table_is_looked_at_as_a_whole(run: Run) -> None:
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT n AS id, 'c' AS code, 'x' AS name FROM generate_series(1, 30) AS n"
    )
    await run.target.execute(
        "CREATE TABLE public.taken (id bigint, code text, name text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.low PARTITION OF public.taken FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE public.high PARTITION OF public.taken FOR VALUES FROM (10) TO (100)"
    )
    item = of("fill").model_copy(update={"phases": {}})
    await run.store(item)
    await run.copy(run.job(item, phase="everyone", phase_order=ORDER))
    await run.target.execute(f"INSERT INTO public.high VALUES (99, 'a guest''s', 'x'); {CHANGED}")

    with pytest.raises(DataError, match=r"holds 31 rows, .* 3 of them show"):
        await take_back(run, item, "stop")
    assert await take_back(run, item, "keep theirs") == 30
    assert await ids(run) == [5, 6, 99]
