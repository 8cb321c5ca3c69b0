"""What an activity's failure tells to workflow history, and what only to the worker's log."""

import re

import pytest
from structlog.testing import capture_logs
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import context
from activities.models import RunContext
from knarr.postgres.failures import classify
from knarr.postgres.session import connect

RUN = RunContext(run_id="r", plan="p", source="s", target="t")


async def test_a_rows_values_reach_the_log_and_not_history(target_dsn: str) -> None:
    async def refused() -> None:
        async with context.working("copy", RUN):
            connection = await connect(target_dsn, application_name="test target")
            try:
                await connection.execute("CREATE TABLE public.taken (id integer PRIMARY KEY)")
                await connection.execute("INSERT INTO public.taken VALUES (4711), (4711)")
            except Exception as error:
                raise classify(error, "copying") from error
            finally:
                connection.terminate()

    with capture_logs() as logs, pytest.raises(ApplicationError) as failed:
        await ActivityEnvironment().run(refused)

    assert (failed.value.type, failed.value.details) == ("DataError", ("23505",))
    assert "unique violation (SQLSTATE 23505): " in failed.value.message
    assert 'table "taken", constraint "taken_pkey"' in failed.value.message
    assert "4711" not in failed.value.message
    assert failed.value.message.endswith(context.IN_THE_LOG)
    assert failed.value.__cause__ is None
    assert ["Detail: Key (id)=(4711) already exists." in entry.get("message", "") for entry in logs] == [True]


async def test_of_an_error_that_nobody_thought_of_only_class_and_place_reach_history() -> None:
    async def unexpected() -> None:
        async with context.working("copy", RUN):
            raise ValueError("bad email canary@example.org")

    with capture_logs() as logs, pytest.raises(ApplicationError) as failed:
        await ActivityEnvironment().run(unexpected)

    assert failed.value.type == "Unexpected"
    assert re.match(r"copy: ValueError at [\w.]*test_context, line \d+\n", failed.value.message)
    assert "canary" not in failed.value.message
    assert failed.value.__cause__ is None
    assert [str(entry["exc_info"]) for entry in logs if "exc_info" in entry] == ["bad email canary@example.org"]


async def test_an_error_that_looks_like_temporals_is_not_passed_on() -> None:
    async def raising() -> None:
        async with context.working("verify", RUN):
            raise ApplicationError("canary", "canary", type="canary")

    with pytest.raises(ApplicationError) as failed:
        await ActivityEnvironment().run(raising)

    assert (failed.value.type, failed.value.details) == ("Unexpected", ())
    assert "canary" not in failed.value.message
