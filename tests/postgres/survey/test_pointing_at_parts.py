"""Foreign keys that point at a part of the target table alone, or at the whole of which the target table is a part."""

from typing import Any, Final

import pytest

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, told
from tests.postgres.survey.test_occupied import APPEND, MERGE, MISSING, SOURCE

PARTED: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.author (id bigint PRIMARY KEY, name text, code text) PARTITION BY RANGE (id);
CREATE TABLE shop.low PARTITION OF shop.author FOR VALUES FROM (0) TO (100);
ALTER TABLE shop.low ADD UNIQUE (code);
CREATE TABLE shop.book (id integer PRIMARY KEY, author bigint, code text);
"""
OF_PART: Final = "shop.author (shop.low, a part of it)"
OF_WHOLE: Final = "shop.low (shop.author, of which it is a part)"
LOW: Final = {"target": "shop.low"}


@pytest.mark.parametrize(
    ("mapping", "change", "message"),
    [
        (
            MISSING,
            "ALTER TABLE shop.book ADD FOREIGN KEY (author) REFERENCES shop.low ON DELETE CASCADE",
            f"foreign key book_author_fkey of shop.book points at {OF_PART}: rows that are deleted there would be "
            "missed or deleted here",
        ),
        (
            MERGE,
            "ALTER TABLE shop.book ADD FOREIGN KEY (code) REFERENCES shop.low (code) ON UPDATE SET NULL",
            f"foreign key book_code_fkey of shop.book changes rows there when code of {OF_PART} is updated",
        ),
        (
            APPEND,
            "ALTER TABLE shop.author ADD boss bigint;"
            "CREATE TABLE shop.high PARTITION OF shop.author FOR VALUES FROM (100) TO (200);"
            "ALTER TABLE shop.high ADD FOREIGN KEY (boss) REFERENCES shop.low ON DELETE CASCADE",
            "foreign key high_boss_fkey of shop.high points at its own table and deletes or changes rows there when "
            "rows are taken back",
        ),
        (
            MISSING | LOW,
            "ALTER TABLE shop.book ADD FOREIGN KEY (author) REFERENCES shop.author ON DELETE CASCADE",
            f"foreign key book_author_fkey of shop.book points at {OF_WHOLE}: rows that are deleted there would be "
            "missed or deleted here",
        ),
    ],
    ids=["it deletes", "it updates", "it is the table's own", "the table is the part"],
)
async def test_a_foreign_key_may_point_at_a_part_alone_or_at_the_whole_of_a_part(
    mapping: dict[str, Any], change: str, message: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(PARTED)
    await target.execute(change)

    assert [problem[1] for problem in told(await surveyed(mapping))] == [message]


async def test_a_foreign_key_that_points_at_the_whole_is_told_once(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(PARTED)
    await target.execute("ALTER TABLE shop.book ADD FOREIGN KEY (author) REFERENCES shop.author ON DELETE CASCADE")

    found = await surveyed(MERGE)

    assert told(found) == []
    assert [problem[1] for problem in told(found, "warning")] == [
        "foreign key book_author_fkey of shop.book deletes or changes rows there when rows of shop.author are deleted"
    ]
