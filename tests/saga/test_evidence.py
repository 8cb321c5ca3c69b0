"""A verdict can't be had without checking, nor be changed afterwards: `knarr audit` and the offline checker say so."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import WorkflowFailureError

from activities import registry
from activities.models import VerifyInput, VerifyResult
from knarr.audit import chain
from knarr.postgres.session import connect
from knarr.verify import parity, verdict
from knarr.verify.models import CheckKey, CheckResult
from starter.evidence import witnesses
from tests.endtoend.command import ROOT, Knarr
from tests.saga.scene import Scene, run_script

pytestmark = pytest.mark.saga

# What a person with all rights on the database can do: no trigger of ours fires.
WITH_ALL_RIGHTS = "SET session_replication_role = replica; "


@pytest.fixture
def audit(scene: Scene, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`knarr audit` of the scene's run, as its JSON document; with a signing key if one is named."""

    def run(key: Path | None = None) -> dict[str, Any]:
        environment = {"KNARR_SIGNING_KEY_FILE": str(key)} if key else {}
        environment["TEMPORAL_ADDRESS"] = scene.client.service_client.config.target_host
        command = Knarr(tmp_path, {"legacy": scene.source_dsn, "shop": scene.target_dsn}, environment)
        return command.document("audit", scene.run_id, "--target", "shop")

    return run


async def completed(scene: Scene) -> None:
    async with scene.worker():
        assert (await (await scene.start()).result()).state == "completed"


async def test_an_untouched_run_is_intact(scene: Scene, audit: Callable[..., dict[str, Any]]) -> None:
    await completed(scene)
    found = audit()
    assert found["intact"], found


@pytest.mark.parametrize(
    ("edit", "doubt"),
    [
        (
            "UPDATE knarr.verdict SET document = jsonb_set(document, '{checks,0,target_rows}', '7')",
            "it was edited",
        ),
        ("UPDATE knarr.verdict SET digest = repeat('0', 64)", "its digest says"),
        ("DELETE FROM knarr.verdict", "that is not stored"),
        (
            "UPDATE knarr.check_result SET result = jsonb_set(result, '{target_rows}', '7') WHERE kind = 'parity'",
            "not those it was computed from",
        ),
        ("DELETE FROM knarr.check_result WHERE kind = 'rule'", "no result: rule 'name is present'"),
        ("UPDATE knarr.verdict SET phase = 'canary'", "no verdict that passed stands|phase canary"),
    ],
)
async def test_a_verdict_edited_in_the_database_is_caught(
    scene: Scene, audit: Callable[..., dict[str, Any]], edit: str, doubt: str
) -> None:
    await completed(scene)
    await run_script(scene.target_dsn, WITH_ALL_RIGHTS + edit)
    found = audit()
    assert not found["intact"]
    assert any(part in text for text in found["doubts"] for part in doubt.split("|")), found["doubts"]


