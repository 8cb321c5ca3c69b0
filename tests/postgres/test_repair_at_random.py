"""Merges, other people's changes, a source that moves on, repairs and undos in any order, held against dictionaries."""

import os
import random
from dataclasses import dataclass, field
from typing import Literal

import pytest

from knarr.plan.resolved import Partition, ResolvedMapping
from knarr.postgres import before
from tests.postgres.occupied import Occupied, merging

SPLIT = [
    Partition(mapping=0, number=0, lower=None, upper=["20"], estimated_rows=0),
    Partition(mapping=0, number=1, lower=["20"], upper=None, estimated_rows=0),
]
CANARY = {"canary": "t.id % 2 = 0"}
ROUNDS = 60 if os.environ.get("KNARR_FAULTS") == "long" else 20


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knarr.postgres.undo.BATCH", 7)


Source = dict[int, tuple[str | None, int | None]]
Row = tuple[str | None, int | None, str]  # name, score, note


@dataclass
class Model:
    """What the table and the undo log must hold, told in dictionaries."""

    appends: bool
    delete_missing: bool
    source: Source
    rows: dict[int, Row]
    log: dict[int, list[tuple[str, Row | None]]] = field(default_factory=dict)

    def moved(self, phase: str, *, again: bool) -> set[int]:
        """Keys of the source that a phase moves, or that have been moved when it is done."""
        canary = {key for key in self.source if key % 2 == 0}
        if phase == "canary":
            return canary
        return set(self.source) if again or self.delete_missing else set(self.source) - canary

    def _wanted(self, phase: str, *, again: bool) -> dict[int, Row | None]:
        wanted: dict[int, Row | None] = {}
        for key in self.moved(phase, again=again):
            at_start = self.log[key][-1][1] if again and self.log.get(key) else None
            stands = self.rows.get(key, at_start)
            note = stands[2] if stands else "ours"
            wanted[key] = (*self.source[key], note)
        if phase == "all" and self.delete_missing:
            wanted |= dict.fromkeys(set(self.rows) - set(self.source))
        return {key: row for key, row in wanted.items() if row != self.rows.get(key)}

    def _put(self, key: int, row: Row | None) -> None:
        self.rows.pop(key, None)
        if row is not None:
            self.rows[key] = row

    def merge(self, phase: str) -> None:
        for key, row in self._wanted(phase, again=False).items():
            self.log.setdefault(key, []).append((phase, self.rows.get(key)))
            self._put(key, row)

    def repair(self, phase: str) -> set[int]:
        """Returns the keys whose rows are written."""
        wanted = self._wanted(phase, again=True)
        for key, row in wanted.items():
            entries = self.log.setdefault(key, [])
            if not entries:
                entries.append((phase, self.rows.get(key)))
            elif row is None and entries[-1][1] is None:
                entries.pop()
            self._put(key, row)
        return set(wanted)

    def undo(self, phase: str) -> None:
        for key, entries in self.log.items():
            if entries and entries[-1][0] == phase:
                self._put(key, entries.pop()[1])


async def _tamper(occupied: Occupied, model: Model, phase: str, choice: random.Random) -> None:
    """Somebody changes, deletes and adds rows; only rows that were moved, so that the proof can explain them."""
    moved = sorted(model.moved(phase, again=True))
    for key in choice.sample(moved, min(len(moved), choice.randrange(8))):
        if key not in model.rows:
            continue
        if choice.random() < 0.4:
            del model.rows[key]
            await occupied.target.execute("DELETE FROM public.taken WHERE id = $1", key)
        else:
            # Where the run has updated the row, an undo would stop at what somebody has put there, as it should.
            asked = any(row for _, row in model.log.get(key, []))
            note = choice.choice([model.rows[key][2], "changed"]) if not asked else model.rows[key][2]
            model.rows[key] = (f"x{choice.randrange(99)}", model.rows[key][1], note)
            query = "UPDATE public.taken SET name = $2, note = $3 WHERE id = $1"
            await occupied.target.execute(query, key, model.rows[key][0], note)
    for key in choice.sample(range(1, 41), choice.randrange(4)):
        # Only where the mapping will find them: else they are others' rows for good, and an undo would stop at them.
        found = key in moved or (phase == "all" and model.delete_missing)
        # A key that the source has had since is not the run's: it would not be appended over theirs.
        if key not in model.rows and found and (model.log.get(key) or not model.appends):
            at_start = model.log[key][-1][1] if model.log.get(key) else None
            model.rows[key] = (f"again {key}", None, at_start[2] if at_start else "again")
            query = "INSERT INTO public.taken (id, name, score, note) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4)"
            await occupied.target.execute(query, key, *model.rows[key])


