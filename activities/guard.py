"""Watching the plan's guards: each is asked at its interval until one is breached or the time is over."""

import asyncio
from typing import Final

from temporalio import activity

from activities.context import pools, target_of, working
from activities.models import Breach, GuardInput, GuardResult, RunContext
from knarr.audit import chain
from knarr.errors import KnarrError, TransientError
from knarr.plan.criteria import Guard
from knarr.plan.models import Limits
from knarr.plan.units import seconds
from knarr.postgres import mappings
from knarr.telemetry.scrub import scrub
from knarr.verify import guards

# A server that restarts must not take a run back; one that stays silent means that nobody knows the figure.
SILENCE_SECONDS: Final = 60.0
ASKED_AGAIN_AFTER: Final = 5.0


class _Watch:
    """When each guard is to be asked again, and since when it has given no answer."""

    def __init__(self, run: RunContext, watched: list[Guard], limits: Limits) -> None:
        self._run = run
        self._watched = watched
        self._limits = limits
        self._due = dict.fromkeys((guard.name for guard in watched), 0.0)
        self._silent_since: dict[str, float] = {}

    @property
    def unanswered(self) -> bool:
        """Somebody has not answered yet, and may still do so."""
        return bool(self._silent_since)

    @property
    def next_due(self) -> float:
        """The loop's time at which the next guard is to be asked."""
        return min(self._due.values())

    async def ask(self, now: float) -> list[Breach]:
        """Asks the guards that are due, and returns those that are breached."""
        answers = [await self._ask(guard, now) for guard in self._watched if self._due[guard.name] <= now]
        return [answer for answer in answers if answer is not None]

    async def _ask(self, guard: Guard, now: float) -> Breach | None:
        alias = {"source": self._run.source, "target": self._run.target}.get(guard.on, guard.on)
        self._due[guard.name] = now + seconds(guard.every)
        try:
            async with pools().acquire(alias, read_only=True) as connection:
                figure = await guards.ask(connection, guard, self._limits)
        except TransientError as error:
            since = self._silent_since.setdefault(guard.name, now)
            if now - since < SILENCE_SECONDS:
                self._due[guard.name] = now + min(ASKED_AGAIN_AFTER, seconds(guard.every))
                return None
            reason = f"guard '{guard.name}' has had no answer for {now - since:.0f} s: {scrub(error.message)}"
            return Breach(guard=guard.name, figure=None, reason=reason)
        except KnarrError as error:
            reason = f"guard '{guard.name}' can't be asked: {scrub(error.message)}"
            return Breach(guard=guard.name, figure=None, reason=reason)
        self._silent_since.pop(guard.name, None)
        reason = guards.breach(guard, figure)
        return Breach(guard=guard.name, figure=figure, reason=reason) if reason else None


@activity.defn
async def check_guards(given: GuardInput) -> GuardResult:
    """Returns the first breaches, written to the audit trail with their figures; or none when the time was over.

    A guard that can't be asked is breached too: at once when its query or its connection is wrong, after a minute of
    silence when its server does not answer.
    """
    run = given.run
    async with working("guard", run):
        async with target_of(run) as target:
            plan = await mappings.load_plan(target, run.run_id)
        watch = _Watch(run, [guard for guard in plan.guards if guard.name in given.guards], plan.limits)
        loop = asyncio.get_running_loop()
        end = loop.time() + given.seconds
        while True:
            breaches = await watch.ask(loop.time())
            if breaches:
                return GuardResult(breaches=breaches, head=await _record(given, breaches))
            if loop.time() >= end and not watch.unanswered:
                return GuardResult(breaches=[])
            until = watch.next_due if watch.unanswered else min(watch.next_due, end)
            await asyncio.sleep(max(0.0, until - loop.time()))


async def _record(given: GuardInput, breaches: list[Breach]) -> chain.AuditHead | None:
    """The figures that led to what the run decides next, once for each time that the guards were watched."""
    info, head = activity.info(), None
    async with target_of(given.run) as target, target.transaction():
        for breach in breaches:
            name = breach.guard.encode("unicode_escape").decode("ascii")  # an audit key holds no control characters
            key = f"guard {name}/{info.workflow_run_id}/{info.activity_id}"
            body = {"summary": breach.reason, "guard": breach.guard, "figure": breach.figure, "phase": given.phase}
            head = await chain.append(target, given.run.run_id, key, "decision", body)
    return head
