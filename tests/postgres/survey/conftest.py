"""A survey of a plan over a source and a target that a test has filled."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from knarr.plan.models import Plan
from knarr.plan.resolved import STAGES, DatabaseObject, Survey
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey import Surroundings, survey

ROOT: Final = Path(__file__).parents[3]

Surveyed = Callable[..., Awaitable[Survey]]


@pytest.fixture
async def source(source_dsn: str) -> AsyncIterator[Connection]:
    """A connection that fills the source as any client would: what it makes without a schema is in public."""
    connection = await connect(source_dsn, application_name="test source")
    await connection.execute("SET search_path = public")
    yield connection
    connection.terminate()


@pytest.fixture
async def reader(source_dsn: str) -> AsyncIterator[Connection]:
    """A connection to the source that only reads, as activities have it."""
    connection = await connect(source_dsn, application_name="test reader", read_only=True)
    yield connection
    connection.terminate()


@pytest.fixture
def surveyed(reader: Connection, target: Connection) -> Surveyed:
    """Surveys a plan: `await surveyed({"target": ..., "source": ...}, ..., types=..., checks=...)`."""
    return surveys(reader, target)


def surveys(reader: Connection, target: Connection) -> Surveyed:
    """What `surveyed` is, over these two connections."""

    async def run(
        *mappings: dict[str, Any], run_id: str | None = None, around: Surroundings | None = None, **plan: Any
    ) -> Survey:
        whole = {"name": "p", "source": "legacy", "target": "shop", "mappings": list(mappings)} | plan
        return await survey(reader, target, Plan.model_validate(whole), run_id, around)

    return run


def in_order(found: Survey) -> list[DatabaseObject]:
    """Every object in the order in which a run makes them: those of the run, then stage by stage."""
    staged = [one for stage in STAGES for mapping in found.mappings for one in mapping.objects if one.stage == stage]
    return [*found.objects, *staged]


async def make(target: Connection, found: Survey) -> None:
    """Makes every object; each is absent before and there after, by its own probe."""
    for one in in_order(found):
        assert await target.fetchval(one.probe) is None, one
        await target.execute(one.create)
        assert await target.fetchval(one.probe) == 1, one


async def take_back(target: Connection, found: Survey) -> None:
    """Drops every object in reverse, and each once more: a drop holds when the object is gone."""
    for one in reversed(in_order(found)):
        await target.execute(one.drop)
        assert await target.fetchval(one.probe) is None, one
        await target.execute(one.drop)


def told(found: Survey, severity: str = "error") -> list[tuple[str, str, str, str]]:
    """The problems of one severity: where, found, expected, hint. That roles are superusers is no news in a test."""
    return [
        (one.where, one.found, one.expected, one.hint)
        for one in found.problems
        if one.severity == severity and not one.found.endswith("is a superuser")
    ]
