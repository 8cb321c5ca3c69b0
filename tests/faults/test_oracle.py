"""The judge is judged: each kind of damage, planted after a run that was right, is found and named."""

from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import pytest

from tests.faults import oracle
from tests.faults.shop import KEPT_OPEN, PLAN
from tests.faults.stage import Theatre
from tests.saga.scene import run_script

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


class Damage(NamedTuple):
    """What is done to the target, and a part of what the judge must say."""

    script: str
    told: str


# Each stays when the next one is done, so none may hide another.
AFTER_COMPLETION: Final = [
    Damage("UPDATE shop.customer SET balance = balance + 0.01 WHERE id = 7", "shop.customer: the source gives 500"),
    Damage(
        'DELETE FROM shop."order" WHERE id = 4711', "shop.order: the source gives 6000 lines, the target holds 5999"
    ),
    Damage("INSERT INTO shop.note VALUES (999, 'doubled')", "shop.note: the source gives 40 lines"),
    Damage("SELECT setval('shop.note_id_seq', 3)", "the next number of shop.note's sequence"),
    Damage("UPDATE shop.setting SET value = '' WHERE name = 'setting 5'", "shop.setting, which the plan does not name"),
    Damage("SELECT nextval('shop.ticket')", "the sequence shop.ticket"),
    Damage("UPDATE knarr.ledger SET epoch = 99 WHERE mapping = 0 AND partition = 0", "from the future"),
    Damage("DELETE FROM knarr.ledger WHERE mapping = 1 AND partition = 0", "ledger rows"),
    Damage("UPDATE knarr.check_result SET outcome = 'failed' WHERE kind = 'parity' AND mapping = 0", "compared and"),
    Damage("UPDATE knarr.verdict SET withdrawn = true", "no verdict stands"),
    Damage("UPDATE knarr.run SET state = 'running'", "the record says 'running'"),
    Damage("UPDATE knarr.lease SET released = false", "the lease is not released"),
    Damage("INSERT INTO knarr.claim SELECT 'shop', 'order', run_id FROM knarr.run", "claims are left"),
    Damage(
        "INSERT INTO knarr.undo (run_id, mapping, phase, partition, operation, key, left_hash) "
        "SELECT run_id, 0, 'everyone', 0, 'insert', '{1}', 1 FROM knarr.run",
        "1 entries of the undo log are left",
    ),
    Damage("UPDATE knarr.audit_head SET position = position - 1", "the audit head is"),
    Damage(
        "SET session_replication_role = replica; UPDATE knarr.audit SET body = replace(body, 'shop', 'shop ') "
        "WHERE position = 1",
        "the audit chain breaks at position 1",
    ),
]
AFTER_UNDOING: Final = [
    Damage("INSERT INTO shop.note VALUES (1, 'left')", "the target is not what it was before"),
    Damage("COMMENT ON TABLE shop.note IS NULL", "COMMENT ON TABLE shop.note"),
    Damage(
        "INSERT INTO knarr.object (run_id, mapping, stage, kind, name, drop_sql, epoch) "
        "SELECT run_id, 0, 'table', 'table', 'shop.left', '', 1 FROM knarr.run",
        "not taken back: object shop.left",
    ),
]


async def test_every_damage_to_a_completed_run_is_found(theatre: Theatre, tmp_path: Path) -> None:
    async with theatre.stage(tmp_path) as stage:
        stage.worker()
        handle = await stage.scene.start(PLAN)
        outcome, _ = await stage.ended(handle)
        assert await stage.judge(outcome, "completed") == []
        for damage in AFTER_COMPLETION:
            await run_script(stage.scene.target_dsn, damage.script)
            found = await oracle.violations(stage.before, stage.run_id, "completed")
            assert any(damage.told in text for text in found), (damage, found)


async def test_every_damage_to_a_run_that_was_taken_back_is_found(theatre: Theatre, tmp_path: Path) -> None:
    async with theatre.stage(tmp_path) as stage:
        stage.worker()
        handle = await stage.scene.start(KEPT_OPEN)
        await stage.scene.until(handle, "kept open")
        await stage.scene.order(handle, "abort")
        outcome, _ = await stage.ended(handle)
        assert await stage.judge(outcome, "aborted") == []
        for damage in AFTER_UNDOING:
            await run_script(stage.scene.target_dsn, damage.script)
            found = await oracle.violations(stage.before, stage.run_id, "aborted")
            assert any(damage.told in text for text in found), (damage, found)


async def test_a_session_that_stays_and_a_source_that_is_written_to_are_found(
    theatre: Theatre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "SECONDS_TO_LEAVE", 0.2)
    async with theatre.stage(tmp_path, own_source=True) as stage:
        left = await asyncpg.connect(stage.scene.target_dsn, server_settings={"application_name": "knarr worker"})
        await left.execute("SELECT pg_advisory_lock(1); CREATE TEMPORARY TABLE scratch ()")
        await run_script(stage.scene.source_dsn, "UPDATE public.note SET n_text = 'other' WHERE n_id = 1")
        found = "\n".join(await oracle.violations(stage.before, stage.run_id, "aborted"))
        await left.close()
    assert "session left" in found
    assert "left behind: temporary object scratch" in found
    assert "left behind: advisory lock" in found
    assert "the source was changed" in found
    assert "the source spent transaction ids" in found


def test_rows_in_another_order_are_the_same_and_rows_of_another_table_are_not() -> None:
    dump = "\n".join(["COPY shop.a (id) FROM stdin;", "1", "2", "\\.", "", "COPY shop.b (id) FROM stdin;", "3", "\\."])
    moved = dump.replace("1\n2", "2\n1")
    assert moved != dump
    assert oracle.in_order(moved) == oracle.in_order(dump)
    changed, swapped = dump.replace("2", "4"), dump.replace("2", "x").replace("3", "2").replace("x", "3")
    assert oracle.in_order(dump) not in (oracle.in_order(changed), oracle.in_order(swapped))
