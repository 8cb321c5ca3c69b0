"""A phase's rows are taken back exactly, or nothing is touched and the error says what stands in the way."""

from contextlib import nullcontext

import pytest

from knarr.audit import chain
from knarr.errors import DataError, LostLease, PlanError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import lease, ledger
from knarr.postgres.remove import remove_rows
from tests.postgres.specimens import Run, column, mapping

ORDER = ["canary", "everyone"]
COLUMNS = [column("id", "bigint", source_type="integer"), column("code", "text"), column("name", "text")]
ITEM = mapping(COLUMNS, key=["id", "code"], phases={"canary": "t.id % 4 = 0"})
KEYLESS = mapping(COLUMNS, phases={"canary": "t.id % 4 = 0"})


async def copied(run: Run, item: ResolvedMapping = ITEM, *, phases: list[str] | None = None) -> None:
    """Thirty rows at the source, and the asked phases of them on the target."""
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT n AS id, 'o''' || n AS code, 'x' AS name FROM generate_series(1, 30) AS n"
    )
    await run.target.execute("CREATE TABLE public.taken (id bigint, code text, name text)")
    await run.store(item)
    for phase in ORDER if phases is None else phases:
        await run.copy(run.job(item, phase=phase, phase_order=ORDER))


async def remove(run: Run, phase: str, item: ResolvedMapping = ITEM) -> int:
    removed = await remove_rows(run.target, lambda: nullcontext(run.source), run.lease, run.run_id, item, phase, ORDER)
    return removed.rows


async def ids(run: Run) -> list[int]:
    return [row["id"] for row in await run.target.fetch("SELECT id FROM public.taken ORDER BY id")]


async def test_phases_are_taken_back_one_after_the_other(run: Run) -> None:
    await copied(run)

    assert await remove(run, "everyone") == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]
    assert await remove(run, "canary") == 7
    assert await ids(run) == []
    assert await ledger.phase_totals(run.target, run.run_id, 0) == {}


async def test_a_phase_that_was_taken_back_can_be_copied_again(run: Run) -> None:
    await copied(run)
    run.lease = await lease.raise_epoch(run.target, run.run_id)  # as every rollback does first
    await remove(run, "everyone")

    outcome = await run.copy(run.job(ITEM, phase="everyone", phase_order=ORDER, attempt=2))

    assert (outcome.rows, outcome.already_done) == (23, False)
    assert outcome.audit_position == len(await chain.read(run.target, run.run_id))
    assert await ids(run) == list(range(1, 31))


async def test_taking_back_nothing_is_nothing_and_twice_is_once(run: Run) -> None:
    await copied(run, phases=["canary"])

    assert await remove(run, "everyone") == 0
    assert await remove(run, "canary") == 7
    assert await remove(run, "canary") == 0


async def test_taking_back_holds_when_the_table_is_not_there(run: Run) -> None:
    await copied(run)
    await run.target.execute("DROP TABLE public.taken")

    assert await remove(run, "everyone") == 23
    assert await ledger.missing_partitions(run.target, run.run_id, 0, "everyone") == [0]


async def test_a_row_of_somebody_else_is_not_taken_away(run: Run) -> None:
    await copied(run, phases=["canary"])
    await run.target.execute("INSERT INTO public.taken VALUES (99, 'guest', 'guest')")

    with pytest.raises(DataError, match="holds 8 rows, the ledger says that the run put 7 there"):
        await remove(run, "canary")

    assert len(await ids(run)) == 8
    assert list(await ledger.phase_totals(run.target, run.run_id, 0)) == ["canary"]


async def test_rows_that_have_changed_phase_at_the_source_are_taken_back_by_what_was_copied(run: Run) -> None:
    moving = ITEM.model_copy(update={"phases": {"canary": "t.name = 'early'"}})
    await run.source.execute(
        "CREATE TABLE public.given AS SELECT n AS id, 'c' AS code, CASE WHEN n <= 7 THEN 'early' ELSE 'late' END AS "
        "name FROM generate_series(1, 30) AS n"
    )
    await run.target.execute("CREATE TABLE public.taken (id bigint, code text, name text)")
    await run.store(moving)
    for phase in ORDER:
        await run.copy(run.job(moving, phase=phase, phase_order=ORDER))
    # As many as before in each phase, and not the same ones.
    await run.source.execute("UPDATE public.given SET name = CASE id WHEN 1 THEN 'late' ELSE 'early' END WHERE id < 9")

    assert await remove(run, "everyone", moving) == 23
    assert await ids(run) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_source_that_is_gone_does_not_stop_it(run: Run) -> None:
    await copied(run)
    await run.source.execute("DROP TABLE public.given")

    assert (await remove_rows(run.target, None, run.lease, run.run_id, ITEM, "everyone", ORDER)).rows == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


