"""The audit trail says which of the plan's own code wrote the rows of each partition."""

import hashlib
import json
from pathlib import Path
from typing import Any

from knarr.audit import chain
from knarr.plan.resolved import Partition
from tests.postgres.specimens import Run, column, mapping

ITEM = mapping(
    [column("id", "integer"), column("name", "text")],
    key=["id"],
    transform="knarr_test_code:mark",
    transform_columns=["name"],
)


def written(folder: Path, sign: str) -> str:
    """A transform in a folder of its own; returns the SHA-256 of its file."""
    folder.mkdir()
    code = f"def mark(rows):\n    return [{{'name': row['name'] + '{sign}'}} for row in rows]\n"
    (folder / "knarr_test_code.py").write_text(code)
    return hashlib.sha256(code.encode()).hexdigest()


async def bodies(run: Run) -> list[dict[str, Any]]:
    return [json.loads(entry.body) for entry in await chain.read(run.target, run.run_id) if entry.kind == "copy"]


async def make(run: Run) -> None:
    for side, name in ((run.source, "given"), (run.target, "taken")):
        await side.execute(f"CREATE TABLE public.{name} (id integer, name text)")
    await run.source.execute("INSERT INTO public.given SELECT n, 'x' FROM generate_series(1, 20) AS n")


async def test_each_partition_names_the_file_that_it_went_through(run: Run, tmp_path: Path) -> None:
    await make(run)
    before, after = written(tmp_path / "before", "!"), written(tmp_path / "after", "?")
    pieces = [
        Partition(mapping=0, number=0, lower=None, upper=["10"], estimated_rows=9),
        Partition(mapping=0, number=1, lower=["10"], upper=None, estimated_rows=11),
    ]
    await run.store(ITEM, pieces=pieces)

    for piece, folder in zip(pieces, ("before", "after"), strict=True):
        await run.copy(run.job(ITEM, partition=piece, plan_folder=tmp_path / folder))

    told = [(body["transform"], body["transform_sha256"]) for body in await bodies(run)]
    assert told == [("knarr_test_code:mark", before), ("knarr_test_code:mark", after)]


async def test_rows_that_went_through_no_code_name_none(run: Run, tmp_path: Path) -> None:
    await make(run)
    plain = ITEM.model_copy(update={"transform": None, "transform_columns": []})
    none_of_it = ITEM.model_copy(update={"number": 1, "where": "false"})
    written(tmp_path / "code", "!")
    await run.store(plain, none_of_it)

    await run.copy(run.job(plain))
    await run.copy(run.job(none_of_it, plan_folder=tmp_path / "code"))

    assert [(body["rows"], "transform" in body, "transform_sha256" in body) for body in await bodies(run)] == [
        (20, False, False),
        (0, False, False),
    ]
