"""Signatures of verdicts: what is said of them is what was checked, with a key and without."""

import json
from pathlib import Path

import pytest

from knarr.audit.chain import AuditEntry
from knarr.audit.gather import gather
from knarr.audit.report import load_report, render_report, report_json
from knarr.audit.signing import SigningKey, check_signatures, load_key, told
from knarr.errors import PlanError
from knarr.postgres.lease import release
from knarr.postgres.session import Connection
from tests.audit import specimen
from tests.audit.test_gather import RUN, copied, verified
from tests.endtoend.command import Knarr

KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
UNSIGNED_HEADLINE = "A verdict of this run is not signed by the key it was checked with. Nothing here can be relied on."


def trail(*signers: SigningKey | None, **changes: object) -> list[AuditEntry]:
    """A trail with one verdict for each signer."""
    items: list[specimen.Item] = [("start", "run started", {}, 0.0)]
    for round, signer in enumerate(signers, start=1):
        body: dict[str, object] = {"phase": "everyone", "round": round, "passed": True, "digest": "d" * 64}
        if signer is not None:
            signature = signer.sign(specimen.RUN, "everyone", round, True, "d" * 64)
            body |= {"signature": signature, "signed_by": signer.id}
        items.append((f"verdict {round}", "verdict", body | changes, float(round)))
    return specimen.linked(specimen.RUN, items)


def test_without_a_key_nothing_is_checked_and_a_claim_is_called_a_claim() -> None:
    found = check_signatures(trail(KEY, KEY, None), None)
    assert found.doubts == []
    assert found.key_id is None
    assert told(found) == (
        f"not checked, since no key was given (KNARR_SIGNING_KEY_FILE); 2 of 3 verdicts name key {KEY.id} as the signer"
    )
    assert told(check_signatures(trail(None), None)).endswith("; no verdict names a key")


def test_with_the_key_every_verdict_is_held_against_it() -> None:
    found = check_signatures(trail(KEY, KEY), KEY)
    assert found.doubts == []
    assert told(found) == f"checked with key {KEY.id}: it signed 2 of 2 verdicts"


def test_a_verdict_that_is_not_signed_or_signed_by_another_is_a_doubt() -> None:
    found = check_signatures(trail(KEY, None, OTHER), KEY)
    assert told(found) == f"checked with key {KEY.id}: it signed 1 of 3 verdicts"
    unsigned, forged = found.doubts
    assert unsigned == f"verdict of phase everyone, round 2: it is not signed; the key {KEY.id} was to sign it"
    assert f"by key {OTHER.id}, is not that of key {KEY.id}" in forged


@pytest.mark.parametrize("signature", ["", "søk", "\ud800", 7, None, {"of": "mine"}])
def test_a_signature_of_any_shape_is_a_doubt_and_no_crash(signature: object) -> None:
    found = check_signatures(trail(KEY, signature=signature, signed_by={"a": 1}), KEY)
    assert len(found.doubts) == 1
    assert "{" not in found.doubts[0]
    assert found.claimed == {}


def test_a_trail_without_a_verdict_is_not_called_signed() -> None:
    assert told(check_signatures(trail(), KEY)) == f"nothing to check with key {KEY.id}: the trail holds no verdict"


def test_a_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("short")
    with pytest.raises(PlanError, match="has 5 bytes, expected at least 32"):
        load_key(file)


async def test_a_report_says_with_which_key_the_verdict_was_checked(target: Connection) -> None:
    await verified(target, await copied(target), signer=KEY)
    await release(target, RUN, "completed")

    data = await gather(target, RUN, key=KEY)
    assert (data.outcome, data.doubts) == ("proved", [])
    assert f"checked with key {KEY.id}: it signed 1 of 1 verdict" in render_report(data)
    assert load_report(report_json(data)) == data

    unchecked = render_report(await gather(target, RUN))
    assert "not checked, since no key was given" in unchecked
    assert "✓ checked" not in unchecked
    assert "it signed 1 of 1 verdict" not in unchecked


async def test_a_report_whose_verdict_the_key_did_not_sign_is_not_relied_on(target: Connection) -> None:
    await verified(target, await copied(target), signer=OTHER)
    await release(target, RUN, "completed")
    data = await gather(target, RUN, key=KEY)
    assert data.outcome == "altered"
    assert data.headline == UNSIGNED_HEADLINE
    assert "it signed 0 of 1 verdict" in render_report(data)


async def test_both_commands_say_what_was_checked_and_never_more(
    target: Connection, audit_dsn: str, tmp_path: Path
) -> None:
    await verified(target, await copied(target), signer=KEY)
    await release(target, RUN, "completed")
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_bytes(b"k" * 32)
    other.write_bytes(b"o" * 32)

    def said(command: str, key: Path | None, *arguments: str) -> str:
        environment = {"KNARR_SIGNING_KEY_FILE": str(key)} if key else {}
        done = Knarr(tmp_path, {"shop": audit_dsn}, environment)(command, RUN, "--target", "shop", *arguments)
        assert done.stderr == ""
        return done.stdout

    for command in ("report", "audit"):
        assert "signatures: not checked, since no key was given" in said(command, None)
        assert f"signatures: checked with key {KEY.id}: it signed 1 of 1 verdict\n" in said(command, mine)
        wrong = said(command, other)
        assert f"signatures: checked with key {OTHER.id}: it signed 0 of 1 verdict\n" in wrong
        assert f"✗ verdict of phase everyone, round 1: its signature, by key {KEY.id}, is not" in wrong
    assert UNSIGNED_HEADLINE in said("report", other)
    audited = json.loads(said("audit", mine, "--json"))
    assert audited["signatures"] == {"key_id": KEY.id, "verdicts": 1, "claimed": {KEY.id: 1}, "doubts": []}


async def test_the_audits_words_are_for_people(target: Connection, audit_dsn: str, tmp_path: Path) -> None:
    head = await verified(target, await copied(target))
    done = Knarr(tmp_path, {"shop": audit_dsn})("audit", RUN, "--target", "shop")
    assert done.returncode == 0, done.stderr
    first, standing, witnessed, _ = done.stdout.splitlines()
    assert first == f"✓ {RUN}: {head.position} entries, 0 faults, 0 doubts about verdicts"
    assert standing == f"  head: position {head.position}, digest {head.digest}"
    assert witnessed.startswith("  witnessed by nobody")