@pytest.mark.parametrize("rewrite", ["VACUUM FREEZE public.taken", "VACUUM FULL public.taken"])
async def test_rows_are_known_after_the_server_has_frozen_or_moved_them(rewrite: str, run: Run) -> None:
    await copied(run)
    await run.target.execute(rewrite)

    assert await remove(run, "everyone") == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


async def test_rows_of_another_phase_that_somebody_has_changed_stay(run: Run) -> None:
    await copied(run)
    await run.target.execute("UPDATE public.taken SET name = 'used', id = -id WHERE id IN (4, 8)")

    assert await remove(run, "everyone") == 23
    assert sorted(abs(number) for number in await ids(run)) == [4, 8, 12, 16, 20, 24, 28]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE public.taken SET name = 'used' WHERE id IN (5, 6)",
        "DELETE FROM public.taken WHERE id = 5; INSERT INTO public.taken (id, name) VALUES (99, 'a guest')",
    ],
)
async def test_a_row_of_somebody_elses_is_not_taken_for_the_phases_because_the_counts_agree(
    change: str, run: Run
) -> None:
    await copied(run)
    await run.target.execute(change)
    before = await ids(run)

    with pytest.raises(DataError, match="of them are its own"):
        await remove(run, "everyone")
    assert await ids(run) == before


async def test_rows_that_were_changed_before_the_phase_began_are_not_its_own(run: Run) -> None:
    await copied(run, phases=["canary"])
    await run.target.execute("UPDATE public.taken SET name = 'used' WHERE id = 4")
    await run.copy(run.job(ITEM, phase="everyone", phase_order=ORDER))

    assert (await remove_rows(run.target, None, run.lease, run.run_id, ITEM, "everyone", ORDER)).rows == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


async def rewritten(run: Run) -> None:
    """Two rows of each phase are written anew, as a repair does: with what the source says."""
    await run.target.execute("UPDATE public.taken SET name = 'x' WHERE id IN (4, 5, 6, 8)")


async def test_rows_of_several_phases_that_were_written_anew_are_told_apart_by_the_source(run: Run) -> None:
    await copied(run)
    await rewritten(run)

    assert await remove(run, "everyone") == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


@pytest.mark.parametrize(
    "moved",
    [
        "UPDATE public.given SET name = 'y' WHERE id = 4",
        "UPDATE public.given SET name = 'y' WHERE id = 5",
        "DELETE FROM public.given WHERE id = 6",
        "UPDATE public.given SET id = CASE id WHEN 5 THEN 8 ELSE 5 END WHERE id IN (5, 8)",
        "UPDATE public.given SET id = 100 WHERE id = 8",
    ],
)
async def test_a_source_that_has_moved_on_can_not_tell_rows_apart_and_nothing_is_changed(moved: str, run: Run) -> None:
    await copied(run)
    await rewritten(run)
    await run.source.execute(moved)

    with pytest.raises(DataError, match="it has moved on since, so it can't tell whose they are"):
        await remove(run, "everyone")

    assert len(await ids(run)) == 30
    assert sorted(await ledger.phase_totals(run.target, run.run_id, 0)) == ORDER


async def test_rows_that_can_not_be_told_apart_stop_it_without_a_source_and_without_a_key(run: Run) -> None:
    await copied(run)
    await rewritten(run)

    with pytest.raises(PlanError, match="only the source can tell, and there is no connection to it"):
        await remove_rows(run.target, None, run.lease, run.run_id, ITEM, "everyone", ORDER)
    with pytest.raises(PlanError, match="has no key"):
        await remove(run, "everyone", KEYLESS)

    assert len(await ids(run)) == 30


async def test_a_guest_beside_several_phases_is_not_taken_away(run: Run) -> None:
    await copied(run)
    await run.target.execute("INSERT INTO public.taken VALUES (99, 'guest', 'guest')")

    with pytest.raises(DataError, match="holds 31 rows, the ledger says that the run put 30 there, 23 of them in"):
        await remove(run, "everyone")

    assert len(await ids(run)) == 31


