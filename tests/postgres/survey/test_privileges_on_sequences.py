"""Every right on sequences that a run will use is asked for before it starts, not when all rows have been copied."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from knarr.plan.models import Plan
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey import survey
from tests.postgres.survey.conftest import told

SOURCE: Final = """
CREATE TABLE public.item (id serial PRIMARY KEY, name text);
GRANT SELECT ON public.item TO teller;
"""
# A sequence that the column owns, one that another column's default takes from, one that a column owns and no default.
TARGET: Final = """
CREATE SCHEMA shop; CREATE SCHEMA numbers; CREATE SEQUENCE numbers.codes;
CREATE TABLE shop.item (id serial PRIMARY KEY, name text, code bigint DEFAULT nextval('numbers.codes'));
CREATE SEQUENCE shop.spare OWNED BY shop.item.name;
GRANT USAGE ON SCHEMA shop TO teller; GRANT SELECT, INSERT, UPDATE, DELETE ON shop.item TO teller;
GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA shop, numbers TO teller;
"""
MAPPING: Final[dict[str, Any]] = {
    "target": "shop.item", "source": "public.item", "key": {"id": "id"}, "columns": {"name": "name"}
}  # fmt: skip
PLAN: Final[dict[str, Any]] = {"name": "p", "source": "legacy", "target": "shop"}


@pytest.fixture
async def tellers(source_dsn: str, target_dsn: str) -> AsyncIterator[tuple[Connection, Connection]]:
    """Connections to both sides under a role that may do little."""
    sides = [await connect(dsn, application_name="test") for dsn in (source_dsn, target_dsn)]
    for side, script in zip(sides, (SOURCE, TARGET), strict=True):
        await side.execute(f"CREATE ROLE teller; {script} SET ROLE teller")
    yield sides[0], sides[1]
    for side in sides:
        await side.execute("RESET ROLE; DROP OWNED BY teller; DROP ROLE teller")
        side.terminate()


async def asked(tellers: tuple[Connection, Connection], mode: str) -> list[tuple[str, str, str]]:
    """What the survey says of sequences."""
    plan = Plan.model_validate(PLAN | {"mappings": [MAPPING | {"mode": mode}]})
    found = await survey(*tellers, plan, None)
    return [problem[:3] for problem in told(found) if "sequence" in problem[1]]


async def test_a_schema_that_may_not_be_used_is_said_once(tellers: tuple[Connection, Connection]) -> None:
    source, target = tellers
    await target.execute("RESET ROLE; REVOKE USAGE ON SCHEMA shop FROM teller; SET ROLE teller")
    plan = PLAN | {"mappings": [MAPPING | {"mode": "fill"}]}

    found = await survey(source, target, Plan.model_validate(plan), None)

    assert [problem[1:3] for problem in told(found) if 'SCHEMA "shop"' in problem[2]] == [
        ("role teller may not use schema shop", 'GRANT USAGE ON SCHEMA "shop" TO "teller"')
    ]


@pytest.mark.parametrize("mode", ["fill", "append", "merge"])
async def test_sequences_are_to_be_read_and_set(mode: str, tellers: tuple[Connection, Connection]) -> None:
    source, target = tellers

    assert await asked(tellers, mode) == [
        (
            "mappings[0].source (shop.item)",
            "role teller may not read sequence public.item_id_seq",
            'GRANT SELECT ON SEQUENCE "public"."item_id_seq" TO "teller"',
        ),
        (
            "mappings[0].target (shop.item)",
            "role teller may not read sequence numbers.codes",
            'GRANT SELECT ON SEQUENCE "numbers"."codes" TO "teller"; GRANT USAGE ON SCHEMA "numbers" TO "teller"',
        ),
        (
            "mappings[0].target (shop.item)",
            "role teller may not read sequence shop.item_id_seq",
            'GRANT SELECT ON SEQUENCE "shop"."item_id_seq" TO "teller"',
        ),
        (
            "mappings[0].target (shop.item)",
            "role teller may not read sequence shop.spare",
            'GRANT SELECT ON SEQUENCE "shop"."spare" TO "teller"',
        ),
    ]

    await source.execute("RESET ROLE; GRANT SELECT ON SEQUENCE public.item_id_seq TO teller; SET ROLE teller")
    await target.execute(
        "RESET ROLE; GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop, numbers TO teller;"
        "GRANT USAGE ON SCHEMA numbers TO teller; SET ROLE teller"
    )
    assert await asked(tellers, mode) == []
