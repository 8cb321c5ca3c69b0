"""A detached signature of a verdict: HMAC-SHA256 with a key that only the workers and the auditor hold.

The chain of digests shows that nobody changed an entry; with the witnesses in Temporal's history it shows that nobody
wrote the whole trail anew. A signature shows it without Temporal: who can write to the target can't make one.
"""

import hashlib
import hmac
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from knarr.audit.canonical import canonical_json
from knarr.audit.chain import AuditEntry
from knarr.audit.facts import SignatureFacts
from knarr.errors import PlanError
from knarr.wording import counted

VARIABLE: Final = "KNARR_SIGNING_KEY_FILE"
SHORTEST: Final = 32  # bytes


class SigningKey:
    """A secret shared by those who sign and those who check; its id may be shown."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def id(self) -> str:
        """Tells keys apart: the start of the HMAC of nothing."""
        return hmac.new(self._secret, b"", hashlib.sha256).hexdigest()[:12]

    def sign(self, run_id: str, phase: str, round: int, passed: bool, digest: str) -> str:
        """The signature of a verdict, hex."""
        statement = {"run_id": run_id, "phase": phase, "round": round, "passed": passed, "digest": digest}
        return hmac.new(self._secret, canonical_json(statement).encode(), hashlib.sha256).hexdigest()


def load_key(file: Path) -> SigningKey:
    """The key in a file; a line's end after it does not count.

    Raises:
        PlanError: the file can't be read, or the key is too short to be one.
    """
    try:
        secret = file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise PlanError(f"the signing key {file} can't be read: {error.strerror}", hint=f"check {VARIABLE}") from None
    if len(secret) < SHORTEST:
        raise PlanError(
            f"the signing key {file} has {len(secret)} bytes, expected at least {SHORTEST}",
            hint=f"make one: openssl rand -hex 32 > {file}",
        )
    return SigningKey(secret)


def key_of_environment() -> SigningKey | None:
    """The key that KNARR_SIGNING_KEY_FILE names; None where it is not set. Raises PlanError as `load_key`."""
    file = os.environ.get(VARIABLE)
    return load_key(Path(file)) if file else None


def check_signatures(entries: Sequence[AuditEntry], key: SigningKey | None) -> SignatureFacts:
    """What the signatures of a trail's verdicts say: with a key each must be its own, without one none is checked."""
    verdicts = [entry for entry in entries if entry.kind == "verdict"]
    claimed = Counter(by for entry in verdicts if (by := _claim(entry)))
    doubts = [doubt for entry in verdicts if (doubt := _doubt(entry, key))] if key else []
    return SignatureFacts(key_id=key.id if key else None, verdicts=len(verdicts), claimed=dict(claimed), doubts=doubts)


def told(signatures: SignatureFacts) -> str:
    """What is known of the signatures, in a sentence that claims no more than was checked."""
    total = signatures.verdicts
    if signatures.key_id is None:
        claims = [
            f"{count:,} of {counted(total, 'verdict')} {'names' if count == 1 else 'name'} key {key_id} as the signer"
            for key_id, count in signatures.claimed.items()
        ]
        return f"not checked, since no key was given ({VARIABLE}); {', '.join(claims) or 'no verdict names a key'}"
    if not total:
        return f"nothing to check with key {signatures.key_id}: the trail holds no verdict"
    signed = total - len(signatures.doubts)
    return f"checked with key {signatures.key_id}: it signed {signed:,} of {counted(total, 'verdict')}"


def _claim(entry: AuditEntry) -> str:
    try:
        body = json.loads(entry.body)
    except ValueError:
        return ""
    by = body.get("signed_by") if isinstance(body, dict) else None
    return by if isinstance(by, str) else ""


def _doubt(entry: AuditEntry, key: SigningKey) -> str:
    try:
        body = json.loads(entry.body)
        name = f"verdict of phase {body['phase']}, round {body['round']}"
        signature = body.get("signature")
        signed = key.sign(entry.run_id, body["phase"], body["round"], body["passed"], body["digest"])
    except (ValueError, KeyError, TypeError):
        return f"audit trail, entry {entry.position}: not a verdict's entry, so its signature is unknown"
    if not isinstance(signature, str):
        return f"{name}: it is not signed; the key {key.id} was to sign it"
    if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), signed.encode()):
        by = _claim(entry) or "without a name"
        return f"{name}: its signature, by key {by}, is not that of key {key.id}: it was forged or edited"
    return ""
