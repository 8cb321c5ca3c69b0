"""The audit trail's chain: appending to it in the database, and checking it without the database's help.

Each entry's digest is SHA-256 over the digest before it and over

    run id ␟ position ␟ microseconds since 1970 ␟ kind ␟ key ␟ body          (␟ is U+001F, all in UTF-8)

as `knarr.audit_digest` in knarr/postgres/schema.sql computes it. The check below shares no code with that function: a
database that lies about one can't lie about the other. What the database alone can't show is a tail that was cut
together with a head that was wound back (measured, research/reliability.md M20); that takes a witness, an `AuditHead`
that somebody else keeps. Temporal's history keeps one for every activity that appends.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from knarr.audit.canonical import canonical_json
from knarr.telemetry.scrub import scrub_value
from knarr.wording import counted

if TYPE_CHECKING:
    from asyncpg import Connection, Record

GENESIS: Final = "0" * 64  # what the first entry follows
_SEPARATOR: Final = "\x1f"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

APPEND: Final = "SELECT entry_position, entry_digest FROM knarr.audit_append($1, $2, $3, $4)"

READ: Final = """
SELECT run_id, position, entry_key, at, kind, body, previous, digest
  FROM knarr.audit
 WHERE run_id = $1
 ORDER BY position, at
"""

READ_HEAD: Final = "SELECT position, digest FROM knarr.audit_head WHERE run_id = $1"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]*$", description="hexadecimal, lower case; 64 digits unless damaged")]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AuditHead(_Frozen):
    """Where a chain stands: its last position (0: nothing yet) and that entry's digest; small enough for anywhere."""

    position: int = Field(ge=0)
    digest: Digest


class AuditEntry(_Frozen):
    """One entry as it is stored; `body` is canonical JSON, kept as text because it is hashed byte for byte."""

    run_id: str
    position: int
    key: str = Field(description="what makes appending idempotent: a retried activity uses the same key")
    at: AwareDatetime
    kind: str
    body: str
    previous: Digest
    digest: Digest


class ChainFault(_Frozen):
    """One thing that is wrong with a chain, and where.

    `clock set back` alone is no proof of tampering (a failover or a clock correction does it too), but a person must
    look at it; every other kind means that the trail is not what was written.
    """

    kind: Literal["empty", "gap", "edited", "reordered", "forked", "tail cut", "head rewound", "clock set back"]
    position: int = Field(description="the first position that can't be trusted because of this fault")
    message: str


async def append(
    connection: "Connection[Record]", run_id: str, key: str, kind: str, body: Mapping[str, object]
) -> AuditHead:
    """Appends one entry inside the caller's transaction and returns where it stands in the chain.

    The same key again appends nothing and returns the entry that stands. Passwords in addresses and the like are
    blanked out of the body's strings first; nothing else that is secret may be handed in.

    Raises:
        ValueError: the key or the kind is empty or holds a control character.
        TypeError: the body holds something that JSON can't.
        asyncpg.PostgresError: as the server says; an effect that can't be audited must not be committed.
    """
    for name, text in (("key", key), ("kind", kind)):
        if not text or any(ord(character) < 32 for character in text):
            raise ValueError(f"an audit entry's {name} is a short text without control characters, found {text!r}")
    row = await connection.fetchrow(APPEND, run_id, key, kind, canonical_json(scrub_value(dict(body))))
    if row is None:
        raise RuntimeError(f"knarr.audit_append returned nothing for run {run_id!r}, key {key!r}")
    return AuditHead(position=row["entry_position"], digest=row["entry_digest"].hex())


async def read(connection: "Connection[Record]", run_id: str) -> list[AuditEntry]:
    """All entries of a run in the order of their positions, as they are stored: nothing is checked here."""
    return [
        AuditEntry(
            run_id=row["run_id"],
            position=row["position"],
            key=row["entry_key"],
            at=row["at"] if row["at"].tzinfo else row["at"].replace(tzinfo=UTC),  # asyncpg's infinity has no zone
            kind=row["kind"],
            body=row["body"],
            previous=row["previous"].hex(),
            digest=row["digest"].hex(),
        )
        for row in await connection.fetch(READ, run_id)
    ]


async def read_head(connection: "Connection[Record]", run_id: str) -> AuditHead | None:
    """The head row of a run's chain, or None when there is none."""
    row = await connection.fetchrow(READ_HEAD, run_id)
    return None if row is None else AuditHead(position=row["position"], digest=row["digest"].hex())


