"""The writing protocol against a model: attempts overlap, die, freeze and wake; epochs are raised, rows taken back.

Each attempt is a real transaction on a real server that stays open between two steps, so that Hypothesis chooses how
they interleave. The model is a dictionary; it never looks at the ledger. A failure prints the shrunk steps.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from knarr.errors import ClaimRefused, KnarrError, LostLease
from knarr.plan.resolved import Partition, TableName
from knarr.postgres import lease, ledger, mappings, partitions, remove, schema
from knarr.postgres.session import Connection, connect, end
from tests.faults import oracle
from tests.faults.stage import Theatre
from tests.postgres.specimens import column, mapping, plan

PARTITIONS: Final = 3
TABLE: Final = TableName(schema_name="public", name="taken")
MAPPING: Final = mapping([column("id", "integer"), column("name", "text")], key=["id"], mode="create")
PIECES: Final = [
    Partition(mapping=0, number=number, lower=None, upper=None, estimated_rows=2) for number in range(PARTITIONS)
]
TABLES: Final = """
DROP TABLE IF EXISTS public.taken; CREATE TABLE public.taken (id integer, name text);
"""
LOST: Final = (KnarrError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

Value = TypeVar("Value")
_runs: Final = itertools.count(1)


@dataclass(eq=False)
class Attempt:
    """One open transaction that writes a partition, and what the model knows of it."""

    number: int
    connection: Connection
    transaction: Any
    partition: int
    epoch: int
    alive: bool = True
    wrote: bool = False


class Protocol(RuleBasedStateMachine):
    """What may be tried, and what must be true after each step."""

    dsn: ClassVar[str]
    loop: ClassVar[asyncio.AbstractEventLoop]
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.committed: dict[int, int] = {}
        self.epoch = 1
        self.attempts: list[Attempt] = []
        self.opened: list[Connection] = []
        self.numbers = itertools.count(1)
        self.run_id = f"protocol/{next(_runs)}"

    def do(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Runs one step to its end; a step that hangs is a failure."""
        type(self).steps += 1
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @initialize()
    def claim(self) -> None:
        """A run that holds the table, with its partitions."""

        async def claim() -> None:
            self.control = await connect(self.dsn, application_name="protocol")
            await self.control.execute(TABLES)
            self.lease = await lease.claim(self.control, self.run_id, plan(), "0" * 64, [TABLE])
            await mappings.store_mappings(self.control, self.lease, self.run_id, [MAPPING])
            await partitions.store_partitions(self.control, self.lease, self.run_id, PIECES)

        self.do(claim())

    @rule(partition=st.integers(0, PARTITIONS - 1))
    def begin(self, partition: int) -> None:
        """A new attempt: older ones of this partition are ended, then the fence, then the ledger row."""
        attempt = self.do(self._begin(partition, self.lease))
        for older in self.attempts:
            if older.partition == partition:
                older.alive = False
        if partition in self.committed:
            assert attempt is None, "a partition that is in the ledger was entered again"
        else:
            assert attempt is not None, "the ledger has a row that nobody committed"
            self.attempts.append(attempt)

    @precondition(lambda self: self.epoch > 1)
    @rule(partition=st.integers(0, PARTITIONS - 1), back=st.integers(1, 3))
    def begin_with_an_old_epoch(self, partition: int, back: int) -> None:
        """A zombie that starts late: it may end others' backends, but it does not pass the fence."""
        stale = self.lease.model_copy(update={"epoch": max(1, self.epoch - back)})
        with pytest.raises((LostLease, asyncpg.PostgresError)) as refused:
            self.do(self._begin(partition, stale))
        assert "KN001" in (getattr(refused.value, "sqlstate", "") or "KN001"), refused.value
        for older in self.attempts:
            if older.partition == partition:
                older.alive = False

    @precondition(lambda self: any(not attempt.wrote for attempt in self.attempts))
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """An attempt, alive or a zombie, sends its rows; none sends them twice."""
        unsent = [attempt for attempt in self.attempts if not attempt.wrote]
        attempt = data.draw(st.sampled_from(unsent), label="attempt")

        async def write() -> None:
            rows = [(attempt.partition, f"attempt {attempt.number}")] * 2
            await attempt.connection.copy_records_to_table("taken", records=rows, schema_name="public")

        if self._works(attempt, write()):
            attempt.wrote = True

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """An attempt, alive or a zombie, closes its ledger row and commits."""
        attempt = self._one(data)

        async def commit() -> None:
            place = (self.run_id, 0, "all", attempt.partition)
            await ledger.close(attempt.connection, *place, 2 if attempt.wrote else 0, 0, 0.0)
            await attempt.transaction.commit()

        if self._works(attempt, commit()):
            self.committed[attempt.partition] = attempt.number if attempt.wrote else 0
        self._forget(attempt)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def end_backend(self, data: st.DataObject) -> None:
        """The server ends an attempt's backend; its client learns of it later."""
        attempt = self._one(data)
        pid = attempt.connection.get_server_pid()
        self.do(self.control.execute("SELECT pg_terminate_backend($1, 5000)", pid))
        attempt.alive = False

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        """An attempt's worker dies."""
        self._forget(self._one(data))

    @rule()
    def raise_epoch(self) -> None:
        """Nobody who wrote until now may write any more."""
        self.lease = self.do(lease.raise_epoch(self.control, self.run_id))
        self.epoch += 1
        assert self.lease.epoch == self.epoch
        for attempt in self.attempts:
            attempt.alive = False

    @rule()
    def take_back(self) -> None:
        """The epoch is raised, then the rows of the phase are removed."""
        self.raise_epoch()
        removed = self.do(remove.remove_rows(self.control, None, self.lease, self.run_id, MAPPING, "all", ["all"]))
        assert removed.rows == sum(2 for number in self.committed.values() if number)
        self.committed.clear()

    @rule()
    def claim_for_another_run(self) -> None:
        """Another run wants the table."""
        other = f"{self.run_id}/other"
        with pytest.raises(ClaimRefused, match=self.run_id):
            self.do(lease.claim(self.control, other, plan(), "0" * 64, [TABLE]))

    @invariant()
    def what_is_there_is_what_was_committed(self) -> None:
        """Rows, ledger, epoch and claim, seen by a session of their own."""
        if not hasattr(self, "control"):
            return
        rows, entered, epoch, claims = self.do(self._seen())
        wanted = sorted(
            (partition, f"attempt {number}") for partition, number in self.committed.items() if number for _ in range(2)
        )
        assert rows == wanted
        assert entered == sorted((partition, 2 if number else 0) for partition, number in self.committed.items())
        assert (epoch, claims) == (self.epoch, 1)

    def teardown(self) -> None:
        """The run is released; the trail is whole, and nothing is left."""
        if not hasattr(self, "control"):
            return

        async def release() -> list[str]:
            for attempt in self.attempts:
                attempt.connection.terminate()
            await lease.release(self.control, self.run_id, "aborted")
            broken = await oracle.chain_breaks(self.control, self.run_id)
            await self.control.close()
            return broken + await oracle.sessions_left(self.dsn, "protocol%")

        try:
            assert self.do(release()) == []
        finally:  # also where a broken fence has left things as they can't be
            for connection in [self.control, *self.opened]:
                connection.terminate()
            self.do(asyncio.sleep(0))  # their sockets are closed by the loop

    async def _begin(self, partition: int, held: lease.Lease) -> Attempt | None:
        connection = await connect(self.dsn, application_name="protocol attempt")
        self.opened.append(connection)
        transaction = connection.transaction(isolation="read_committed")
        await transaction.start()
        try:
            await lease.step_lock(connection, f"{self.run_id}/0/all/{partition}")
            await lease.fence(connection, held)
            number = next(self.numbers)
            if not await ledger.enter(connection, held, self.run_id, 0, "all", partition, number):
                await end(connection)
                return None
        except BaseException:
            await end(connection)
            raise
        return Attempt(number, connection, transaction, partition, held.epoch)

    async def _seen(self) -> tuple[list[tuple[int, str]], list[tuple[int, int]], int, int]:
        reader = await asyncpg.connect(self.dsn)
        try:
            rows = await reader.fetch("SELECT id, name FROM public.taken ORDER BY 1, 2")
            entered = await reader.fetch(
                "SELECT partition, rows FROM knarr.ledger WHERE run_id = $1 ORDER BY 1", self.run_id
            )
            epoch = await reader.fetchval("SELECT epoch FROM knarr.lease WHERE run_id = $1", self.run_id)
            claims = await reader.fetchval("SELECT count(*) FROM knarr.claim")
        finally:
            await reader.close()
        return [tuple(row) for row in rows], [tuple(row) for row in entered], epoch, claims

    def _one(self, data: st.DataObject) -> Attempt:
        return data.draw(st.sampled_from(self.attempts), label="attempt")

    def _works(self, attempt: Attempt, work: Coroutine[Any, Any, None]) -> bool:
        """Does what must work for a live attempt and must fail for a dead one."""
        if attempt.alive:
            self.do(work)
            return True
        with contextlib.suppress(*LOST):
            self.do(work)
            raise AssertionError("a zombie went on as if it were alive")
        return False

    def _forget(self, attempt: Attempt) -> None:
        attempt.connection.terminate()
        attempt.alive = False
        self.attempts.remove(attempt)


@contextlib.contextmanager
def machine(theatre: Theatre, database: str) -> Iterator[type[Protocol]]:
    """The machine over a database of its own with the knarr schema in it."""
    dsn = theatre.target.create_database(database)
    loop = asyncio.new_event_loop()

    async def install() -> None:
        connection = await connect(dsn, application_name="protocol")
        await schema.install(connection)
        await connection.close()

    try:
        loop.run_until_complete(install())
        yield type("Protocol", (Protocol,), {"dsn": dsn, "loop": loop, "steps": 0})
    finally:
        loop.close()
        theatre.target.drop_database(database)
