"""What a guard's query gives, and what is said of one that gives no number."""

import pytest
from structlog.testing import capture_logs

from knarr.errors import DataError, KnarrError
from knarr.plan.criteria import Guard
from knarr.plan.models import Limits
from knarr.postgres.session import connect
from knarr.verify.guards import ask

LIMITS = Limits()


def guard(query: str) -> Guard:
    return Guard(name="complaints", query=query, max=1)


async def test_a_figure_is_a_number_of_any_type(target_dsn: str) -> None:
    connection = await connect(target_dsn, application_name="test")
    assert [await ask(connection, guard(f"SELECT {one}"), LIMITS) for one in ("3", "2.5::numeric", "'1e9'::real")] == [
        3.0,
        2.5,
        1e9,
    ]
    await connection.close()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 'canary'", "guard 'complaints' gave str, expected a number"),
        ("SELECT NULL::integer", "guard 'complaints' gave NULL, expected a number"),
        ("SELECT 'NaN'::numeric", "guard 'complaints' gave NaN, expected a number"),
        ("SELECT true", "guard 'complaints' gave bool, expected a number"),
        ("SELECT 1, 'canary'", "guard 'complaints' gave 1 rows of 2 columns, expected one number"),
        (
            "SELECT (SELECT 'canary'::text)::integer",
            "asking guard 'complaints': invalid text representation (SQLSTATE 22P02)",
        ),
    ],
)
async def test_what_is_no_number_is_told_by_its_type_and_quoted_in_the_log_alone(
    query: str, told: str, target_dsn: str
) -> None:
    connection = await connect(target_dsn, application_name="test")
    with capture_logs() as logs, pytest.raises(KnarrError) as refused:
        await ask(connection, guard(query), LIMITS)
    await connection.close()

    assert type(refused.value) is DataError
    assert refused.value.message == told
    assert "canary" not in str(refused.value)
    assert ["canary" in entry["message"] for entry in logs if "canary" in query] in ([True], [])
