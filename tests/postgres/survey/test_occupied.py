"""What append and merge need of a table that has rows, and what is refused because it could not be taken back."""

from typing import Any, Final

import pytest

from knarr.postgres.session import Connection
from tests.postgres.survey.conftest import Surveyed, told

SOURCE: Final = """
CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL, code text NOT NULL UNIQUE);
INSERT INTO author VALUES (1, 'ann', 'a');
"""
TARGET: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.author (id bigint PRIMARY KEY, name varchar(20) NOT NULL, code text UNIQUE,
                          initial text GENERATED ALWAYS AS (left(name, 1)) STORED);
INSERT INTO shop.author VALUES (1, 'old', 'o');
CREATE TABLE shop.book (id integer PRIMARY KEY, author bigint);
CREATE FUNCTION shop.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""
MERGE: Final[dict[str, Any]] = {"target": "shop.author", "source": "public.author", "mode": "merge"}
APPEND: Final = MERGE | {"mode": "append"}
FILL: Final = MERGE | {"mode": "fill"}
MISSING: Final = MERGE | {"delete_missing": True}


@pytest.mark.parametrize("mapping", [MERGE, APPEND, MISSING], ids=["merge", "append", "delete missing"])
async def test_a_table_with_rows_is_merged_into(
    mapping: dict[str, Any], surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(TARGET)

    found = await surveyed(mapping)

    assert told(found) == []
    [author] = found.mappings
    assert (author.mode, author.delete_missing) == (mapping["mode"], "delete_missing" in mapping)
    assert [column.name for column in author.key] == ["id"]
    assert [(column.name, column.target_type) for column in author.columns] == [
        ("id", "bigint"),
        ("name", "character varying(20)"),
        ("code", "text"),
    ]
    assert author.objects == []


REFUSED: Final[dict[str, tuple[dict[str, Any], str, str, str]]] = {
    "an update trigger": (
        MERGE,
        "CREATE TRIGGER t AFTER UPDATE ON shop.author FOR EACH ROW EXECUTE FUNCTION shop.f()",
        "mappings[0].target (shop.author)",
        "triggers of shop.author would fire when rows are merged or taken back: t",
    ),
    "a delete trigger, which the undo of an append would fire": (
        APPEND,
        "CREATE TRIGGER t BEFORE DELETE ON shop.author FOR EACH STATEMENT EXECUTE FUNCTION shop.f()",
        "mappings[0].target (shop.author)",
        "triggers of shop.author would fire when rows are merged or taken back: t",
    ),
    "a rule": (
        MERGE,
        "CREATE RULE r AS ON UPDATE TO shop.author DO ALSO SELECT 1",
        "mappings[0].target (shop.author)",
        "rules of shop.author would rewrite what the run does: r",
    ),
    "no unique key": (
        MERGE,
        "ALTER TABLE shop.author DROP CONSTRAINT author_pkey; CREATE INDEX ON shop.author (id)",
        "mappings[0].key (shop.author)",
        "no unique index of shop.author is over just (id)",
    ),
    "a unique key of more columns": (
        MERGE,
        "ALTER TABLE shop.author DROP CONSTRAINT author_pkey, ADD PRIMARY KEY (id, name)",
        "mappings[0].key (shop.author)",
        "no unique index of shop.author is over just (id)",
    ),
    "a unique key of some rows": (
        MERGE,
        "ALTER TABLE shop.author DROP CONSTRAINT author_pkey; CREATE UNIQUE INDEX ON shop.author (id) WHERE id > 7",
        "mappings[0].key (shop.author)",
        "no unique index of shop.author is over just (id)",
    ),
    "an identity that can't be updated": (
        MERGE | {"key": {"code": "code"}},
        "ALTER TABLE shop.author ALTER id ADD GENERATED ALWAYS AS IDENTITY, ALTER code SET NOT NULL",
        "mappings[0].columns.id (shop.author)",
        "column id of shop.author is GENERATED ALWAYS AS IDENTITY, which no UPDATE may set",
    ),
    "a foreign key that would delete elsewhere": (
        MISSING,
        "ALTER TABLE shop.book ADD FOREIGN KEY (author) REFERENCES shop.author ON DELETE CASCADE",
        "mappings[0].delete_missing (shop.author)",
        "foreign key book_author_fkey of shop.book points at shop.author: rows that are deleted there would be missed "
        "or deleted here",
    ),
    "a foreign key that would update elsewhere": (
        MERGE,
        "ALTER TABLE shop.book ADD code text REFERENCES shop.author (code) ON UPDATE CASCADE",
        "mappings[0].target (shop.author)",
        "foreign key book_code_fkey of shop.book changes rows there when code of shop.author is updated",
    ),
    "a foreign key to itself that deletes": (
        APPEND,
        "ALTER TABLE shop.author ADD boss bigint REFERENCES shop.author ON DELETE CASCADE",
        "mappings[0].target (shop.author)",
        "foreign key author_boss_fkey of shop.author points at its own table and deletes or changes rows there when "
        "rows are taken back",
    ),
    "a constraint that is not validated": (
        MERGE,
        "ALTER TABLE shop.author ADD CONSTRAINT short CHECK (length(name) < 9) NOT VALID",
        "mappings[0].target (shop.author)",
        "constraint short of shop.author is not validated: rows may break it that the run never saw, and verification "
        "would find them",
    ),
    "tables that inherit": (
        MERGE,
        "CREATE TABLE shop.child () INHERITS (shop.author)",
        "mappings[0].target (shop.author)",
        "other tables inherit from shop.author: its rows and theirs can't be told apart",
    ),
    "a generated column": (
        MERGE | {"key": {"id": "id"}, "columns": {"name": "name", "initial": "code"}},
        "SELECT",
        "mappings[0].columns.initial (shop.author)",
        "column initial of the target is generated; it can't be written",
    ),
    "no table": (
        MERGE,
        "DROP TABLE shop.author",
        "mappings[0].target (shop.author)",
        "table shop.author does not exist on the target",
    ),
    "a view": (
        MERGE,
        "ALTER TABLE shop.author RENAME TO writer; CREATE VIEW shop.author AS SELECT id, name, code FROM shop.writer",
        "mappings[0].target (shop.author)",
        "shop.author is a view",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_could_not_be_taken_back_is_refused(
    case: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    mapping, change, where, message = REFUSED[case]
    await source.execute(SOURCE)
    await target.execute(TARGET)
    await target.execute(change)

    found = await surveyed(mapping)

    assert [problem[:2] for problem in told(found)] == [(where, message)]


async def test_tables_that_inherit_are_in_the_way_of_a_fill_too(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(TARGET)
    await target.execute("TRUNCATE shop.author; CREATE TABLE shop.child () INHERITS (shop.author)")

    assert told(await surveyed(FILL)) == [
        (
            "mappings[0].target (shop.author)",
            "other tables inherit from shop.author: its rows and theirs can't be told apart",
            "a table alone",
            "ALTER TABLE ... NO INHERIT takes them off for the time of the run",
        )
    ]

    await target.execute("ALTER TABLE shop.child NO INHERIT shop.author")
    assert told(await surveyed(FILL)) == []


async def test_a_disabled_trigger_is_no_matter(surveyed: Surveyed, source: Connection, target: Connection) -> None:
    await source.execute(SOURCE)
    await target.execute(TARGET)
    await target.execute(
        "CREATE TRIGGER t AFTER UPDATE ON shop.author FOR EACH ROW EXECUTE FUNCTION shop.f();"
        "ALTER TABLE shop.author DISABLE TRIGGER USER"
    )

    assert told(await surveyed(MERGE)) == []


async def test_a_trigger_of_one_partition_is_seen(surveyed: Surveyed, source: Connection, target: Connection) -> None:
    await source.execute(SOURCE)
    await target.execute(TARGET)
    await target.execute(
        "DROP TABLE shop.author; CREATE TABLE shop.author (id bigint PRIMARY KEY, name text, code text)"
        " PARTITION BY RANGE (id);"
        "CREATE TABLE shop.author_1 PARTITION OF shop.author FOR VALUES FROM (0) TO (100);"
        "CREATE TRIGGER deep AFTER DELETE ON shop.author_1 FOR EACH ROW EXECUTE FUNCTION shop.f()"
    )

    found = await surveyed(MERGE)

    assert [problem[1] for problem in told(found)] == [
        "triggers of shop.author would fire when rows are merged or taken back: deep"
    ]


async def test_a_key_that_rows_elsewhere_follow_is_warned_of(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE)
    await target.execute(TARGET)
    await target.execute("ALTER TABLE shop.book ADD FOREIGN KEY (author) REFERENCES shop.author ON DELETE SET NULL")

    found = await surveyed(MERGE)

    assert told(found) == []
    assert [problem[1] for problem in told(found, "warning")] == [
        "foreign key book_author_fkey of shop.book deletes or changes rows there when rows of shop.author are deleted"
    ]


async def test_deleting_everything_because_the_source_is_empty_is_warned_of(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE + "TRUNCATE author")
    await target.execute(TARGET)

    found = await surveyed(MISSING)

    assert told(found) == []
    assert [problem[:2] for problem in told(found, "warning")] == [
        (
            "mappings[0].delete_missing (shop.author)",
            "the source has no row for shop.author: every row of it (in its scope) will be deleted",
        )
    ]


async def test_parents_are_merged_before_their_children(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(SOURCE + "CREATE TABLE book (id integer PRIMARY KEY, author integer)")
    await target.execute(TARGET)
    await target.execute("ALTER TABLE shop.book ADD FOREIGN KEY (author) REFERENCES shop.author")

    found = await surveyed({"target": "shop.book", "source": "public.book", "mode": "append"}, MERGE)

    book, author = found.mappings
    assert told(found) == []
    assert (book.depends_on, author.depends_on) == ([author.number], [])