async def _move_on(occupied: Occupied, model: Model, choice: random.Random) -> None:
    """The source changes, deletes and adds rows; never a key that others hold, which an append could not take."""
    for key in choice.sample(range(1, 51), choice.randrange(8)):
        if key not in model.source:
            if key not in model.rows or model.delete_missing:
                model.source[key] = (f"later {key}", key)
                query = "INSERT INTO public.given VALUES ($1, $2, $3)"
                await occupied.run.source.execute(query, key, *model.source[key])
        elif choice.random() < 0.5:
            model.source[key] = (f"moved {choice.randrange(99)}", None)
            query = "UPDATE public.given SET name = $2, score = $3 WHERE id = $1"
            await occupied.run.source.execute(query, key, *model.source[key])
        else:
            del model.source[key]
            await occupied.run.source.execute("DELETE FROM public.given WHERE id = $1", key)


async def _holds(occupied: Occupied, model: Model) -> bool:
    found = {row[0]: tuple(row[1:]) for row in await occupied.rows("id, name, score, note")}
    assert found == model.rows
    return True


PLACES = "SELECT id, xmin::text || ctid::text AS place FROM public.taken"


async def _repaired(occupied: Occupied, item: ResolvedMapping, model: Model, phase: str, round: int) -> None:
    before_it = {row["id"]: row["place"] for row in await occupied.target.fetch(PLACES)}
    written = model.repair(phase)
    done = [await occupied.repair(item, phase=phase, round=round, partition=piece) for piece in SPLIT]
    assert sum(one.rows for one in done) == len(written)
    assert await _holds(occupied, model)
    assert await occupied.in_balance()
    after = {row["id"]: row["place"] for row in await occupied.target.fetch(PLACES)}
    assert {key for key in before_it.keys() | after.keys() if before_it.get(key) != after.get(key)} == written


FORGET = "TRUNCATE public.taken, knarr.ledger, knarr.undo, knarr.undone, knarr.table_before, knarr.sequence_before"


async def test_whatever_happens_between_merge_and_repair_an_undo_finds_its_way_back(occupied: Occupied) -> None:
    occupied.phases = ["canary", "all"]
    await occupied.prepare(merging(phases=CANARY), pieces=SPLIT)
    round = 0
    for seed in range(ROUNDS):
        choice = random.Random(seed)
        mode: Literal["append", "merge"] = choice.choice(("append", "merge", "merge"))
        item = merging(phases=CANARY, mode=mode, delete_missing=mode == "merge" and choice.random() < 0.6)
        keys = set(choice.sample(range(1, 41), 25))
        own = keys if mode == "merge" else set(range(1, 41)) - keys
        source: Source = {key: (f"new {key}", key) for key in sorted(own) if choice.random() < 0.7}
        source |= {key: (f"new {key}", key) for key in range(1, 41) if key not in keys and choice.random() < 0.4}
        rows: dict[int, Row] = {
            key: (*source[key], "theirs") if key in source and choice.random() < 0.5 else (f"old {key}", -key, "theirs")
            for key in sorted(keys)
        }
        model = Model(mode == "append", item.delete_missing, source, rows)
        await occupied.target.execute(FORGET)
        await occupied.run.source.execute("TRUNCATE public.given")
        await occupied.run.source.executemany(
            "INSERT INTO public.given VALUES ($1, $2, $3)", [(key, *row) for key, row in source.items()]
        )
        await occupied.target.executemany(
            "INSERT INTO public.taken (id, name, score, note) OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4)",
            [(key, *row) for key, row in rows.items()],
        )
        await before.record(occupied.target, occupied.run.lease, occupied.run.run_id, item)
        for phase in occupied.phases:
            if choice.random() < 0.5:
                await _move_on(occupied, model, choice)
            model.merge(phase)
            for piece in SPLIT:
                await occupied.move(item, phase=phase, partition=piece)
            assert await _holds(occupied, model)
            for _ in range(choice.randrange(3)):
                if choice.random() < 0.5:
                    await _move_on(occupied, model, choice)
                await _tamper(occupied, model, phase, choice)
                round += 1
                await _repaired(occupied, item, model, phase, round)
        for phase in reversed(occupied.phases):
            model.undo(phase)
            await occupied.undo(item, phase=phase)
            assert await _holds(occupied, model)
        assert await occupied.log() == {}