def compute_digest(entry: AuditEntry, *, position: int | None = None) -> str:
    """The digest that an entry must have, from its own words; `position` asks what it would be elsewhere."""
    fields = (
        entry.run_id,
        str(entry.position if position is None else position),
        str((entry.at - _EPOCH) // _MICROSECOND),
        entry.kind,
        entry.key,
        entry.body,
    )
    text = _SEPARATOR.join(fields).encode("utf-8", "surrogatepass")
    return hashlib.sha256(bytes.fromhex(entry.previous) + text).hexdigest()


def check_chain(
    entries: Sequence[AuditEntry], head: AuditHead | None, witnesses: Sequence[AuditHead] = ()
) -> list[ChainFault]:
    """Everything that is wrong with a chain, recomputed here; an empty list says that it is as it was written.

    Args:
        entries: a run's entries as `read` gives them.
        head: the head row as `read_head` gives it.
        witnesses: heads of the same chain that somebody else kept, in any order.
    """
    faults = [*_check_entries(entries), *_check_head(entries, head), *_check_witnesses(entries, witnesses)]
    return sorted(faults, key=lambda fault: fault.position)


def _check_entries(entries: Sequence[AuditEntry]) -> list[ChainFault]:
    if not entries:
        message = "the trail holds no entry; a run writes one when it starts"
        return [ChainFault(kind="empty", position=1, message=message)]
    faults: list[ChainFault] = []
    place_after = {GENESIS: 1} | {entry.digest: entry.position + 1 for entry in entries}
    previous: AuditEntry | None = None
    for entry in entries:
        expected = previous.position + 1 if previous else 1
        at = entry.position
        if previous and at == previous.position:
            message = f"two entries claim position {at}: {previous.digest} and {entry.digest}"
            faults.append(ChainFault(kind="forked", position=at, message=message))
        elif at != expected:
            missing = f"entry {expected} is" if at == expected + 1 else f"entries {expected} to {at - 1} are"
            faults.append(ChainFault(kind="gap", position=expected, message=f"{missing} missing"))
        faults.extend(_check_entry(entry, entries[0].run_id, place_after))
        # A link across a gap or a fork can't hold; saying so once is enough.
        if at == expected and entry.previous != (previous.digest if previous else GENESIS):
            faults.append(_broken_link(entry, previous))
        if previous and entry.at < previous.at:
            message = f"entry {at} was written at {entry.at.isoformat()}, before entry {previous.position}"
            faults.append(ChainFault(kind="clock set back", position=at, message=message))
        previous = entry
    return faults


def _check_entry(entry: AuditEntry, run_id: str, place_after: Mapping[str, int]) -> list[ChainFault]:
    at = entry.position
    faults: list[ChainFault] = []
    if entry.run_id != run_id:
        message = f"entry {at} belongs to run {entry.run_id!r}, the trail to {run_id!r}"
        faults.append(ChainFault(kind="edited", position=at, message=message))
    computed = compute_digest(entry)
    if computed == entry.digest:
        return faults
    place = place_after.get(entry.previous)
    if place is not None and place != at and compute_digest(entry, position=place) == entry.digest:
        message = f"entry {at} was written as entry {place} and moved"
        faults.append(ChainFault(kind="reordered", position=min(at, place), message=message))
    else:
        message = f"entry {at} says {entry.digest}, its words give {computed}: it is not what was written"
        faults.append(ChainFault(kind="edited", position=at, message=message))
    return faults


def _broken_link(entry: AuditEntry, previous: AuditEntry | None) -> ChainFault:
    if previous is None:
        message = f"entry {entry.position} follows {entry.previous}, but nothing stands before it"
        return ChainFault(kind="edited", position=entry.position, message=message)
    message = (
        f"entry {entry.position} follows {entry.previous}, but entry {previous.position} is {previous.digest}: "
        f"entry {previous.position} was rewritten after entry {entry.position}, or one of the two was put in its place"
    )
    return ChainFault(kind="edited", position=previous.position, message=message)


def _check_head(entries: Sequence[AuditEntry], head: AuditHead | None) -> list[ChainFault]:
    last = entries[-1] if entries else None
    if head is None:
        message = f"the head row is gone; the trail has {counted(len(entries), 'entry', 'entries')}"
        return [ChainFault(kind="head rewound", position=last.position, message=message)] if last else []
    standing = last.position if last else 0
    if head.position > standing:
        message = f"the head stands at {head.position}, the last entry at {standing}: the end was cut off"
        return [ChainFault(kind="tail cut", position=standing + 1, message=message)]
    if head.position < standing:
        message = f"the head stands at {head.position}, but entries go on to {standing}"
        return [ChainFault(kind="head rewound", position=head.position + 1, message=message)]
    digest = last.digest if last else GENESIS
    if head.digest != digest:
        message = f"the head's digest at {head.position} is {head.digest}, the entry's is {digest}"
        return [ChainFault(kind="head rewound", position=head.position, message=message)]
    return []


def _check_witnesses(entries: Sequence[AuditEntry], witnesses: Sequence[AuditHead]) -> list[ChainFault]:
    standing = {entry.position: entry.digest for entry in entries} | {0: GENESIS}
    last = max(standing)
    faults: list[ChainFault] = []
    for witness in sorted(set(witnesses), key=lambda head: head.position):
        if witness.position > last:
            message = f"a witness saw entry {witness.position} ({witness.digest}); the trail ends at {last}"
            faults.append(ChainFault(kind="head rewound", position=last + 1, message=message))
        elif (digest := standing.get(witness.position)) is not None and digest != witness.digest:
            message = f"a witness saw {witness.digest} at {witness.position}; the trail has {digest} there"
            faults.append(ChainFault(kind="head rewound", position=witness.position, message=message))
    return faults
