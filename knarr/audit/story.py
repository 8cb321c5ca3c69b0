"""The audit trail read as a story: what happened when, how long it took, and who stepped in.

Bodies of entries are free; the words that are understood here (all optional) are `step`, `summary`, `outcome`,
`seconds`, `mapping`, `phase`, `actor`, `action`, `reason`, `accepted`, `answer`, `rows`, `state`, `name`. What is not
understood is shown as it stands.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from pydantic import JsonValue

from knarr.audit.canonical import canonical_json
from knarr.audit.chain import AuditEntry
from knarr.audit.evidence import body_of
from knarr.audit.facts import ChangeFacts, Facts, ReportData
from knarr.wording import counted

_TOLD: Final = frozenset(
    {"step", "summary", "outcome", "seconds", "mapping", "phase", "message", "actor", "action", "reason", "answer"}
    | {"accepted", "state", "passed", "digest", "name", "epoch"}
)
_DIGEST: Final = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}\b")
_OBJECT_VERBS: Final = ("create ", "drop ")


class Event(Facts):
    """One line of the story, with the stretch of time that it took where that is known."""

    position: int
    started: datetime
    ended: datetime
    kind: str
    title: str
    detail: str
    outcome: str
    undo: bool

    @property
    def seconds(self) -> float:
        """How long it took by the clock; 0 for a moment."""
        return (self.ended - self.started).total_seconds()

    @property
    def failed(self) -> bool:
        """Whether it says of itself that it went wrong."""
        return self.outcome in {"failed", "refused", "error", "could not run"}


class Copied(Facts):
    """What was moved of one mapping; seconds of work."""

    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    changes: ChangeFacts | None = None


class Action(Facts):
    """What a person asked of the run, and what came of it."""

    at: datetime
    actor: str
    action: str
    reason: str
    answer: str
    refused: bool


def events(data: ReportData) -> list[Event]:
    """The story in the order in which things ended.

    All partitions of a mapping are one event, until something is taken back; so are objects made one after another.
    """
    told: list[Event] = []
    copies: list[AuditEntry] = []
    previous: datetime | None = None
    for bulk, group in groupby(data.trail.entries, key=_bulk):
        stretch = list(group)
        if bulk == "copy":
            copies += stretch
        elif bulk:
            told.append(_objects(bulk, stretch, previous))
        for entry in stretch if not bulk else ():
            if entry.kind == "compensation":
                told.extend(_copies(copies, data))
                copies = []
            told.append(_event(entry, previous, data))
            previous = entry.at
        previous = stretch[-1].at
    told.extend(_copies(copies, data))
    return sorted(told, key=lambda event: event.position)


def copied(data: ReportData) -> dict[str, Copied]:
    """What each mapping's copies moved, by its name, by the audit trail: also when it has been taken back since."""
    moved: dict[str, Copied] = {}
    for entry in data.trail.entries:
        body = body_of(entry.body)
        if entry.kind == "copy":
            mapping = _mapping(body, data)
            before = moved.get(mapping, Copied())
            moved[mapping] = Copied(
                rows=before.rows + int(_number(body.get("rows"))),
                bytes=before.bytes + int(_number(body.get("bytes"))),
                seconds=before.seconds + _number(body.get("seconds")),
                changes=_changes([body], before.changes),
            )
    return moved


def _bulk(entry: AuditEntry) -> str:
    """Entries that come in hundreds and are told as one line for the whole stretch: copies, and objects by verb."""
    if entry.kind == "copy":
        return "copy"
    step = _word(body_of(entry.body).get("step"))
    return next((verb.strip() for verb in _OBJECT_VERBS if step.startswith(verb)), "")


def actions(data: ReportData) -> list[Action]:
    """What people did, in order: every entry that names somebody who acted, with the reason they gave."""
    found = []
    for entry in data.trail.entries:
        body = body_of(entry.body)
        actor = body.get("actor")
        if not isinstance(actor, str) or not actor:
            continue
        refused = body.get("accepted") is False or body.get("outcome") == "refused"
        found.append(
            Action(
                at=entry.at,
                actor=actor,
                action=_word(body.get("action")) or entry.kind,
                reason=_word(body.get("reason")),
                answer=_word(body.get("answer")) or ("refused" if refused else ""),
                refused=refused,
            )
        )
    return found


def _copies(entries: Sequence[AuditEntry], data: ReportData) -> list[Event]:
    by_mapping: dict[tuple[str, str], list[AuditEntry]] = {}
    for entry in entries:
        body = body_of(entry.body)
        by_mapping.setdefault((_mapping(body, data), _word(body.get("phase"))), []).append(entry)
    told = []
    for (mapping, phase), part in by_mapping.items():
        bodies = [body_of(entry.body) for entry in part]
        rows = sum(int(_number(body.get("rows"))) for body in bodies)
        size = f"{counted(rows, 'row')} in {counted(len(part), 'partition')}"
        changes = _changes(bodies)
        told.append(
            Event(
                position=part[-1].position,
                started=min(_began(entry, body) for entry, body in zip(part, bodies, strict=True)),
                ended=max(entry.at for entry in part),
                kind="copy",
                title=f"copy {mapping}".strip(),
                detail=", ".join(
                    words
                    for words in (size, str(changes or ""), f"phase {phase}" if phase else "", _code(bodies))
                    if words
                ),
                outcome="done",
                undo=False,
            )
        )
    return told


