"""A detached signature of a verdict: HMAC-SHA256 with a key that only the workers and the auditor hold.

The chain of digests shows that nobody changed an entry; with the witnesses in Temporal's history it shows that nobody
wrote the whole trail anew. A signature shows it without Temporal: who can write to the target can't make one.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from knarr.audit.canonical import canonical_json
from knarr.audit.chain import AuditEntry
from knarr.errors import PlanError

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


def doubts_about_signatures(entries: Sequence[AuditEntry], key: SigningKey | None) -> list[str]:
    """What is wrong with the signatures of a trail's verdicts, a sentence each.

    With a key every verdict must be signed by it. Without one nothing is known of signatures, and nothing is said.
    """
    if key is None:
        return []
    doubts = []
    for entry in entries:
        if entry.kind != "verdict":
            continue
        try:
            body = json.loads(entry.body)
            name = f"verdict of phase {body['phase']}, round {body['round']}"
            signature, by = body.get("signature"), body.get("signed_by")
            signed = key.sign(entry.run_id, body["phase"], body["round"], body["passed"], body["digest"])
        except (ValueError, KeyError, TypeError):
            doubts.append(f"audit trail, entry {entry.position}: not a verdict's entry, so its signature is unknown")
            continue
        if not isinstance(signature, str):
            doubts.append(f"{name}: it is not signed; the key {key.id} was to sign it")
        elif not hmac.compare_digest(signature, signed):
            doubts.append(f"{name}: its signature, by key {by}, is not that of key {key.id}: it was forged or edited")
    return doubts
