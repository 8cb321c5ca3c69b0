"""Each error of a server, the driver or the network means what it should for the run, and shows no secret."""

import asyncio
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
    raised = "DO $$BEGIN RAISE EXCEPTION 'boom' USING ERRCODE = '{}', DETAIL = 'the row', HINT = 'try'; END$$"

    with pytest.raises(KnarrError) as caught, classified("counting the ships"):
        await shared.execute(raised.format(sqlstate))

    assert type(caught.value) is expected
    assert caught.value.sqlstate == sqlstate
    assert caught.value.message.startswith("counting the ships: boom")
    assert "the row" in caught.value.message
    assert "PL/pgSQL function" in caught.value.message
    assert caught.value.hint


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
