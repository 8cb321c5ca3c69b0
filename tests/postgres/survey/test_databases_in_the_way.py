"""What the databases themselves have against a plan: rows, claims, privileges, triggers, locks, replication."""

from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from knarr.errors import TransientError
from knarr.plan.models import Plan
from knarr.plan.resolved import Survey, TableName
from knarr.postgres import lease
from knarr.postgres.schema import install
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey import survey
from knarr.postgres.survey.locks import holders_on_source, naming
from tests.postgres.survey.conftest import Surveyed, make, told

LEGACY: Final = """
CREATE TABLE author (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE book (id integer PRIMARY KEY, author integer REFERENCES author, title text);
INSERT INTO author VALUES (1, 'ann');
"""
FILL: Final[list[dict[str, Any]]] = [
    {"target": "shop.book", "source": "public.book", "mode": "fill"},
    {"target": "shop.author", "source": "public.author", "mode": "fill"},
]
SHOP: Final = """
CREATE SCHEMA shop;
CREATE TABLE shop.author (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(20) NOT NULL,
                          initial text GENERATED ALWAYS AS (left(name, 1)) STORED);
CREATE TABLE shop.book (id integer PRIMARY KEY, author bigint REFERENCES shop.author, title text DEFAULT '');
"""


async def test_tables_that_exist_are_filled_with_their_own_types(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    await target.execute(SHOP)

    found = await surveyed(*FILL)

    assert told(found) == []
    book, author = found.mappings
    assert (book.objects, author.objects, found.objects) == ([], [], [])
    assert book.depends_on == [author.number]
    assert author.depends_on == []
    assert [(one.name, one.source_type, one.target_type) for one in author.columns] == [
        ("id", "integer", "bigint"),
        ("name", "text", "character varying(20)"),
    ]
    assert [(one.column, one.source_sequence) for one in author.sequences] == [("id", None)]
    assert [one.name for one in author.key] == ["id"]


FILL_CASES: Final[dict[str, tuple[str, list[tuple[str, str]]]]] = {
    "rows": (
        "INSERT INTO shop.author (name) VALUES ('x')",
        [("mappings[1].target (shop.author)", "table shop.author has rows")],
    ),
    "a trigger that would fire": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
        "CREATE TRIGGER audit BEFORE INSERT ON shop.book FOR EACH ROW EXECUTE FUNCTION f()",
        [
            (
                "mappings[0].target (shop.book)",
                "triggers of shop.book would fire when rows are copied or taken back: audit",
            )
        ],
    ),
    "a column that needs a value": (
        "ALTER TABLE shop.book ADD price numeric NOT NULL",
        [
            (
                "mappings[0].columns (shop.book)",
                "column price of shop.book is NOT NULL without a default, and the mapping does not write it",
            )
        ],
    ),
    "a column that is gone": (
        "ALTER TABLE shop.book RENAME title TO name",
        [("mappings[0].target (shop.book)", "the target table has no column title")],
    ),
    "a column that is generated": (
        "ALTER TABLE shop.book DROP title, ADD title text GENERATED ALWAYS AS ('x') STORED",
        [("mappings[0].target (shop.book)", "column title of the target is generated; it can't be written")],
    ),
    "foreign keys in a circle": (
        "ALTER TABLE shop.author ADD best integer REFERENCES shop.book",
        [
            (
                "mappings[0].target (shop.book)",
                "foreign keys of the target go round in a circle: shop.book, shop.author, shop.book",
            )
        ],
    ),
    "a view": (
        "DROP TABLE shop.book; CREATE VIEW shop.book AS SELECT 1 AS id, 1::bigint AS author, '' AS title",
        [("mappings[0].target (shop.book)", "shop.book is a view")],
    ),
}


