"""What an activity's failure tells to workflow history, and what only to the worker's log."""

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
    assert 'constraint "taken_pkey"\nDetail: Key (id) already exists.' in failed.value.message
    assert "4711" not in failed.value.message
    assert failed.value.message.endswith("are in this worker's log.")
    assert failed.value.__cause__ is None
    assert ["Detail: Key (id)=(4711) already exists." in entry.get("message", "") for entry in logs] == [True]
