"""Whatever goes wrong with rows, and however loudly a database or a function says it: Temporal's history holds none.

Every row, key and text of this world carries a marker; runs fail in every way that has words about rows, and then all
that Temporal keeps of them is searched for it: payloads, failures with causes and stack traces, heartbeats, memos,
search attributes, user metadata, activities that are being retried.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from structlog.testing import capture_logs
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowFailureError, WorkflowHandle

from knarr.local.temporal import TemporalServer
from tests.saga.scene import Scene, connect, run_script

pytestmark = pytest.mark.saga

MARKER: Final = "XyzzyQuux"
NUMBER: Final = "770077007"  # in keys and values that are numbers
SEEN: Final = "seenBeforeAll"  # what a run is known to hold in each of those places: the search finds it

SOURCE: Final = f"""
CREATE TABLE public.person (id bigint PRIMARY KEY, email text NOT NULL, note text NOT NULL);
INSERT INTO public.person
SELECT {NUMBER}000 + n, '{MARKER}.' || n || '@example.org', '{MARKER} note ' || n FROM generate_series(1, 40) n;
UPDATE public.person SET email = '{MARKER}@example.org' WHERE id IN ({NUMBER}003, {NUMBER}004);
"""
TABLES: Final = """
CREATE SCHEMA {name};
CREATE TABLE {name}.person (id bigint PRIMARY KEY, email text, note text);
"""
# A server's words about rows: under its own SQLSTATEs, under a function's, in quotes and without.
TARGETS: Final[dict[str, str]] = {
    "unique": "ALTER TABLE {name}.person ADD UNIQUE (email)",
    "checked": f"ALTER TABLE {{name}}.person ADD CHECK (id <> {NUMBER}017)",
    "raising": "ALTER TABLE {name}.person ADD CHECK (public.refuse_as('ZZ001', email, note))",
    "appended": f"INSERT INTO {{name}}.person VALUES ({NUMBER}005, '{MARKER} of others')",
    "merged": f"INSERT INTO {{name}}.person VALUES ({NUMBER}005, '{MARKER} of others')",
}
# A function of the database's that says what it likes, under a SQLSTATE that it likes, where names go too.
RAISE_AS: Final = """
CREATE FUNCTION public.refuse_as(state text, email text, note text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN
    RAISE EXCEPTION USING ERRCODE = state, MESSAGE = email || ' is not welcome', HINT = note, DETAIL = note,
        TABLE = email, COLUMN = email, CONSTRAINT = note; END$$;
"""
TRIGGER: Final = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM public.refuse_as('P0001', NEW.email, NEW.note); RETURN NEW; END$$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON repaired.person FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
FUNCTIONS: Final = """
import os

def clean(rows):
    raise ValueError(f"bad email {rows[0]['email']}")

def renamed(rows):
    return [{row["email"]: row["note"]} for row in rows]

def consumer():
    return [os.environ["KNARR_TEST_WORD"]]

def raising():
    raise OSError("no connection for " + os.environ["KNARR_TEST_WORD"])
"""


def plan(name: str, mapping: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A plan that moves the people into a schema of its name; it says nothing of any row."""
    one = {"target": f"{name}.person", "source": "public.person p", "key": {"id": "p.id"}}
    one |= {"columns": {"email": "p.email", "note": "p.note"}} | (mapping or {})
    return {"name": name, "source": "legacy", "target": "shop", "mappings": [one]} | more


FILL: Final = {"mode": "fill"}
TOO_SHORT: Final = {"email": "p.email", "note": {"from": "p.note::numeric", "type": "numeric"}}
POSED: Final = {"email": "p.email", "note": "public.refuse_as('42601', p.email, p.note)"}
CROSS: Final = [
    {
        "name": "people",
        "source": "SELECT email, id FROM public.person",
        "target": "SELECT email, 1 FROM compared.person",
    },
    {
        "name": "sums",
        "source": "SELECT sum(note::integer) FROM public.person",
        "target": "SELECT count(*) FROM compared.person",
    },
]
CONSUMERS: Final = [
    {"name": "consumer", "function": "knarr_test_history:consumer"},
    {"name": "raising", "function": "knarr_test_history:raising"},
]
GUARD: Final = {"name": "figure", "on": "source", "query": "SELECT max(note)::integer FROM public.person"}

# Plans that fail by themselves, and what their end must say: else the case did not happen.
FAILING: Final[dict[str, tuple[dict[str, Any], list[str]]]] = {
    "unique": (
        plan("unique", FILL),
        ['unique violation (SQLSTATE 23505): schema "unique", table "person", constraint "person_email_key"'],
    ),
    "checked": (plan("checked", FILL), ["check violation (SQLSTATE 23514)", "Context: COPY person, line "]),
    "raising": (
        plan("raising", FILL),
        ["an error that PostgreSQL has no name for (SQLSTATE ZZ001)", "PL/pgSQL function"],
    ),
    "posing": (plan("posing", {"columns": POSED}), ["syntax error (SQLSTATE 42601)\nContext: PL/pgSQL function"]),
    "cast": (plan("cast", {"columns": TOO_SHORT}), ["invalid text representation (SQLSTATE 22P02)"]),
    "transformed": (
        plan("transformed", {"transform": "knarr_test_history:clean"}),
        ["raised ValueError at knarr_test_history, line 4"],
    ),
    "renamed": (
        plan("renamed", {"transform": "knarr_test_history:renamed"}),
        ["gave back a row without 'email', 'note' with 1 columns of other names"],
    ),
    "doubled": (
        plan("doubled", {"key": {"email": "p.email"}, "columns": {"note": "p.note"}}),
        ["email is not unique: 1 values come more than once", "`knarr check PLAN` shows the same, with the keys"],
    ),
    "appended": (plan("appended", {"mode": "append"}), ["1 keys to append are in appended.person already"]),
    "guarded": (
        plan("guarded", guards=[GUARD | {"max": 1, "during": "copy", "every": "1s"}], rollback={"on": "guard"}),
        ["guard 'figure' can't be asked: asking guard 'figure': invalid text representation (SQLSTATE 22P02)"],
    ),
    "busy": (
        plan("busy", verification={"pause_while": {"query": "SELECT note > '' FROM public.person", "every": "1s"}}),
        ["verification.pause_while gave bool, 40 rows"],
    ),
}
# Plans that wait while somebody changes rows.
COMPARED: Final = plan("compared", {"rules": {"short": "length(note) < 3"}}, checks=CROSS, downstream=CONSUMERS)
REPAIRED: Final = plan("repaired", verification={"on_difference": "repair", "rounds": 1})
MERGED: Final = plan("merged", {"mode": "merge"}, rollback={"keep_for": "7d"})


@pytest.fixture
async def world(
    source_dsn: str, target_dsn: str, temporal: TemporalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    """Two databases full of the marker; functions of a plan's author that quote what they are given."""
    (tmp_path / "knarr_test_history.py").write_text(FUNCTIONS.lstrip("\n"), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("KNARR_TEST_WORD", MARKER)
    await run_script(source_dsn, SOURCE + RAISE_AS)
    targets = "".join((TABLES + more + ";").format(name=f'"{name}"') for name, more in TARGETS.items())
    await run_script(target_dsn, RAISE_AS + targets)
    yield Scene(source_dsn, target_dsn, await connect(temporal.address))


async def started(world: Scene, wanted: dict[str, Any], **more: Any) -> WorkflowHandle[Any, Any]:
    return await world.start(wanted, run_id=f"{wanted['name']}/{world.number}", **more)


async def end_of(handle: WorkflowHandle[Any, Any]) -> str:
    """What the run says at its end, which is no success."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    return str(getattr(failed.value.cause, "message", failed.value.cause))


async def failing(world: Scene, name: str) -> str:
    return await end_of(await started(world, FAILING[name][0]))


async def changed_before_verification(world: Scene, wanted: dict[str, Any], change: str) -> str:
    """The end of a run whose copied rows somebody has changed."""
    handle = await started(world, wanted, pause_before=["verify"])
    await world.until_shown(handle, "paused")
    await run_script(world.target_dsn, change)
    await world.order(handle, "resume", SEEN)
    return await end_of(handle)


async def compared(world: Scene) -> str:
    return await changed_before_verification(
        world,
        COMPARED,
        f"UPDATE compared.person SET note = '{MARKER} by others' WHERE id = {NUMBER}007;"
        f"DELETE FROM compared.person WHERE id = {NUMBER}008;"
        f"INSERT INTO compared.person (id, email, note) VALUES ({NUMBER}999, '{MARKER}', '{MARKER}')",
    )


async def repaired(world: Scene) -> str:
    change = f"UPDATE repaired.person SET note = '{MARKER} others' WHERE id = {NUMBER}007;"
    return await changed_before_verification(world, REPAIRED, change + TRIGGER)


async def merged(world: Scene) -> str:
    handle = await started(world, MERGED)
    await world.until_shown(handle, "kept open")
    await run_script(
        world.target_dsn, f"UPDATE merged.person SET note = '{MARKER} others' WHERE id IN ({NUMBER}005, {NUMBER}006)"
    )
    await world.order(handle, "rollback", SEEN)
    status = await world.until(handle, "waiting for a person")
    await world.order(handle, "skip", SEEN)
    await end_of(handle)
    return str(status.message)


def payloads(message: Message) -> Iterator[Payload]:
    """Every payload in a message of the server's, however deep."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            values = [inner for inner in value.values() if isinstance(inner, Message)]
        else:
            values = list(value) if field.is_repeated else [value]
        for inner in values:
            yield from payloads(inner)


def texts(message: Message) -> str:
    """A message as it is and its payloads decoded: JSON escapes nothing of what is searched for, whatever it holds."""
    # Text of bytes that are JSON, protobuf or anything: one byte, one character.
    parts = [message.SerializeToString().decode("latin-1")]
    for payload in payloads(message):
        data = payload.data.decode("latin-1")
        parts.append(data)
        if payload.metadata.get("encoding", b"").startswith(b"json"):
            parts.append(json.dumps(json.loads(payload.data), ensure_ascii=False))
    return "\n".join(parts)


async def kept_by_temporal(world: Scene) -> dict[str, str]:
    """All that Temporal keeps of the runs and their children: by workflow, its description and all its events."""
    kept: dict[str, str] = {}
    async for execution in world.client.list_workflows(f'TaskQueue = "{world.task_queue}"'):
        handle = world.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        history = [texts(event) async for event in handle.fetch_history_events()]
        described = (await handle.describe()).raw_description
        kept[f"{execution.id} {execution.run_id}"] = "\n".join([*history, texts(described)])
    return kept


async def test_no_row_is_in_any_history(world: Scene) -> None:
    watched: dict[str, Callable[[Scene], Awaitable[str]]] = {
        "compared": compared,
        "repaired": repaired,
        "merged": merged,
    }
    with capture_logs() as logs:
        async with world.worker():
            names = [*FAILING, *watched]
            ends = await asyncio.gather(
                *(failing(world, name) for name in FAILING), *(one(world) for one in watched.values())
            )
            said = dict(zip(names, ends, strict=True))
            kept = await kept_by_temporal(world)

    wanted = {name: words for name, (_, words) in FAILING.items()} | {
        "compared": ["verification failed", "first: compared.person: 1 "],
        "repaired": ["verification failed", "first: repaired.person: 1 changed in note"],
        "merged": ["2 rows of merged.person were changed by somebody else since the run wrote them"],
    }
    missing = {name: said[name] for name, words in wanted.items() for word in words if word not in said[name]}
    assert not missing
    assert {name for name in said if any(key.startswith(f"{name}/{world.number}") for key in kept)} == set(said)
    children = f"unique/{world.number}/unique.person", f"compared/{world.number}/verify everyone"
    assert all(any(key.startswith(child) for key in kept) for child in children)
    everything = "\n".join(kept.values())
    # What a reason, a result, a failure and a summary are known to hold is found, so a row would be.
    assert all(word in everything for word in (SEEN, "PL/pgSQL function", "partition 1 of 1", "raise failed from None"))
    holders = {
        name: text[max(0, text.index(word) - 300) : text.index(word) + 60]
        for name, text in kept.items()
        for word in (MARKER, NUMBER)
        if word in text
    }
    assert not holders
    # The words are not lost: each is where rows may be.
    logged = "\n".join(str(entry) for entry in logs)
    assert f"{MARKER}@example.org is not welcome" in logged or f"{MARKER}.1@example.org is not welcome" in logged
    assert f"bad email {MARKER}" in logged
    assert f"({NUMBER}005)" in logged
    assert f"({NUMBER}007)" not in everything
    stored = await world.in_target("SELECT string_agg(document::text, '') FROM knarr.verdict")
    assert all(word in stored for word in (f"{NUMBER}007", f"{MARKER} by others", f"no connection for {MARKER}"))
