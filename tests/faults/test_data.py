"""Data and schemas that are not what the plan thought: poisoned rows, a huge row, tables changed under the run."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from temporalio.client import WorkflowHandle

from tests.faults import oracle
from tests.faults.record import recorded
from tests.faults.shop import CUSTOMER, NOTE, ORDER, PLAN, Expected
from tests.faults.stage import Theatre, play
from tests.saga.scene import run_script

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

BACK: Final = "the run names what is wrong and takes itself back; the target equals its dump before"
SLOW: Final = pytest.mark.slow
MEGABYTES: Final = 200
# asyncpg holds a row as it comes and joined, and the one before it until then (a single such row takes 483 MiB).
MOST_MEMORY: Final = (3 * MEGABYTES + 100) << 20


class Poison(NamedTuple):
    """A change of the source, a change of the plan's mapping, and a word that the run's end must tell."""

    name: str
    source: str
    order: dict[str, Any]
    told: str


def with_total(expression: str) -> dict[str, Any]:
    """The mapping of orders with another expression for the total."""
    return ORDER | {"columns": ORDER["columns"] | {"total": {"from": expression, "type": "numeric(12,2)"}}}


POISONS: Final = [
    Poison("check violation", "UPDATE orders SET o_total = -1 WHERE o_id = 4711", ORDER, "total is not negative"),
    Poison(
        "bad cast",
        "ALTER TABLE orders ADD o_word text; UPDATE orders SET o_word = o_id; UPDATE orders SET o_word = 'x' "
        "WHERE o_id = 4711",
        with_total("o.o_word::numeric"),
        "invalid text representation",
    ),
    Poison(
        "numeric overflow",
        "ALTER TABLE orders ALTER o_total TYPE numeric; UPDATE orders SET o_total = 1e11 WHERE o_id = 4711",
        ORDER | {"columns": ORDER["columns"] | {"total": {"from": "o.o_total", "type": "numeric(12,2)"}}},
        "numeric value out of range",
    ),
    Poison(
        "foreign key without its row",
        "ALTER TABLE orders DROP CONSTRAINT orders_o_customer_fkey; UPDATE orders SET o_customer = 9999 "
        "WHERE o_id = 4711",
        ORDER,
        "foreign key",
    ),
    Poison("duplicate key", "", ORDER | {"key": {"id": "o.o_id / 2"}}, "unique"),
]


@pytest.mark.parametrize(
    "poison", [pytest.param(one, id=one.name, marks=() if number < 2 else SLOW) for number, one in enumerate(POISONS)]
)
async def test_a_poisoned_row_is_named_and_nothing_stays(theatre: Theatre, tmp_path: Path, poison: Poison) -> None:
    with recorded(f"poisoned row: {poison.name}", BACK) as case:
        async with theatre.stage(tmp_path, source=poison.source, own_source=True) as stage:
            stage.worker()
            handle = await stage.scene.start(PLAN | {"mappings": [CUSTOMER, poison.order, NOTE]})
            outcome, message = await stage.ended(handle)
            refused = outcome == "SurveyRefused"
            case.note = "refused by the survey" if refused else "taken back"
            if poison.told not in message:
                case.violations.append(f"{poison.told!r} is not told: {message[:300]}")
            case.violations += await stage.judge("rolled back" if refused else outcome, "rolled back")


class Drift(NamedTuple):
    """DDL on one side while the run is paused before a step, and how the run may end."""

    name: str
    side: str
    before: str
    script: str
    ends: tuple[oracle.Outcome, ...] = ("rolled back",)
    marks: Any = SLOW


SPOIL: Final = """
CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.total := 0; RETURN NEW; END $$;
"""
ZERO: Final = """
CREATE TRIGGER spoil BEFORE INSERT ON shop."order" FOR EACH ROW EXECUTE FUNCTION public.spoil()
"""
EITHER: Final[tuple[oracle.Outcome, ...]] = ("completed", "rolled back")
DRIFTS: Final = [
    Drift("column dropped", "source", "copy", "ALTER TABLE orders DROP COLUMN o_total", marks=()),
    Drift("column renamed", "source", "copy", "ALTER TABLE orders RENAME COLUMN o_total TO o_sum"),
    Drift("column retyped", "source", "copy", "ALTER TABLE orders ALTER o_total TYPE double precision", EITHER),
    Drift("column added", "source", "copy", "ALTER TABLE orders ADD o_new integer DEFAULT 7", ("completed",)),
    Drift("column dropped before verification", "source", "verify", "ALTER TABLE orders DROP COLUMN o_total"),
    Drift("table dropped", "source", "copy", "DROP TABLE orders"),
    Drift("column dropped", "target", "copy", 'ALTER TABLE shop."order" DROP COLUMN total', marks=()),
    Drift("column added, NOT NULL", "target", "copy", 'ALTER TABLE shop."order" ADD extra integer NOT NULL'),
    Drift("column added", "target", "copy", 'ALTER TABLE shop."order" ADD extra integer', EITHER),
    Drift("column retyped", "target", "copy", 'ALTER TABLE shop."order" ALTER total TYPE text', EITHER),
    Drift("column dropped after the copy", "target", "verify", 'ALTER TABLE shop."order" DROP COLUMN total'),
    Drift("trigger added that changes rows", "target", "copy", ZERO),
    Drift("constraint dropped", "target", "verify", 'ALTER TABLE shop."order" DROP CONSTRAINT "total is not negative"'),
    Drift("table dropped", "target", "verify", 'DROP TABLE shop."order"'),
    Drift("row deleted", "target", "verify", 'DELETE FROM shop."order" WHERE id = 4711'),
]


@pytest.mark.parametrize("drift", [pytest.param(one, id=f"{one.side} {one.name}", marks=one.marks) for one in DRIFTS])
async def test_a_schema_changes_under_the_run(theatre: Theatre, tmp_path: Path, drift: Drift) -> None:
    must = "never wrong data: complete and equal, or taken back with the reason"
    with recorded(f"{drift.side} changed under the run: {drift.name}", must) as case:
        own = drift.side == "source"
        async with theatre.stage(tmp_path, own_source=own, target=SPOIL) as stage:
            stage.worker()
            handle = await stage.scene.start(PLAN, pause_before=[drift.before])
            await stage.scene.until(handle, "paused")
            await run_script(stage.dsn("source" if own else "target"), drift.script)
            await stage.scene.order(handle, "resume")
            outcome, message = await stage.ended(handle)
            case.note = outcome
            if outcome not in drift.ends:
                case.violations.append(f"it ended as {outcome}: {message[:300]}")
            wanted: oracle.Outcome = "completed" if outcome == "completed" else "rolled back"
            case.violations += await stage.judge(
                outcome, wanted, source_may_change=own, source_is_quiet=not own, shop=True
            )


async def test_somebody_elses_row_in_a_filled_table_stops_the_undoing(theatre: Theatre, tmp_path: Path) -> None:
    must = "the undoing stops and asks a person; when the row is gone and `retry` was said, the target is as before"
    with recorded("a foreign row in a table that the run fills, then abort", must) as case:
        async with theatre.stage(tmp_path) as stage:

            async def meddle(handle: WorkflowHandle[Any, Any]) -> None:
                stage.worker()
                await stage.scene.until(handle, "paused")
                await run_script(stage.scene.target_dsn, "INSERT INTO shop.note VALUES (999, 'mine')")
                await stage.scene.order(handle, "abort")
                status = await stage.scene.until(handle, "waiting for a person", "aborted")
                assert status.state == "waiting for a person", "the undoing went over somebody else's row"
                assert "shop.note" in status.message, status.message
                kept = await stage.scene.in_target("SELECT count(*) FROM shop.note WHERE id = 999")
                assert kept == 1, "somebody else's row is gone"
                await run_script(stage.scene.target_dsn, "DELETE FROM shop.note WHERE id = 999")
                await stage.scene.order(handle, "retry")

            case.violations += await play(stage, act=meddle, wanted="aborted", pause_before=["verify"])


BIG: Final = f"""
CREATE TABLE public.big (id integer PRIMARY KEY, body bytea);
ALTER TABLE public.big ALTER body SET STORAGE EXTERNAL;
INSERT INTO public.big SELECT n, convert_to('small ' || n, 'UTF8') FROM generate_series(1, 10) n;
INSERT INTO public.big SELECT n, decode(repeat('00ff41', {MEGABYTES << 20} / 3), 'hex') FROM generate_series(11, 12) n;
"""
BIG_PLAN: Final = {
    "name": "shop-v2",
    "source": "legacy",
    "target": "shop",
    "mappings": [
        {"target": "shop.big", "source": "public.big b", "key": {"id": "b.id"}, "columns": {"body": "b.body"}}
    ],
}
BIG_EXPECTED: Final = Expected(
    "shop.big",
    "SELECT id, length(body), sha256(body) FROM shop.big ORDER BY id",
    "SELECT id, octet_length(body), sha256(body) FROM public.big ORDER BY id",
)


@pytest.mark.slow
async def test_rows_of_two_hundred_megabytes(theatre: Theatre, tmp_path: Path) -> None:
    must = f"moved and verified; the worker's memory stays under {MOST_MEMORY >> 20} MiB"
    with recorded(f"two rows of {MEGABYTES} MB each", must) as case:
        async with theatre.stage(tmp_path, source=BIG) as stage:
            worker = stage.worker()
            handle = await stage.scene.start(BIG_PLAN)
            outcome, message = await stage.ended(handle, 300)
            case.note = f"worker's peak {worker.most_memory >> 20} MiB"
            if worker.most_memory > MOST_MEMORY:
                case.violations.append(f"{case.note}, allowed {MOST_MEMORY >> 20} MiB {message}")
            case.violations += await stage.judge(outcome, "completed", expected=[BIG_EXPECTED], shop=False)