async def test_a_table_that_others_point_at_is_emptied_without_truncating(run: Run) -> None:
    await copied(run)
    await run.target.execute(
        "ALTER TABLE public.taken ADD PRIMARY KEY (id);"
        "CREATE TABLE public.pointing (id bigint REFERENCES public.taken ON DELETE CASCADE)"
    )

    assert await remove(run, "everyone") == 23
    assert await remove(run, "canary") == 7
    assert await ids(run) == []


@pytest.mark.parametrize("phase", ORDER)
async def test_rows_elsewhere_are_never_deleted_by_a_cascade(phase: str, run: Run) -> None:
    await copied(run, phases=ORDER if phase == "everyone" else ["canary"])
    await run.target.execute(
        "ALTER TABLE public.taken ADD PRIMARY KEY (id);"
        "CREATE TABLE public.pointing (own bigint REFERENCES public.taken ON DELETE CASCADE);"
        f"INSERT INTO public.pointing VALUES ({5 if phase == 'everyone' else 8})"
    )

    with pytest.raises(DataError, match=r"rows of (public\.)?pointing point at rows of public\.taken"):
        await remove(run, phase)

    assert await run.target.fetchval("SELECT count(*) FROM public.pointing") == 1


async def test_rows_elsewhere_that_point_at_another_phase_are_not_in_the_way(run: Run) -> None:
    await copied(run)
    await run.target.execute(
        "ALTER TABLE public.taken ADD PRIMARY KEY (id);"
        "CREATE TABLE public.pointing (own bigint REFERENCES public.taken ON DELETE CASCADE);"
        "INSERT INTO public.pointing VALUES (8)"
    )

    assert await remove(run, "everyone") == 23
    assert await run.target.fetchval("SELECT count(*) FROM public.pointing") == 1


async def test_without_a_key_one_of_several_phases_is_taken_back(run: Run) -> None:
    await copied(run, KEYLESS)

    assert await remove(run, "everyone", KEYLESS) == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


async def test_without_a_key_a_single_phase_is_taken_back(run: Run) -> None:
    await copied(run, KEYLESS, phases=["everyone"])

    assert await remove(run, "everyone", KEYLESS) == 23


async def test_more_rows_in_doubt_than_a_batch_are_told_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.doubt.BATCH", 5)
    await copied(run)
    await run.target.execute("UPDATE public.taken SET name = name")

    assert await remove(run, "everyone") == 23
    assert await ids(run) == [4, 8, 12, 16, 20, 24, 28]


async def test_rows_in_doubt_are_told_apart_whatever_their_types(run: Run) -> None:
    columns = [
        column("id", "bigint", source_type="integer"),
        column("amount", "numeric"),
        column("body", "json", source_type="json"),
        column("mood", "text", category="enum"),
        column("at", "timestamp with time zone"),
        column("part", "real"),
        column("code", "character varying(5)"),
        column("made", "text", expression="'not what the transform made'"),
    ]
    item = mapping(columns, key=["id"], phases={"canary": "t.id % 4 = 0"}, transform_columns=["made"])
    await run.source.execute(
        "CREATE TYPE public.mood AS ENUM ('sad', 'glad');"
        "CREATE TABLE public.given AS SELECT n AS id, n / 3.0 AS amount, json_build_object('n', n) AS body, "
        "'glad'::public.mood AS mood, now() AS at, (n / 7.0)::real AS part, CASE n WHEN 5 THEN NULL ELSE 'ab ' END "
        "AS code FROM generate_series(1, 12) AS n"
    )
    await run.target.execute(
        "CREATE TYPE public.mood AS ENUM ('sad', 'glad');"
        "CREATE TABLE public.taken (id bigint, amount numeric, body json, mood public.mood, at timestamptz, part real,"
        " code varchar(5), made text)"
    )
    await run.store(item)
    for phase in ORDER:
        await run.copy(run.job(item, phase=phase, phase_order=ORDER))
    await run.target.execute("UPDATE public.taken SET made = 'by the transform'")

    assert await remove(run, "everyone", item) == 9
    assert await ids(run) == [4, 8, 12]


async def test_an_appending_mapping_has_an_undo_of_its_own(run: Run) -> None:
    with pytest.raises(PlanError, match="mode is 'append'"):
        await remove(run, "canary", ITEM.model_copy(update={"mode": "append"}))


async def test_a_stale_writer_takes_nothing_back(run: Run) -> None:
    await copied(run)
    await lease.raise_epoch(run.target, run.run_id)

    with pytest.raises(LostLease):
        await remove(run, "everyone")

    assert len(await ids(run)) == 30
