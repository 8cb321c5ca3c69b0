"""One side of a parity check: bucket sums, the entries of unlike buckets, and the rows behind a hash."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from asyncpg import Record

from knarr.postgres.session import Connection
from knarr.verify.checksum import Method, Relation, bucket_arrays, bucket_entries, bucket_sums, rows_by_hash

PREFETCH: Final = 5000
BUCKETS_AT_ONCE: Final = 16
# Sorted, buckets come one after the other and the server holds one at a time; hashed, it would hold them all.
SORTED: Final = "SET LOCAL enable_hashagg = off"

Key = tuple[str | None, ...]
Hash = tuple[int, int]


@dataclass(frozen=True)
class Sums:
    """A bucket's (or a partition's) rows and the two sums of their hashes."""

    rows: int = 0
    first: int = 0
    second: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.rows + other.rows, self.first + other.first, self.second + other.second)

    @property
    def checksum(self) -> str:
        """Both sums as decimal text."""
        return f"{self.first}/{self.second}"

    @classmethod
    def of_checksum(cls, text: str) -> "Sums":
        """Sums without rows, from the text that `checksum` gives."""
        first, _, second = text.partition("/")
        return cls(0, int(first), int(second))


@dataclass(frozen=True)
class Entry:
    """Rows that share key and content: the key's hash, the row's, the key as text, and how many there are."""

    key_hash: int
    hash: Hash
    key: Key
    count: int


@dataclass(frozen=True)
class Bucket:
    """One bucket's rows as (hash of the key, both hashes of the row), in no order."""

    number: int
    rows: list[tuple[int, int, int]]


Rows = dict[tuple[Key, Hash], list[str | None]]


class Side(Protocol):
    """What a parity check asks of either side."""

    statements: list[str]

    async def sums(self, mask: int) -> dict[int, Sums]:
        """Sums by bucket; -1 holds the rows whose key has a NULL."""
        ...

    def entries(self, mask: int, buckets: Sequence[int]) -> AsyncIterator[Entry]:
        """The rows of some buckets, in ascending order of their key's hash."""
        ...

    async def rows(self, mask: int, buckets: Sequence[int], key_hashes: Sequence[int]) -> Rows:
        """The columns' texts (long ones shortened) of the rows whose key has one of these hashes."""
        ...


@dataclass
class SqlSide:
    """A side whose rows are a query. The connection must be in one snapshot for the side's whole life."""

    connection: Connection
    relation: Relation
    method: Method
    statements: list[str] = field(default_factory=list)

    async def sums(self, mask: int) -> dict[int, Sums]:
        """See Side."""
        records = await self.connection.fetch(
            self._said(bucket_sums(self.relation, self.method, mask)), *self.relation.arguments
        )
        return sums_of(records)

    async def entries(self, mask: int, buckets: Sequence[int]) -> AsyncIterator[Entry]:
        """See Side; streamed, so that memory stays flat however much is unlike."""
        sql = self._said(bucket_entries(self.relation, self.method, mask))
        async for record in self.connection.cursor(sql, *self.relation.arguments, buckets, prefetch=PREFETCH):
            yield entry_of(record)

    async def buckets(self, mask: int, buckets: Sequence[int]) -> AsyncIterator[Bucket]:
        """The hashes of some buckets' rows, without keys, in ascending order of the buckets."""
        await self.connection.execute(SORTED)
        sql = self._said(bucket_arrays(self.relation, self.method, mask))
        async for record in self.connection.cursor(sql, *self.relation.arguments, buckets, prefetch=BUCKETS_AT_ONCE):
            yield Bucket(record["b"], list(zip(record["kh"], record["h0"], record["h1"], strict=True)))

    async def rows(self, mask: int, buckets: Sequence[int], key_hashes: Sequence[int]) -> Rows:
        """See Side."""
        return (await self.exact(mask, buckets, key_hashes))[1]

    async def exact(self, mask: int, buckets: Sequence[int], key_hashes: Sequence[int]) -> tuple[list[Entry], Rows]:
        """The rows whose key has one of these hashes, ascending: what tells them apart, and their columns' texts."""
        sql = self._said(rows_by_hash(self.relation, self.method, mask))
        records = await self.connection.fetch(sql, *self.relation.arguments, buckets, key_hashes)
        return [entry_of(record) for record in records], rows_of(records)

    async def value(self, aggregate: str) -> object:
        """An aggregate over all rows of the side."""
        sql = self._said(f"SELECT {aggregate}\n{self.relation.source}")
        return await self.connection.fetchval(sql, *self.relation.arguments)

    def _said(self, sql: str) -> str:
        if sql not in self.statements:
            self.statements.append(sql)
        return sql


def sums_of(records: Sequence[Record]) -> dict[int, Sums]:
    """Bucket sums as `bucket_sums` selects them; sums of bigints are numerics without a fraction."""
    return {record["b"]: Sums(record["n"], int(record["s0"]), int(record["s1"])) for record in records}


def entry_of(record: Record) -> Entry:
    """An entry as `bucket_entries` selects it."""
    return Entry(record["kh"], (record["h0"], record["h1"]), tuple(record["k"]), record["n"])


def rows_of(records: Sequence[Record]) -> Rows:
    """Rows as `rows_by_hash` selects them."""
    return {(tuple(record["k"]), (record["h0"], record["h1"])): list(record["c"][0]) for record in records}