async def test_a_verdict_and_its_entry_written_anew_are_caught_by_witness_and_by_signature(
    scene: Scene, audit: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_text("a" * 64 + "\n")
    other.write_text("b" * 64)
    monkeypatch.setenv("KNARR_SIGNING_KEY_FILE", str(key))
    await completed(scene)
    assert audit(key)["intact"]
    assert audit()["intact"]
    assert "was forged or edited" in audit(other)["doubts"][0]
    # The last entries with a chain of their own that holds: only who saw the old one, or has the key, can tell.
    await run_script(
        scene.target_dsn,
        WITH_ALL_RIGHTS
        + """
        UPDATE knarr.audit SET body = (body::jsonb || '{"findings": 3}')::text WHERE kind = 'verdict';
        DO $$ DECLARE e record; last bytea := decode(repeat('00', 32), 'hex'); d bytea; BEGIN
            FOR e IN SELECT * FROM knarr.audit ORDER BY position LOOP
                d := knarr.audit_digest(last, e.run_id, e.position, e.at, e.kind, e.entry_key, e.body);
                UPDATE knarr.audit SET previous = last, digest = d WHERE position = e.position;
                last := d;
            END LOOP;
            UPDATE knarr.audit_head SET digest = last;
        END $$
        """,
    )
    assert not audit()["faults"]  # nothing in the database tells
    seen = await witnesses(scene.client, scene.run_id)
    connection = await connect(scene.target_dsn, application_name="test: audit")
    try:
        entries, head = await chain.read(connection, scene.run_id), await chain.read_head(connection, scene.run_id)
    finally:
        await connection.close()
    assert chain.check_chain(entries, head, seen)
    await run_script(
        scene.target_dsn,
        WITH_ALL_RIGHTS + "UPDATE knarr.audit SET body = (body::jsonb || '{\"passed\": false}')::text"
        " WHERE kind = 'verdict'",
    )
    assert any("its signature" in doubt for doubt in audit(key)["doubts"])


async def test_a_report_edited_in_its_file_is_caught_offline(scene: Scene, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a" * 64 + "\n")
    await completed(scene)
    environment = {"TEMPORAL_ADDRESS": scene.client.service_client.config.target_host}
    command = Knarr(tmp_path, {"legacy": scene.source_dsn, "shop": scene.target_dsn}, environment)
    file = tmp_path / "report.json"
    done = command("report", scene.run_id, "--target", "shop", "--format", "json", "-o", str(file))
    assert done.returncode == 0, done.stderr

    def check(*arguments: str) -> "subprocess.CompletedProcess[str]":
        program = str(ROOT / "knarr" / "audit" / "offline.py")
        return subprocess.run([sys.executable, "-I", program, str(file), *arguments], capture_output=True, text=True)

    assert check().returncode == 0, check().stdout
    assert "not signed with this key" in check("--key", str(key)).stdout
    report = json.loads(file.read_text())
    report["verdicts"][0]["document"]["checks"][0]["target_rows"] = 7
    file.write_text(json.dumps(report, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n")
    assert check().returncode == 1
    assert "its document does not give its digest" in check().stdout


async def test_a_check_skipped_by_a_patched_activity_does_not_pass(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(given: VerifyInput) -> VerifyResult:
        return VerifyResult(checks=1, passed=1, rows=1_000, findings=0)

    _replace(monkeypatch, "verify_rules", nothing)
    async with scene.worker():
        with pytest.raises(WorkflowFailureError) as failed:
            await (await scene.start()).result()
    assert "verification failed" in str(failed.value.cause)
    document = "SELECT document ->> 'message' FROM knarr.verdict"
    assert "rule 'name is present'" in await scene.in_target(document)


async def test_a_result_stored_without_asking_does_not_pass(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def invented(source: Any, target: Any, mapping: Any, partition: Any, **more: Any) -> CheckResult:
        return CheckResult(
            kind="parity", name=mapping.name, mapping=mapping.number, partition=partition.number, outcome="passed",
            source_rows=7, target_rows=7, source_checksum="1/2", target_checksum="1/2",
            lower=partition.lower, upper=partition.upper,
        )  # fmt: skip

    monkeypatch.setattr(parity, "compare_partition", invented)
    async with scene.worker():
        with pytest.raises(WorkflowFailureError) as failed:
            await (await scene.start()).result()
    assert "verification failed" in str(failed.value.cause)
    # Temporal holds no row and so no finding's words: those are in the target's verdict.
    assert "no statement was sent for it" in await scene.in_target("SELECT document::text FROM knarr.verdict")


async def test_a_worker_that_is_patched_throughout_is_caught_by_the_audit(
    scene: Scene, audit: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the check is run, nor does the worker's own list of checks know of it."""

    async def nothing(given: VerifyInput) -> VerifyResult:
        return VerifyResult(checks=1, passed=1, rows=1_000, findings=0)

    listed = verdict.expected_checks

    def without_rules(*arguments: Any) -> list[CheckKey]:
        return [key for key in listed(*arguments) if key.kind != "rule"]

    _replace(monkeypatch, "verify_rules", nothing)
    monkeypatch.setattr(verdict, "expected_checks", without_rules)
    await completed(scene)
    found = audit()
    assert not found["intact"]
    assert any("no result: rule 'name is present'" in doubt for doubt in found["doubts"])


def _replace(monkeypatch: pytest.MonkeyPatch, name: str, body: Any) -> None:
    """Registers another function under an activity's name, as a changed worker would."""
    monkeypatch.setattr(registry, name, activity.defn(name=name)(body))
