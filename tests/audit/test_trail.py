"""The audit trail in a real PostgreSQL: appending, refusing, and what an attacker with every right leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import asyncpg
import pytest

from knarr.audit import chain
from knarr.audit.chain import AuditHead, ChainFault
from knarr.postgres.session import Connection, connect

RUN = "shop-v2/2026-11-24T21-04-05Z"


@pytest.fixture
async def written(target: Connection) -> list[AuditHead]:
    """Eight entries, and the heads that their writers were given."""
    return [await chain.append(target, RUN, f"key {n}", "step", {"step": f"s{n}", "n": n}) for n in range(1, 9)]


async def faults(target: Connection, witnesses: list[AuditHead] | None = None) -> list[ChainFault]:
    entries, head = await chain.read(target, RUN), await chain.read_head(target, RUN)
    return chain.check_chain(entries, head, witnesses or [])


async def told(target: Connection, witnesses: list[AuditHead] | None = None) -> set[tuple[str, int]]:
    return {(fault.kind, fault.position) for fault in await faults(target, witnesses)}


async def attack(target: Connection, *statements: str) -> None:
    """As a superuser who knows how to switch triggers off."""
    async with target.transaction():
        await target.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await target.execute(statement)


async def test_what_was_appended_is_read_back_and_whole(target: Connection, written: list[AuditHead]) -> None:
    entries = await chain.read(target, RUN)
    assert [entry.position for entry in entries] == list(range(1, 9))
    assert [AuditHead(position=entry.position, digest=entry.digest) for entry in entries] == written
    assert await chain.read_head(target, RUN) == written[-1]
    assert await faults(target, written) == []


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "größer ≤ 日本語 🚢",
        "".join(chr(code) for code in range(1, 33)) + "\x7f\x80\x9f",
        "NUL\0 in the middle",
        "\u2028\u2029\u202e\ufeff",
        "quotes \" ' \\ / \\u0041",
        "\ud800 alone",
        "e\u0301 and \u00e9",
        "",
    ],
)
async def test_python_and_sql_agree_on_the_digest(target: Connection, text: str) -> None:
    await chain.append(target, f"run {text!r}", "key ü", "kind 🚢", {"text": text, text or "empty": [text, 1.5, None]})
    (entry,) = await chain.read(target, f"run {text!r}")
    assert chain.compute_digest(entry) == entry.digest


@pytest.mark.parametrize(
    "at",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 11, 24, 21, 4, 5, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 58, 999999, tzinfo=UTC),
        datetime(1, 1, 2, tzinfo=UTC),
    ],
)
async def test_python_and_sql_agree_on_every_moment(target: Connection, at: datetime) -> None:
    entry = chain.AuditEntry(
        run_id="r", position=2**62, key="k", at=at, kind="step", body="{}", previous="ab" * 32, digest=""
    )
    digest = await target.fetchval(
        "SELECT knarr.audit_digest($1, $2, $3, $4, $5, $6, $7)",
        bytes.fromhex(entry.previous),
        entry.run_id,
        entry.position,
        entry.at,
        entry.kind,
        entry.key,
        entry.body,
    )
    assert chain.compute_digest(entry) == digest.hex()


async def test_the_same_key_appends_once(target: Connection, written: list[AuditHead]) -> None:
    again = await chain.append(target, RUN, "key 3", "step", {"something": "else"})
    assert again == written[2]
    assert len(await chain.read(target, RUN)) == 8


async def test_an_effect_that_is_taken_back_takes_its_entry_with_it(
    target: Connection, written: list[AuditHead]
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with target.transaction():
            await chain.append(target, RUN, "key 9", "step", {})
            raise ZeroDivisionError
    assert await chain.read_head(target, RUN) == written[-1]
    assert await faults(target, written) == []


async def test_runs_have_chains_of_their_own(target: Connection, written: list[AuditHead]) -> None:
    other = await chain.append(target, "another run", "key 1", "step", {})
    assert other.position == 1
    assert await faults(target, written) == []


async def test_fifty_writers_at_once_make_one_unbroken_chain(target: Connection, audit_dsn: str) -> None:
    async with asyncpg.create_pool(audit_dsn, min_size=10, max_size=50) as pool:

        async def write(number: int) -> AuditHead:
            async with pool.acquire() as connection:
                row = await connection.fetchrow(chain.APPEND, RUN, f"key {number}", "copy", f'{{"n":{number}}}')
            assert row is not None
            return AuditHead(position=row["entry_position"], digest=row["entry_digest"].hex())

        heads = await asyncio.gather(*(write(number) for number in range(50)), *(write(number) for number in range(50)))
    assert sorted({head.position for head in heads}) == list(range(1, 51))
    assert await faults(target, list(heads)) == []


async def test_a_secret_in_a_body_is_blanked_before_it_is_chained(target: Connection) -> None:
    body = {"message": "could not reach postgresql://mover:hunter2@db/shop", "detail": {"password": "hunter2"}}
    await chain.append(target, RUN, "key", "step", body)
    (entry,) = await chain.read(target, RUN)
    assert "hunter2" not in entry.body
    assert await faults(target) == []


@pytest.mark.parametrize(("key", "kind"), [("", "step"), ("key", ""), ("a\nb", "step"), ("key", "a\x1fb")])
async def test_a_key_or_kind_that_could_blur_the_digest_is_refused(target: Connection, key: str, kind: str) -> None:
    with pytest.raises(ValueError, match="without control characters"):
        await chain.append(target, RUN, key, kind, {})


CHANGES = [
    "UPDATE knarr.audit SET body = '{}' WHERE position = 3",
    "DELETE FROM knarr.audit WHERE position = 3",
    "TRUNCATE knarr.audit",
]


@pytest.mark.parametrize("statement", CHANGES)
async def test_the_owner_can_not_change_the_trail(target: Connection, written: list[AuditHead], statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await target.execute(statement)
    assert await faults(target, written) == []


@pytest.fixture
async def writer(target: Connection, audit_dsn: str) -> AsyncIterator[Connection]:
    """A session whose role may use the knarr schema's functions and nothing more."""
    await target.execute("DROP ROLE IF EXISTS knarr_test_writer")
    await target.execute("CREATE ROLE knarr_test_writer")
    await target.execute("GRANT USAGE ON SCHEMA knarr TO knarr_test_writer")
    connection = await connect(audit_dsn, application_name="tests")
    await connection.execute("SET SESSION AUTHORIZATION knarr_test_writer")
    yield connection
    await connection.close()
    await target.execute("DROP OWNED BY knarr_test_writer")
    await target.execute("DROP ROLE knarr_test_writer")


