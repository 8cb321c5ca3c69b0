"""Each error of a server, the driver or the network means what it should for the run, and shows no secret."""

import asyncio
import os
import re
import ssl

import asyncpg
import pytest

from knarr.errors import DataError, KnarrError, LostLease, PlanError, TransientError
from knarr.postgres.failures import classified, classify
from knarr.postgres.session import Connection, connect

TABLE: list[tuple[str, type[KnarrError]]] = [
    ("KN001", LostLease),
    ("KN002", LostLease),
    ("08006", TransientError),
    ("08P01", TransientError),
    ("57P01", TransientError),
    ("57P02", TransientError),
    ("57P03", TransientError),
    ("57014", TransientError),
    ("57P04", PlanError),
    ("53100", TransientError),
    ("53200", TransientError),
    ("53300", TransientError),
    ("55P03", TransientError),
    ("55006", TransientError),
    ("40001", TransientError),
    ("40P01", TransientError),
    ("40003", TransientError),
    ("40002", DataError),
    ("25P03", TransientError),
    ("25006", PlanError),
    ("58030", TransientError),
    ("22001", DataError),
    ("22P02", DataError),
    ("22003", DataError),
    ("21000", DataError),
    ("23502", DataError),
    ("23505", DataError),
    ("23503", DataError),
    ("23514", DataError),
    ("54000", DataError),
    ("P0001", DataError),
    ("42601", PlanError),
    ("42P01", PlanError),
    ("42501", PlanError),
    ("28P01", PlanError),
    ("3D000", PlanError),
    ("3F000", PlanError),
    ("0A000", PlanError),
    ("2BP01", PlanError),
    ("XX000", PlanError),
    ("XX001", DataError),
    ("99999", PlanError),
]


@pytest.mark.parametrize(("sqlstate", "expected"), TABLE)
async def test_what_the_server_raises_is_classified_by_its_sqlstate(
    sqlstate: str, expected: type[KnarrError], shared: Connection
) -> None:
    raised = "DO $$BEGIN RAISE EXCEPTION 'boom' USING ERRCODE = '{}', DETAIL = 'canary 1', HINT = 'canary 2'; END$$"

    with pytest.raises(KnarrError) as caught, classified("counting the ships"):
        await shared.execute(raised.format(sqlstate))

    assert type(caught.value) is expected
    assert caught.value.sqlstate == sqlstate
    # Whatever SQLSTATE a function gives its exception, it may have put a row into its words.
    assert caught.value.message.startswith("counting the ships: ")
    assert f"(SQLSTATE {sqlstate})" in caught.value.message
    assert not any(word in str(caught.value) for word in ("boom", "canary"))
    assert all(word in caught.value.detail for word in ("boom", "canary 1", "canary 2"))
    assert "Context: PL/pgSQL function inline_code_block line 1 at RAISE" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("gone", ["SELECT * FROM knarr.gone", "SELECT knarr.gone()"])
async def test_where_the_run_has_no_record_any_more_that_is_what_is_said(gone: str, shared: Connection) -> None:
    with pytest.raises(PlanError) as caught, classified("counting the ships"):
        await shared.execute(gone)

    assert "pg_restore --schema knarr" in caught.value.hint


@pytest.mark.parametrize("sqlstate", [each for each, found in TABLE if found in (DataError, PlanError)])
async def test_no_hint_of_an_undoing_sends_anybody_to_the_source_or_the_plan(sqlstate: str, shared: Connection) -> None:
    raised = f"DO $$BEGIN RAISE EXCEPTION 'boom' USING ERRCODE = '{sqlstate}'; END$$"

    with pytest.raises(KnarrError) as caught, classified("taking back the ships", taking_back=True):
        await shared.execute(raised)

    assert caught.value.hint
    assert not any(
        word in caught.value.hint for word in ("row at the source", "in the plan", "the plan or", "of the plan")
    )
    assert caught.value.sqlstate == sqlstate


async def test_a_publication_that_keeps_rows_from_being_deleted_is_told_with_what_mends_it(target: Connection) -> None:
    await target.execute("CREATE TABLE public.sent (canary text); CREATE PUBLICATION feed FOR TABLE public.sent")

    with pytest.raises(PlanError) as caught, classified("taking back the rows"):
        await target.execute("DELETE FROM public.sent WHERE canary = 'canary'")

    assert caught.value.message.startswith('taking back the rows: cannot delete from table "sent" because it does not')
    assert "ALTER TABLE ... REPLICA IDENTITY FULL" in caught.value.hint
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError("no"), TransientError),
        (ConnectionResetError("reset"), TransientError),
        (TimeoutError(), TransientError),
        (OSError("unreachable"), TransientError),
        (ssl.SSLCertVerificationError("wrong host"), PlanError),
        (asyncpg.InterfaceError("connection is closed"), TransientError),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), TransientError),
        (
            asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
            TransientError,
        ),
        (asyncpg.InternalClientError("unknown error in protocol implementation"), PlanError),
        (asyncpg.DataError("invalid input for query argument $1"), DataError),
        (asyncpg.InterfaceError("another operation is in progress"), PlanError),
        (ZeroDivisionError("bug"), PlanError),
    ],
)
def test_what_the_driver_or_the_network_raises_is_classified(error: Exception, expected: type[KnarrError]) -> None:
    assert type(classify(error, "connecting")) is expected


def test_an_error_of_ours_stays_as_it_is() -> None:
    error = DataError("found three", hint="look")

    assert classify(error, "whatever") is error


def test_a_cancellation_is_no_error() -> None:
    with pytest.raises(asyncio.CancelledError), classified("waiting"):
        raise asyncio.CancelledError


async def test_no_password_is_shown_when_a_server_refuses_or_is_not_there(target_dsn: str) -> None:
    user, _, rest = target_dsn.removeprefix("postgresql://").partition("@")
    name = user.partition(":")[0]
    wrong = f"postgresql://{name}:canary-one@{rest}"
    nobody = f"postgresql://{name}:canary-two@127.0.0.1:1/x"

    for dsn, expected in ((wrong, PlanError), (nobody, TransientError)):
        with pytest.raises(KnarrError) as caught:
            await connect(dsn, application_name="test")
        assert type(caught.value) is expected
        assert "canary" not in str(caught.value)


def test_an_address_in_a_servers_words_is_blanked() -> None:
    shown = classify(OSError("can't reach postgresql://me:canary@db/x or password=canary"), "connecting")

    assert "canary" not in str(shown)
    assert "can't reach postgresql://me:***@db/x" in shown.detail and "canary" not in shown.detail


def test_of_an_error_of_python_class_and_place_are_told_and_its_words_only_to_the_log() -> None:
    with pytest.raises(KnarrError) as caught, classified("asking"):
        raise ValueError("canary is no number")

    assert re.fullmatch(r"asking: ValueError at [\w.]*test_failures, line \d+", caught.value.message)
    assert caught.value.detail == "asking: ValueError: canary is no number"


def test_what_says_that_it_comes_from_elsewhere_is_not_believed() -> None:
    with pytest.raises(KnarrError) as caught, classified("asking"):
        exec(compile("raise ValueError", "canary.py", "exec"), {"__name__": "canary"})

    assert "ValueError at " in caught.value.message
    assert "canary" not in str(caught.value)


def test_why_a_server_can_not_be_reached_is_told_without_the_words() -> None:
    told = classify(OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 113] x"), "asking")

    assert told.message == f"asking: OSError: {os.strerror(111)}; {os.strerror(113)}"
    assert "('::1', 1)" in told.detail
