"""Undoing where the order of the changes matters: values handed on between rows, and what of others is in the way."""

import pytest

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.resolved import Partition, ResolvedMapping
from tests.postgres.occupied import Occupied
from tests.postgres.specimens import column, mapping

ROWS = 40
GIVEN = f"""
CREATE TABLE public.given AS
SELECT n AS id, 'e' || n AS email, NULL::integer AS parent FROM generate_series(1, {ROWS}) AS n;
"""
TAKEN = f"""
CREATE TABLE public.taken (
    id bigint PRIMARY KEY, email text UNIQUE {{}}, parent integer, note text DEFAULT 'ours');
INSERT INTO public.taken (id, email) SELECT n, 'e' || n FROM generate_series(1, {ROWS}) AS n;
"""
HALVES = [
    Partition(mapping=0, number=0, lower=None, upper=["20"], estimated_rows=0),
    Partition(mapping=0, number=1, lower=["20"], upper=None, estimated_rows=0),
]
# A value goes from row to row: 1 gives it up, 39 takes it, and gives its own to 41, which is new.
HANDED_ON = """
UPDATE public.given SET email = 'new' WHERE id = 1;
UPDATE public.given SET email = 'e1' WHERE id = 39;
INSERT INTO public.given VALUES (41, 'e39', 39);
"""
OTHERS = "knarr.is_others(t.xmin, b.snapshot, ARRAY(SELECT xid FROM knarr.undone))"
BEFORE = [(n, f"e{n}") for n in range(1, ROWS + 1)]
ITSELF = "ALTER TABLE public.taken ADD FOREIGN KEY (parent) REFERENCES public.taken"


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 2)


def item(*, deletes: bool = False) -> ResolvedMapping:
    columns = [column("id", "bigint", source_type="integer"), column("email", "text"), column("parent", "integer")]
    return mapping(columns, key=["id"], mode="merge").model_copy(update={"delete_missing": deletes})


async def merged(occupied: Occupied, *, given: str = HANDED_ON, more: str = "") -> ResolvedMapping:
    merging = item()
    target = TAKEN.format("") + more
    await occupied.prepare(merging, pieces=HALVES, source=GIVEN + given, target=target)
    for piece in HALVES:
        await occupied.move(merging, partition=piece)
    return merging


async def test_values_that_rows_have_handed_on_go_back_the_way_they_came(occupied: Occupied) -> None:
    merging = await merged(occupied)
    assert await occupied.rows("id, email", "id IN (1, 39, 41)") == [(1, "new"), (39, "e1"), (41, "e39")]

    undone = await occupied.undo(merging)

    assert await occupied.rows("id, email") == BEFORE
    assert undone.entries == 3
    assert undone.proof.endswith("as it must be")
    others = "SELECT count(*) FROM public.taken AS t, knarr.table_before AS b WHERE " + OTHERS
    assert await occupied.target.fetchval(others) == 0


async def test_so_they_do_in_a_table_that_points_at_itself(occupied: Occupied) -> None:
    """What is inserted there is taken back last, since others may point at it; here its value is wanted before."""
    handed_on = "UPDATE public.given SET email = 'new' WHERE id = 1; INSERT INTO public.given VALUES (41, 'e1', 1)"
    merging = await merged(occupied, given=handed_on, more=ITSELF)

    await occupied.undo(merging)

    assert await occupied.rows("id, email") == BEFORE


async def test_a_value_that_somebody_else_has_taken_is_said_to_be(occupied: Occupied) -> None:
    merging = await merged(occupied)
    await occupied.somebody("DELETE FROM public.taken WHERE id = 41; INSERT INTO public.taken VALUES (99, 'e39')")

    with pytest.raises(DataError, match="rows of others have their values under taken_email_key") as stopped:
        await occupied.undo(merging)

    assert "retry" in stopped.value.hint
    assert "e39" not in str(stopped.value)
    await occupied.somebody("DELETE FROM public.taken WHERE id = 99")
    await occupied.undo(merging, raised=False)
    assert await occupied.rows("id, email") == BEFORE


@pytest.mark.parametrize("unique", ["", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
async def test_what_theirs_are_in_the_way_of_stays_away_when_they_are_to_be_kept(
    unique: str, occupied: Occupied
) -> None:
    """Rows that the merge deleted; ON CONFLICT can't be asked of a constraint that is deferrable."""
    target = TAKEN.format(unique) + "INSERT INTO public.taken VALUES (60, 'x60'), (61, 'x61')"
    merging = item(deletes=True)
    await occupied.prepare(merging, source=GIVEN, target=target)
    await occupied.move(merging)
    await occupied.somebody("INSERT INTO public.taken VALUES (99, 'x61')")

    undone = await occupied.undo(merging, changed_since="keep theirs")

    assert await occupied.rows("id, email", "id > 50") == [(60, "x60"), (99, "x61")]
    assert (undone.entries, undone.kept) == (2, 1)


async def test_our_row_stays_as_it_is_where_theirs_has_its_value(occupied: Occupied) -> None:
    merging = await merged(occupied)
    await occupied.somebody("DELETE FROM public.taken WHERE id = 41; INSERT INTO public.taken VALUES (99, 'e39')")

    undone = await occupied.undo(merging, changed_since="keep theirs")

    assert await occupied.rows("id, email", "id IN (1, 39, 99)") == [(1, "new"), (39, "e1"), (99, "e39")]
    assert undone.kept == 2
    said = [entry.body for entry in await chain.read(occupied.target, "run-1") if "in their way" in entry.body]
    assert said
    assert all("taken_email_key" in body for body in said)


@pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"])
async def test_rows_elsewhere_that_point_at_what_is_to_go_are_named(when: str, occupied: Occupied) -> None:
    merging = await merged(occupied)
    await occupied.somebody(
        f"CREATE TABLE public.child (id integer PRIMARY KEY, taken bigint REFERENCES public.taken {when});"
        "INSERT INTO public.child VALUES (1, 41)"
    )

    with pytest.raises(
        DataError, match=r"rows of child point at rows of public\.taken that are to be taken back"
    ) as stopped:
        await occupied.undo(merging)

    assert "child_taken_fkey does not let them go" in str(stopped.value)
    assert "source" not in stopped.value.hint
    await occupied.somebody("DELETE FROM public.child")
    await occupied.undo(merging, raised=False)
    assert await occupied.rows("id, email") == BEFORE
