"""Taking a merge back where somebody else has written meanwhile: nothing of theirs goes without a word."""

import asyncio
import re

import asyncpg
import pytest

from knarr.audit import chain
from knarr.errors import DataError
from knarr.postgres import ledger
from knarr.postgres.undo_log import drop_undo_log
from tests.postgres.occupied import Occupied, merging


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 7)


CHANGES = (
    "UPDATE public.taken SET note = 'changed' WHERE id = 120;"  # a row that we inserted
    "UPDATE public.taken SET score = -1 WHERE id = 80;"  # one that we updated
    "DELETE FROM public.taken WHERE id = 81;"  # another
    "INSERT INTO public.taken (id, name) OVERRIDING SYSTEM VALUE VALUES (5, 'again')"  # one that we deleted
)


async def changed(occupied: Occupied) -> list[tuple[object, ...]]:
    """A merge, then somebody else's changes; returns the rows that there were before."""
    item = merging(delete_missing=True)
    await occupied.prepare(item)
    rows = await occupied.rows("id, name, score, note")
    await occupied.move(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute(CHANGES)
    return rows


async def test_rows_that_somebody_else_changed_stop_the_undo_and_are_found_by_a_query(
    occupied: Occupied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 1000)
    await changed(occupied)
    rows = await occupied.rows()

    with pytest.raises(DataError) as stopped:
        await occupied.undo(merging(delete_missing=True))

    message = str(stopped.value)
    assert "4 rows of public.taken were changed by somebody else since the run wrote them" in message
    assert "as the run's own role: SELECT knarr.decide('run-1', 'public.taken', 'keep theirs', WHO, WHY)" in message
    for part in ("(120) changed", "(80) changed", "(81) deleted", "(5) inserted again"):
        assert part in stopped.value.detail and part not in message
    query = stopped.value.hint.partition("this finds them: ")[2].partition(". Then there: ")[0]
    found = {(row["operation"], *row["key"]) for row in await occupied.target.fetch(query)}
    assert found == {("insert", "120"), ("update", "80"), ("update", "81"), ("delete", "5")}
    assert await occupied.rows() == rows
    assert await occupied.log() == {"insert": 50, "update": 25, "delete": 50}


async def test_all_of_them_are_counted_and_not_those_of_one_batch(occupied: Occupied) -> None:
    await changed(occupied)

    with pytest.raises(DataError) as stopped:
        await occupied.undo(merging(delete_missing=True))

    assert "4 rows of public.taken were changed by somebody else" in str(stopped.value)
    for part in ("(120) changed", "(80) changed or deleted", "(81) changed or deleted", "(5) inserted again"):
        assert part in stopped.value.detail and part not in str(stopped.value)


async def test_theirs_are_kept_and_all_else_is_taken_back(occupied: Occupied) -> None:
    before = {row[0]: row for row in await changed(occupied)}

    undone = await occupied.undo(merging(delete_missing=True), changed_since="keep theirs")

    theirs = {
        120: (120, "new 120", None, "changed"),
        80: (80, "new 80", -1, "theirs"),
        5: (5, "again", None, "ours"),
    }
    expected = before | theirs
    del expected[81]
    assert {row[0]: row for row in await occupied.rows("id, name, score, note")} == expected
    assert (undone.entries, undone.kept) == (125, 4)
    assert undone.left == ["4 rows of public.taken that others have written stay"]
    again = await occupied.undo(merging(delete_missing=True), raised=False)  # its answer was lost
    assert (again.entries, again.left) == (0, undone.left)
    assert "and 3 rows that somebody else has written since" in undone.proof
    decisions = [one.body for one in await chain.read(occupied.target, "run-1") if "changed by somebody" in one.body]
    assert len(decisions) > 1
    assert all(re.search(r"(1 row .* was|\d+ rows .* were) changed by somebody else", body) for body in decisions)
    assert all("they stay as they are" in body and "changed_since: keep theirs" in body for body in decisions)
    assert "(81) deleted" in "".join(decisions)


async def test_ours_are_restored_over_theirs_and_the_table_is_as_it_was(occupied: Occupied) -> None:
    before = await changed(occupied)

    undone = await occupied.undo(merging(delete_missing=True), changed_since="restore ours")

    assert await occupied.rows("id, name, score, note") == before
    assert undone.kept == 0
    assert "100 rows" in undone.proof
    assert undone.proof.endswith("as it must be")
    decisions = [one.body for one in await chain.read(occupied.target, "run-1") if "changed by somebody" in one.body]
    assert all("they become again what they were" in body for body in decisions)


async def test_a_person_decides_when_the_undo_has_stopped(occupied: Occupied) -> None:
    before = await changed(occupied)
    item = merging(delete_missing=True)
    with pytest.raises(DataError, match="changed by somebody else"):
        await occupied.undo(item)
    async with occupied.run.reconnect() as person:
        for wrong, told in (
            (("run-1", None, "keep ours", "ann", "x"), "expected stop, keep theirs or restore ours"),
            (("run-2", None, "stop", "ann", "x"), "run run-2 is not known"),
            (("run-1", "public.token", "stop", "ann", "x"), "no mapping public.token; it has public.taken"),
            (("run-1", None, "stop", "ann", ""), "needs who and why"),
        ):
            with pytest.raises(asyncpg.PostgresError, match=told):
                await person.execute("SELECT knarr.decide($1, $2, $3, $4, $5)", *wrong)
        await person.execute("SELECT knarr.decide('run-1', NULL, 'restore ours', 'ann', 'told \"the\" owner')")

    await occupied.undo(item, raised=False)

    assert await occupied.rows("id, name, score, note") == before
    entries = await chain.read(occupied.target, "run-1")
    [decision] = [entry for entry in entries if entry.kind == "operator"]
    assert '"action":"decide","actor":"ann"' in decision.body
    assert chain.check_chain(entries, await chain.read_head(occupied.target, "run-1"), []) == []


async def test_a_row_of_ours_that_is_gone_is_what_it_was(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    before = await occupied.rows()
    await occupied.move(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("DELETE FROM public.taken WHERE id = 120")

    undone = await occupied.undo(item)

    assert await occupied.rows() == before
    assert undone.proof.endswith("as it must be")


async def test_their_new_rows_stay_and_the_rest_is_proved(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    rows = await occupied.rows()
    await occupied.move(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("INSERT INTO public.taken (id, name) OVERRIDING SYSTEM VALUE VALUES (900, 'guest')")

    undone = await occupied.undo(item)

    assert [row for row in await occupied.rows() if row[0] != 900] == rows
    assert "100 rows with checksum" in undone.proof
    assert "and 1 rows that somebody else has written since" in undone.proof


async def test_a_row_that_they_changed_and_we_never_touched_leaves_the_whole_unproved_and_says_so(
    occupied: Occupied,
) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("UPDATE public.taken SET note = 'busy' WHERE id = 3")

    undone = await occupied.undo(item)

    assert "can't be proved as a whole" in undone.proof
    assert await occupied.rows("id, note", "id IN (3, 80)") == [(3, "busy"), (80, "theirs")]


async def test_a_row_that_they_changed_before_we_did_comes_back_as_theirs(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("UPDATE public.taken SET note = 'busy' WHERE id = 80")
    await occupied.move(item)

    undone = await occupied.undo(item)

    assert await occupied.rows("id, name, note", "id = 80") == [(80, "old 80", "busy")]
    assert "(1 row of theirs met)" in undone.proof


async def test_a_lost_row_without_anybody_to_explain_it_is_a_finding_with_both_figures(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("DELETE FROM public.taken WHERE id = 3")

    with pytest.raises(DataError, match=r"it holds 99 rows with checksum -?\d+, expected 100 with checksum -?\d+"):
        await occupied.undo(item)

    assert list(await ledger.phase_totals(occupied.target, occupied.run.run_id, 0)) == ["all"]
    assert await occupied.log() == {}
    await occupied.somebody("SELECT knarr.decide('run-1', 'public.taken', 'keep theirs', 'ann', 'they deleted it')")
    undone = await occupied.undo(item, raised=False)
    assert "'keep theirs' was decided, and the table can't be proved as a whole" in undone.proof
    assert await ledger.phase_totals(occupied.target, occupied.run.run_id, 0) == {}


async def test_a_changed_value_without_anybody_to_explain_it_is_a_finding(occupied: Occupied) -> None:
    """The oracle of the proof itself: a damaged undo log is seen, whoever damaged it."""
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.target.execute("UPDATE knarr.undo SET before = replace(before, 'theirs', 'hers') WHERE key = '{80}'")

    with pytest.raises(DataError, match="is not what it was"):
        await occupied.undo(item)


async def test_entries_that_are_missing_from_the_log_are_missed(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    assert await drop_undo_log(occupied.target, occupied.run.lease, occupied.run.run_id) == 75

    with pytest.raises(DataError, match=r"made 75 changes .* the undo log had 0"):
        await occupied.undo(item)


async def test_a_table_with_other_columns_is_refused(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.target.execute("ALTER TABLE public.taken ADD COLUMN extra text")

    with pytest.raises(DataError, match="the undo log holds rows of the former"):
        await occupied.undo(item)


async def test_a_row_that_a_new_trigger_changes_is_not_taken_for_restored(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.target.execute(
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.note := NEW.note || ''!''; RETURN NEW; END';"
        "CREATE TRIGGER f BEFORE UPDATE ON public.taken FOR EACH ROW EXECUTE FUNCTION public.f()"
    )

    with pytest.raises(DataError, match="did not become what they were"):
        await occupied.undo(item)


async def test_rows_elsewhere_are_never_deleted_by_a_cascade(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    await occupied.target.execute(
        "CREATE TABLE public.pointing (own bigint REFERENCES public.taken ON DELETE CASCADE);"
        "INSERT INTO public.pointing VALUES (120)"
    )

    with pytest.raises(DataError, match=r"rows of (public\.)?pointing point at rows of public\.taken"):
        await occupied.undo(item)

    assert await occupied.target.fetchval("SELECT count(*) FROM public.pointing") == 1


async def test_a_change_that_commits_while_the_merge_waits_for_its_row_is_the_one_that_comes_back(
    occupied: Occupied,
) -> None:
    """The pre-image is what the merge overwrites, not what it saw when it began."""
    item = merging()
    await occupied.prepare(item)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%knarr_matched%'"
    async with occupied.run.reconnect() as somebody, occupied.run.reconnect() as watching:
        busy = somebody.transaction()
        await busy.start()
        await somebody.execute("UPDATE public.taken SET note = 'busy' WHERE id = 90")
        moving = asyncio.create_task(occupied.move(item))
        async with asyncio.timeout(20):
            while not await watching.fetchval(waits):
                await asyncio.sleep(0.01)
        await busy.commit()
        await moving

    assert await occupied.rows("id, name, note", "id = 90") == [(90, "new 90", "busy")]
    await occupied.undo(item)
    assert await occupied.rows("id, name, note", "id = 90") == [(90, "old 90", "busy")]


async def test_an_error_of_the_server_says_what_helps_an_undo(occupied: Occupied) -> None:
    item = merging()
    await occupied.prepare(item)
    await occupied.move(item)
    async with occupied.run.reconnect() as somebody:
        await somebody.execute("ALTER TABLE public.taken ADD CONSTRAINT new CHECK (name NOT LIKE 'old%') NOT VALID")

    with pytest.raises(DataError) as stopped:
        await occupied.undo(item)

    assert "check violation" in stopped.value.message and 'constraint "new"' in stopped.value.message
    assert "take that constraint away meanwhile, then retry" in stopped.value.hint
    assert "source" not in stopped.value.hint and "plan" not in stopped.value.hint