def _changes(bodies: Sequence[Mapping[str, JsonValue]], before: ChangeFacts | None = None) -> ChangeFacts | None:
    """What the copies did to rows that were there, and what others had done before; None of a table without rows."""
    known = [body for body in bodies if "inserted" in body]
    if not known and before is None:
        return None
    sums = {name: sum(int(_number(body.get(name))) for body in known) for name in ChangeFacts.model_fields}
    return ChangeFacts(**{name: count + getattr(before, name, 0) for name, count in sums.items()})


def _code(bodies: Sequence[Mapping[str, JsonValue]]) -> str:
    """The plan's own function that rows went through, and its file; more than one file where it changed meanwhile."""
    names = dict.fromkeys(name for body in bodies if (name := _word(body.get("transform"))))
    files = list(dict.fromkeys(file[:16] for body in bodies if (file := _word(body.get("transform_sha256")))))
    if not names:
        return ""
    changed = f" (the file changed meanwhile: {len(files):,} versions)" if len(files) > 1 else ""
    return f"through {', '.join(names)}" + (f", sha256 {'…, '.join(files)}…" if files else "") + changed


def _objects(verb: str, entries: Sequence[AuditEntry], previous: datetime | None) -> Event:
    names = [_word(body_of(entry.body).get("step")).removeprefix(f"{verb} ") for entry in entries]
    return Event(
        position=entries[-1].position,
        started=min(previous or entries[0].at, entries[0].at),
        ended=entries[-1].at,
        kind="objects",
        title=f"{verb} {len(names):,} objects" if len(names) > 1 else f"{verb} {names[0]}",
        detail=", ".join(names) if len(names) > 1 else "",
        outcome="done",
        undo=verb == "drop",
    )


def _event(entry: AuditEntry, previous: datetime | None, data: ReportData) -> Event:
    body = body_of(entry.body)
    mapping = _mapping(body, data)
    step = _word(body.get("step")) or _word(body.get("action")) or _word(body.get("name"))
    summary = _word(body.get("summary")) or _word(body.get("message"))
    if body.get("action") and body.get("answer"):
        summary = ""  # it says these two once more
    rest = {key: value for key, value in body.items() if key not in _TOLD and value not in (None, "", [], {})}
    undo = entry.kind.startswith("compensation")
    if mapping and mapping in step:
        mapping = ""
    # A step whose own words say that it takes something back is not said to be undone.
    prefix = entry.kind if not step or (undo and not step.startswith("take back ")) else ""
    title = " ".join(part for part in (prefix, step, mapping) if part) or entry.kind
    if step and entry.kind not in ("step", "compensation"):
        title = f"{entry.kind}: {title}"
    return Event(
        position=entry.position,
        started=_began(entry, body) if "seconds" in body else _since(entry, previous),
        ended=entry.at,
        kind=entry.kind,
        title=title.replace("compensation", "undo", 1) if undo else title,
        detail=" · ".join(part for part in (summary, _said(body), _listed(rest)) if part),
        outcome=_outcome(body),
        undo=undo,
    )


def _said(body: Mapping[str, JsonValue]) -> str:
    """Who, why, and what came of it; or what a verdict's entry binds."""
    who, why, answer = _word(body.get("actor")), _word(body.get("reason")), _word(body.get("answer"))
    spoken = ": ".join(part for part in (who, why) if part)
    digest = _word(body.get("digest"))
    return " → ".join(part for part in (spoken, answer, f"sha256 {digest[:16]}…" if digest else "") if part)


def _outcome(body: Mapping[str, JsonValue]) -> str:
    if body.get("accepted") is False:
        return "refused"
    if isinstance(passed := body.get("passed"), bool):
        return "passed" if passed else "failed"
    return _word(body.get("outcome")) or _word(body.get("state"))


def _began(entry: AuditEntry, body: dict[str, JsonValue]) -> datetime:
    # An entry is written when its step ends; a step that took longer than a run can last is a damaged entry.
    return entry.at - timedelta(seconds=min(max(_number(body.get("seconds")), 0.0), 10.0**8))


def _since(entry: AuditEntry, previous: datetime | None) -> datetime:
    # A step that does not say how long it took is drawn from the entry before it; a person's word takes no time.
    timed = entry.kind in ("step", "compensation", "verdict")
    return min(previous, entry.at) if timed and previous is not None else entry.at


def _listed(rest: Mapping[str, JsonValue]) -> str:
    words = (f"{key} {_spoken(value)}" for key, value in rest.items())
    # Digests are told by their beginning; whole they are in the JSON report.
    return _DIGEST.sub(r"\1…", ", ".join(words))


def _spoken(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return canonical_json(value)


def _mapping(body: dict[str, JsonValue], data: ReportData) -> str:
    mapping = body.get("mapping")
    if isinstance(mapping, int) and not isinstance(mapping, bool):
        return data.mapping_name(mapping)
    return _word(mapping)


def _word(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def _number(value: JsonValue) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