@pytest.mark.parametrize("case", FILL_CASES)
async def test_a_table_to_fill_is_refused_for(
    case: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    await target.execute(SHOP)
    await target.execute("SET search_path = public; " + FILL_CASES[case][0])

    found = await surveyed(*FILL)

    assert [problem[:2] for problem in told(found)] == FILL_CASES[case][1]


async def test_disabled_triggers_and_a_key_to_itself_are_no_error(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    await target.execute(SHOP)
    await target.execute("""
        CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER audit BEFORE INSERT ON shop.book FOR EACH ROW EXECUTE FUNCTION public.f();
        ALTER TABLE shop.book DISABLE TRIGGER audit;
        ALTER TABLE shop.book ADD sequel integer REFERENCES shop.book;
        CREATE RULE quiet AS ON INSERT TO shop.author DO ALSO NOTHING;
    """)

    found = await surveyed(*FILL)

    assert told(found) == []
    assert [problem[:2] for problem in told(found, "warning")] == [
        ("mappings[1].target (shop.author)", "rules of shop.author do not apply to COPY: quiet"),
        (
            "mappings[0].target (shop.book)",
            "foreign key book_sequel_fkey points at its own table and is in force while rows arrive",
        ),
    ]


async def test_what_is_in_the_way_of_what_the_run_makes(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY + "CREATE TYPE size AS ENUM ('s', 'm'); ALTER TABLE book ADD size size;")
    await source.execute("CREATE INDEX by_title ON book (title)")
    await target.execute("""
        CREATE TABLE public.author (id integer);
        CREATE SEQUENCE public.by_title;
        CREATE TYPE public.size AS ENUM ('s', 'm', 'l');
    """)

    found = await surveyed({"source": "public.*"})

    assert told(found) == [
        (
            "mappings[0].columns.size (public.book)",
            "type public.size exists on the target with labels s, m, l",
            "labels s, m",
            "make them equal, or move the table into another schema",
        ),
        (
            "mappings[0].target (public.author)",
            "table public.author exists on the target, with no rows",
            "that it is absent: the run makes it",
            "`mode: fill` fills an empty table, append and merge write to one that has rows; or drop it, or name "
            "another target",
        ),
        (
            "mappings[0] (public.book)",
            "index by_title on public.book is in the way on the target",
            "that it is not there: the run makes it",
            "drop or rename it, or choose another name in the plan",
        ),
    ]


async def test_a_table_that_is_there_with_all_that_stands_on_it_is_one_problem(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY + "CREATE INDEX by_title ON book (title); COMMENT ON TABLE book IS 'read';")
    plan = {"source": "public.*"}
    await make(target, await surveyed(plan))

    found = await surveyed(plan)

    hint = (
        "`mode: fill` fills an empty table, append and merge write to one that has rows; or drop it, or name "
        "another target"
    )
    expected = "that they are absent: the run makes them"
    assert told(found) == [
        (
            "mappings[0].target (public.author)",
            "table public.author exists on the target, with no rows; there too: primary key author_pkey",
            expected,
            hint,
        ),
        (
            "mappings[0].target (public.book)",
            "table public.book exists on the target, with no rows; there too: primary key book_pkey, "
            "index by_title, foreign key book_author_fkey",
            expected,
            hint,
        ),
    ]


async def test_a_type_that_is_there_and_equal_is_used(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    types = """
        CREATE TYPE public.size AS ENUM ('s', 'm');
        CREATE DOMAIN public.positive AS integer CHECK (VALUE > 0);
        CREATE TYPE public.pair AS (a integer, b text);
    """
    await source.execute(types + "CREATE TABLE item (id positive PRIMARY KEY, size size, pair pair)")
    await target.execute(types)

    found = await surveyed({"source": "public.*"})

    assert told(found) == []
    assert found.objects == []
    await make(target, found)


async def test_functions_and_collations_that_the_target_lacks(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute("""
        CREATE FUNCTION twice(integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
        CREATE COLLATION odd (provider = libc, locale = 'C');
        CREATE TABLE item (id integer PRIMARY KEY DEFAULT twice(2), name text COLLATE odd, CHECK (twice(id) > 0));
        CREATE INDEX by_twice ON item (twice(id));
    """)

    found = await surveyed({"source": "public.*"})

    assert [problem[:2] for problem in told(found)] == [
        (
            "mappings[0] (public.item)",
            "index by_twice needs function public.twice(integer), which the target does not have",
        ),
        ("mappings[0].columns.name (public.item)", "collation public.odd does not exist on the target"),
    ]
    await target.execute(
        "CREATE FUNCTION public.twice(integer) RETURNS integer IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'"
    )
    await target.execute("CREATE COLLATION public.odd (provider = libc, locale = 'C')")
    assert told(await surveyed({"source": "public.*"})) == []


async def test_a_table_that_another_run_holds_is_refused_and_its_own_is_not(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    await install(target)
    plan = Plan.model_validate({"name": "other", "source": "a", "target": "b", "mappings": [{"source": "public.*"}]})
    await lease.claim(target, "other/1", plan, "0" * 64, [TableName(schema_name="public", name="book")])

    found = await surveyed({"source": "public.*"})

    assert told(found) == [
        (
            "mappings[0].target (public.book)",
            "run other/1 of plan other holds public.book (running)",
            "a table that no other run holds",
            "wait until it ends, or `knarr abort other/1`, or `knarr complete other/1`; if its workflow is gone: "
            "`knarr doctor --unwind other/1`",
        )
    ]
    assert told(await surveyed({"source": "public.*"}, run_id="other/1")) == []


@pytest.mark.parametrize(
    ("held", "kinship"), [("shop", ", of which shop.author is a part"), ("author_1", ", a part of shop.author")]
)
async def test_a_table_is_refused_when_another_run_holds_one_above_or_below_it(
    held: str, kinship: str, surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    await install(target)
    await target.execute("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.shop (id integer PRIMARY KEY, name text) PARTITION BY RANGE (id);
        CREATE TABLE shop.author PARTITION OF shop.shop FOR VALUES FROM (0) TO (9) PARTITION BY RANGE (id);
        CREATE TABLE shop.author_1 PARTITION OF shop.author DEFAULT;
    """)
    plan = Plan.model_validate({"name": "other", "source": "a", "target": "b", "mappings": [{"source": "public.*"}]})
    await lease.claim(target, "other/1", plan, "0" * 64, [TableName(schema_name="shop", name=held)])

    found = await surveyed({"target": "shop.author", "source": "public.author", "mode": "merge"})

    assert [problem[:2] for problem in told(found)] == [
        ("mappings[0].target (shop.author)", f"run other/1 of plan other holds shop.{held}{kinship} (running)")
    ]


async def test_a_retry_finds_what_the_run_made_and_makes_the_same_plan_of_it(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY + "CREATE TYPE size AS ENUM ('s'); ALTER TABLE book ADD size size, ADD n serial;")
    await install(target)
    wanted = {"source": "public.*", "target": "shop.*"}
    plan = Plan.model_validate({"name": "p", "source": "legacy", "target": "shop", "mappings": [wanted]})
    before = await surveyed(wanted, run_id="p/1")
    await lease.claim(target, "p/1", plan, "0" * 64, [mapping.target for mapping in before.mappings])
    await make(target, before)
    of_run = [(-1, one) for one in before.objects]
    of_mappings = [(mapping.number, one) for mapping in before.mappings for one in mapping.objects]
    await target.executemany(
        "INSERT INTO knarr.object (run_id, mapping, stage, kind, name, drop_sql, epoch) "
        "VALUES ('p/1', $1, $2, $3, $4, $5, 1)",
        [(number, one.stage, one.kind, one.name, one.drop) for number, one in of_run + of_mappings],
    )

    again = await surveyed(wanted, run_id="p/1")

    assert told(again) == []
    assert (again.objects, again.mappings) == (before.objects, before.mappings)
    assert told(await surveyed(wanted, run_id="p/2"))


async def test_privileges_that_lack_are_named_with_the_grant(source_dsn: str, target_dsn: str) -> None:
    source = await connect(source_dsn, application_name="test")
    target = await connect(target_dsn, application_name="test")
    try:
        await source.execute("SET search_path = public; " + LEGACY)
        await target.execute(SHOP + "CREATE TABLE shop.log (id integer)")
        for connection in (source, target):
            await connection.execute("CREATE ROLE clerk")
            await connection.execute("SET ROLE clerk")
        plan = Plan.model_validate(
            {
                "name": "p", "source": "legacy", "target": "shop",
                "mappings": [*FILL, {"target": "shop.new", "source": "public.book"},
                             {"target": "fresh.new", "source": "public.author"}],
            }
        )  # fmt: skip

        found = await survey(source, target, plan, None)
    finally:
        for connection in (source, target):
            await connection.execute("RESET ROLE; DROP ROLE clerk")
            connection.terminate()

    database = urlsplit(target_dsn).path.lstrip("/")
    assert {(where, expected) for where, text, expected, _ in told(found) if text.startswith("role clerk")} == {
        ("mappings[0].source (shop.book)", 'GRANT SELECT ON "public"."book" TO "clerk"'),
        ("mappings[1].source (shop.author)", 'GRANT SELECT ON "public"."author" TO "clerk"'),
        ("mappings[2].source (shop.new)", 'GRANT SELECT ON "public"."book" TO "clerk"'),
        ("mappings[3].source (fresh.new)", 'GRANT SELECT ON "public"."author" TO "clerk"'),
        ("target shop", f'GRANT CREATE ON DATABASE "{database}" TO "clerk"'),
        ("target shop", 'GRANT CREATE, USAGE ON SCHEMA "shop" TO "clerk"'),
        ("mappings[0].target (shop.book)", 'GRANT SELECT, INSERT, UPDATE, DELETE ON "shop"."book" TO "clerk"'),
        ("mappings[1].target (shop.author)", 'GRANT SELECT, INSERT, UPDATE, DELETE ON "shop"."author" TO "clerk"'),
        (
            "mappings[1].target (shop.author)",
            'GRANT SELECT, UPDATE ON SEQUENCE "shop"."author_id_seq" TO "clerk"',
        ),
    }


async def test_rows_that_a_policy_hides_are_refused(source_dsn: str, target: Connection) -> None:
    source = await connect(source_dsn, application_name="test")
    try:
        await source.execute("SET search_path = public; " + LEGACY)
        await source.execute("ALTER TABLE book ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON book USING (id > 1)")
        await source.execute("CREATE ROLE half_blind; GRANT SELECT ON book TO half_blind; SET ROLE half_blind")
        mapping = {"target": "shop.book", "source": "public.book"}
        plan = Plan.model_validate({"name": "p", "source": "legacy", "target": "shop", "mappings": [mapping]})

        found = await survey(source, target, plan, None)
    finally:
        await source.execute("RESET ROLE; DROP OWNED BY half_blind; DROP ROLE half_blind")
        source.terminate()

    assert (
        "mappings[0].source (shop.book)",
        "row level security hides rows of public.book from role half_blind",
        "a role that sees all rows: its owner, or one with BYPASSRLS",
        "",
    ) in told(found)


async def test_event_triggers_publications_and_locks_are_said(
    surveyed: Surveyed, source: Connection, target: Connection, target_dsn: str
) -> None:
    await source.execute(LEGACY)
    await target.execute(SHOP)
    await target.execute("""
        CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION public.watch();
        CREATE PUBLICATION feed FOR TABLE shop.book;
    """)
    writer = await connect(target_dsn, application_name="another writer")
    try:
        await writer.execute("BEGIN; INSERT INTO shop.book VALUES (7)")
        found = await surveyed(*FILL)
    finally:
        writer.terminate()

    warnings = [problem[:2] for problem in told(found, "warning")]
    assert ("target shop", "event triggers fire when the run makes its objects: watcher") in warnings
    assert ("target shop", "publications send on what the run writes: feed") in warnings
    assert [
        text for _, text in warnings if text.startswith("shop.book is locked in RowExclusiveLock by another writer")
    ]


async def test_a_table_that_nobody_may_look_at_is_named_and_the_rest_surveyed(
    surveyed: Surveyed, source: Connection, source_dsn: str
) -> None:
    await source.execute(LEGACY)
    other = await connect(source_dsn, application_name="a long ALTER TABLE")
    try:
        await other.execute("BEGIN; LOCK TABLE public.book IN ACCESS EXCLUSIVE MODE")
        found = await surveyed({"source": "public.*"})
    finally:
        other.terminate()

    assert [str(mapping.target) for mapping in found.mappings] == ["public.author"]
    ((where, text, expected, _),) = told(found)
    assert (where, expected) == ("source legacy", "a table that can be read")
    assert text.startswith("public.book is locked in AccessExclusiveLock by a long ALTER TABLE (postgres, pid ")


async def test_extensions_that_the_target_lacks(surveyed: Surveyed, source: Connection, target: Connection) -> None:
    await source.execute("""
        CREATE EXTENSION citext; CREATE EXTENSION btree_gist;
        CREATE TABLE room (name citext PRIMARY KEY, no int, at int4range, EXCLUDE USING gist (no WITH =, at WITH &&));
    """)
    wanted = {"source": "public.*", "target": "shop.*"}

    found = await surveyed(wanted)

    assert [problem[:2] for problem in told(found)] == [
        ("mappings[0].columns.name (shop.room)", "type public.citext of extension citext does not exist on the target")
    ]
    # An extension's types are where the extension is, whatever schema the table goes to.
    await target.execute("CREATE SCHEMA tools; CREATE EXTENSION citext SCHEMA tools")
    found = await surveyed(wanted)
    assert [problem[:2] for problem in told(found)] == [
        ("mappings[0] (shop.room)", "an index needs extension btree_gist, which the target does not have")
    ]
    await target.execute("CREATE EXTENSION btree_gist SCHEMA tools")
    found = await surveyed(wanted)
    assert told(found) == []
    assert [one.target_type for one in found.mappings[0].columns] == ["tools.citext", "integer", "int4range"]
    await make(target, found)


async def test_a_database_that_takes_no_writes_is_refused(
    surveyed: Surveyed, source: Connection, target_dsn: str, reader: Connection
) -> None:
    await source.execute(LEGACY)
    database = urlsplit(target_dsn).path.lstrip("/")
    admin = await connect(target_dsn, application_name="test")
    await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    admin.terminate()
    target = await connect(target_dsn, application_name="test")
    plan = Plan.model_validate({"name": "p", "source": "l", "target": "s", "mappings": [{"source": "public.*"}]})
    try:
        found: Survey = await survey(reader, target, plan, None)
    finally:
        target.terminate()

    assert told(found) == [
        ("target s", "default_transaction_read_only is on", "a database and a role that may write", "")
    ]


async def test_another_encoding_and_collation_are_said(source: Connection, reader: Connection, target_dsn: str) -> None:
    await source.execute(LEGACY)
    admin = await connect(target_dsn, application_name="test")
    await admin.execute("CREATE DATABASE old_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    target = await connect(target_dsn.replace(urlsplit(target_dsn).path, "/old_ascii"), application_name="test")
    plan = Plan.model_validate({"name": "p", "source": "l", "target": "s", "mappings": [{"source": "public.*"}]})
    try:
        found = await survey(reader, target, plan, None)
    finally:
        await target.close()
        await admin.execute("DROP DATABASE old_ascii")
        admin.terminate()

    assert told(found) == []
    assert "encoding SQL_ASCII, the source has UTF8" in [text for _, text, _, _ in told(found, "warning")]


async def test_a_survey_writes_nothing_on_either_side(
    surveyed: Surveyed, source: Connection, target: Connection
) -> None:
    await source.execute(LEGACY)
    await target.execute(SHOP)
    # A transaction that writes takes an id, and ids are the whole server's: autovacuum may take one in between.
    before, after = [0], [1]
    for _ in range(3):
        before = [await side.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())") for side in (source, target)]
        await surveyed(*FILL, {"target": "shop.new", "source": "public.book"})
        after = [await side.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())") for side in (source, target)]
        if before == after:
            break
    assert before == after


async def test_a_mapping_onto_itself_is_refused(source: Connection, reader: Connection) -> None:
    await source.execute(LEGACY)
    mapping = {"target": "public.book", "source": "public.book", "mode": "append"}
    plan = Plan.model_validate({"name": "p", "source": "l", "target": "s", "mappings": [mapping]})

    found = await survey(reader, source, plan, None)

    assert [problem[:2] for problem in told(found)] == [
        ("mappings[0].target (public.book)", "the mapping writes the table that it reads")
    ]


async def test_who_keeps_the_source_from_being_read_is_told_and_who_only_writes_there_is_not(
    source: Connection, source_dsn: str
) -> None:
    await source.execute(LEGACY)
    names = [TableName(schema_name="public", name=name) for name in ("book", "author")]
    other = await connect(source_dsn, application_name="a long ALTER TABLE")
    try:
        await other.execute("BEGIN; LOCK TABLE public.book IN ACCESS EXCLUSIVE MODE")
        await other.execute("LOCK TABLE public.author IN SHARE MODE")
        found = await holders_on_source(source, names)
        told = naming(TransientError("lock timeout", sqlstate="55P03"), found * 5)
    finally:
        other.terminate()

    (text,) = found
    assert text.startswith("on the source public.book is locked in AccessExclusiveLock by a long ALTER TABLE (")
    assert told.message.startswith(f"lock timeout; now {text}; ") and told.message.endswith("; and 2 more")
    assert (type(told), told.sqlstate) == (TransientError, "55P03")
