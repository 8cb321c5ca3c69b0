"""A check that can't run has failed, and says why: the one place where an error becomes a result."""

import time
from collections.abc import Awaitable, Callable

from knarr.errors import LostLease, TransientError
from knarr.postgres.failures import classify
from knarr.verify.models import CheckKey, CheckResult


async def attempted(key: CheckKey, check: Callable[[], Awaitable[CheckResult]]) -> CheckResult:
    """Runs a check; whatever goes wrong in it becomes the outcome `could not run` with the reason.

    Raises:
        TransientError: it may work when tried again.
        LostLease: this worker is not to go on.
    """
    started = time.monotonic()
    try:
        return await check()
    except Exception as error:
        reason = classify(error, f"running the {key}")
        if isinstance(reason, TransientError | LostLease):
            raise reason from error
        # With the values: a result stays in the target, as findings do.
        said = f"{reason.detail}\nNext: {reason.hint}" if reason.detail and reason.hint else reason.detail
        return CheckResult(
            **key.model_dump(),
            outcome="could not run",
            message=said or str(reason),
            findings_total=1,
            seconds=time.monotonic() - started,
        )