@pytest.mark.parametrize(
    "statement",
    [
        *CHANGES,
        "INSERT INTO knarr.audit SELECT run_id, 9, 'x', at, kind, body, previous, digest FROM knarr.audit LIMIT 1",
        "UPDATE knarr.audit_head SET position = 1",
        "DELETE FROM knarr.audit_head",
        "ALTER TABLE knarr.audit DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_append_only ON knarr.audit",
        "SET session_replication_role = replica",
        "CREATE OR REPLACE FUNCTION knarr.audit_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    ],
)
async def test_a_writer_may_append_and_nothing_else(
    target: Connection, written: list[AuditHead], writer: Connection, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await writer.execute(statement)
    head = await chain.append(writer, RUN, "by the writer", "step", {})
    assert head.position == 9
    assert await faults(target, [*written, head]) == []


async def test_a_writers_own_objects_do_not_reach_into_the_append(target: Connection, writer: Connection) -> None:
    await target.execute(
        "GRANT TEMPORARY ON DATABASE "
        + await target.fetchval("SELECT quote_ident(current_database())")
        + " TO knarr_test_writer"
    )
    await writer.execute("CREATE TEMPORARY TABLE audit_head (run_id text, position bigint, digest bytea)")
    await writer.execute("CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT 'x'::bytea $$")
    await writer.execute("SET search_path = pg_temp, pg_catalog")
    await chain.append(writer, RUN, "key", "step", {})
    assert await faults(target) == []


@pytest.fixture
def forge(written: list[AuditHead]) -> Iterator[str]:
    """SQL that gives entry 4 the digest that its words have now."""
    yield """
        UPDATE knarr.audit
           SET digest = knarr.audit_digest(previous, run_id, position, at, kind, entry_key, body)
         WHERE position = 4
    """


async def test_a_superuser_who_edits_is_found(target: Connection, written: list[AuditHead]) -> None:
    await attack(target, """UPDATE knarr.audit SET body = '{"n":0}' WHERE position = 4""")
    assert await told(target) == {("edited", 4)}


@pytest.mark.parametrize("change", ["entry_key = 'other'", "kind = 'x'", "at = at + interval '1 microsecond'"])
async def test_every_column_of_an_entry_is_protected(target: Connection, written: list[AuditHead], change: str) -> None:
    await attack(target, f"UPDATE knarr.audit SET {change} WHERE position = 4")
    assert await told(target) == {("edited", 4)}


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
async def test_a_moment_outside_of_time_is_found(target: Connection, written: list[AuditHead], moment: str) -> None:
    await attack(target, f"UPDATE knarr.audit SET at = '{moment}' WHERE position = 4")
    assert ("edited", 4) in await told(target)


async def test_a_superuser_who_edits_and_hashes_again_is_found(target: Connection, forge: str) -> None:
    await attack(target, "UPDATE knarr.audit SET body = '{}' WHERE position = 4", forge)
    assert await told(target) == {("edited", 4)}


async def test_a_superuser_who_deletes_is_found(target: Connection, written: list[AuditHead]) -> None:
    await attack(target, "DELETE FROM knarr.audit WHERE position = 4")
    assert await told(target) == {("gap", 4)}


async def test_a_superuser_who_swaps_two_entries_is_found(target: Connection, written: list[AuditHead]) -> None:
    await attack(
        target,
        "UPDATE knarr.audit SET position = -1 WHERE position = 4",
        "UPDATE knarr.audit SET position = 4 WHERE position = 6",
        "UPDATE knarr.audit SET position = 6 WHERE position = -1",
    )
    assert ("reordered", 4) in await told(target)


async def test_a_superuser_who_cuts_the_tail_is_found(target: Connection, written: list[AuditHead]) -> None:
    await attack(target, "DELETE FROM knarr.audit WHERE position > 6")
    assert await told(target) == {("tail cut", 7)}


async def test_a_superuser_who_cuts_the_tail_and_rewinds_the_head_is_found_by_a_witness(
    target: Connection, written: list[AuditHead]
) -> None:
    await attack(
        target,
        "DELETE FROM knarr.audit WHERE position > 6",
        "UPDATE knarr.audit_head h SET position = 6, digest = a.digest FROM knarr.audit a WHERE a.position = 6",
    )
    assert await told(target) == set()
    assert await told(target, written) == {("head rewound", 7)}


async def test_a_superuser_who_rewrites_the_whole_trail_is_found_by_a_witness(
    target: Connection, written: list[AuditHead]
) -> None:
    await attack(target, "DELETE FROM knarr.audit", "DELETE FROM knarr.audit_head")
    for number in range(1, 9):
        await chain.append(target, RUN, f"key {number}", "step", {"step": "forged"})
    assert await told(target) == set()
    assert ("head rewound", 1) in await told(target, written)


async def test_a_superuser_who_takes_the_head_away_is_found(target: Connection, written: list[AuditHead]) -> None:
    await attack(target, "DELETE FROM knarr.audit_head")
    assert await told(target) == {("head rewound", 8)}
