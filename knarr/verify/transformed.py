"""The expected side of a mapping with a Python transform: computed again in the worker, hashed by the target.

Batches of source rows go through the plan author's function once more; the target reads the texts that it gives as
`unnest` of text arrays, casts them to its own types and hashes them, so canonical text is the target's. Nothing is
written.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from asyncpg import Record

from knarr.errors import DataError, PlanError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres.session import Connection
from knarr.postgres.transform import RowFunction, load_function, raised, unlike
from knarr.verify.canonical import output_text, recomputed_value
from knarr.verify.checksum import (
    Method,
    Relation,
    bucket_entries,
    bucket_sums,
    has_key_hash,
    in_buckets,
    key_hash,
    rows_by_hash,
)
from knarr.verify.sides import Entry, Hash, Key, Rows, Sums, entry_of, rows_of, sums_of

BATCH: Final = 2000

Cells = list[str | None]


class TransformedSide:
    """See Side. Uses the target's connection between the other side's queries, so the two must not run at once.

    Args:
        source: in its snapshot.
        target: in its snapshot; hashes what the function gave.
        wanted: the source's rows, as `knarr.verify.expected.expected_rows` gives them.
        mapping: names the function and its columns.
        method: the hash that both servers agree on.
        folder: where the plan lies; None: the working directory.
        on_progress: told how many rows have been computed so far.

    Raises:
        PlanError: the function can't be imported, or it is to change the key.
    """

    def __init__(
        self,
        source: Connection,
        target: Connection,
        wanted: Relation,
        mapping: ResolvedMapping,
        method: Method,
        *,
        folder: Path | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        if mapping.transform is None:
            raise ValueError(f"mapping {mapping.name} has no transform")
        names = [column.name for column in mapping.columns]
        keys = {column.name for column in mapping.key}
        self._touched = [*mapping.transform_columns] or [name for name in names if name not in keys]
        if changed := sorted(keys.intersection(self._touched)):
            raise PlanError(
                f"transform '{mapping.transform}' of {mapping.name} may change the key ({', '.join(changed)}): "
                "a partition's rows could then be in any partition of the target",
                hint="leave the key's columns out of transform.columns, and compute them in SQL",
            )
        self.statements: list[str] = []
        self._source, self._target, self._method, self._on_progress = source, target, method, on_progress
        self._name, self._names, self._wanted = mapping.transform, names, wanted
        self._function: RowFunction = load_function(mapping.transform, folder)
        self._texts = ", ".join(output_text(column) for column in mapping.columns)
        parameters = ", ".join(f"${n + 1}::text[]" for n in range(len(names)))
        values = {column.name: recomputed_value(column, f"u.c{n}") for n, column in enumerate(mapping.columns)}
        # The rows of one batch, as the target reads them.
        self._batch = Relation(
            from_sql=f"unnest({parameters}) AS u ({', '.join(f'c{n}' for n in range(len(names)))})",
            conditions=(),
            arguments=((),) * len(names),
            key=tuple(values[column.name] for column in mapping.key),
            columns=tuple(values.values()),
        )

    async def sums(self, mask: int) -> dict[int, Sums]:
        """See Side."""
        sql = self._said(bucket_sums(self._batch, self._method, mask))
        total: dict[int, Sums] = {}
        rows = 0
        async for columns in self._computed(self._select(), ()):
            for bucket, sums in sums_of(await self._target.fetch(sql, *columns)).items():
                total[bucket] = total.get(bucket, Sums()) + sums
            rows += len(columns[0])
            if self._on_progress:
                self._on_progress(rows)
        return total

    async def entries(self, mask: int, buckets: Sequence[int]) -> AsyncIterator[Entry]:
        """See Side. With a key the source orders the rows and memory holds one batch; without, all that is unlike."""
        sql = self._said(bucket_entries(self._batch, self._method, mask))
        if not self._batch.key:
            counted: Counter[tuple[int, Hash, Key]] = Counter()
            async for columns in self._computed(self._select(), ()):
                for record in await self._target.fetch(sql, *columns, buckets):
                    entry = entry_of(record)
                    counted[entry.key_hash, entry.hash, entry.key] += entry.count
            for (key, row, values), count in sorted(counted.items(), key=lambda item: item[0][0]):
                yield Entry(key, row, values, count)
            return
        condition = in_buckets(self._wanted, self._method, mask)
        query = f"{self._select(condition)}\n         ORDER BY {key_hash(self._wanted, self._method)}"
        last: int | None = None
        async for columns in self._computed(query, (buckets,)):
            for record in await self._target.fetch(sql, *columns, buckets):
                entry = entry_of(record)
                if last is not None and entry.key_hash < last:
                    found = f"transform '{self._name}': source and target do not agree on a key"
                    raise DataError(found, detail=f"{found}: {entry.key}")
                last = entry.key_hash
                yield entry

    async def rows(self, mask: int, buckets: Sequence[int], key_hashes: Sequence[int]) -> Rows:
        """See Side."""
        sql = self._said(rows_by_hash(self._batch, self._method, mask))
        found: list[Record] = []
        if self._batch.key:
            condition = has_key_hash(self._wanted, self._method, mask)
            chosen = self._computed(self._select(condition), (buckets, key_hashes))
        else:
            chosen = self._computed(self._select(), ())
        async for columns in chosen:
            found.extend(await self._target.fetch(sql, *columns, buckets, key_hashes))
        return rows_of(found)

    def _select(self, *conditions: str) -> str:
        wanted = self._wanted
        for condition in conditions:
            wanted = wanted.with_condition(condition)
        return self._said(f"SELECT ARRAY[{self._texts}]::text[] AS c\n{wanted.source}")

    async def _computed(self, query: str, arguments: Sequence[Sequence[int]]) -> AsyncIterator[list[Cells]]:
        """The source's rows batch by batch, through the function, by columns."""
        cursor = await self._source.cursor(query, *self._wanted.arguments, *arguments)
        while records := await cursor.fetch(BATCH):
            yield await asyncio.to_thread(self._apply, [list(record["c"]) for record in records])

    def _apply(self, cells: list[Cells]) -> list[Cells]:
        places = [(name, self._names.index(name)) for name in self._touched]
        given = [{name: row[place] for name, place in places} for row in cells]
        try:
            changed: object = self._function(given)
        except BaseException as error:  # a library's sys.exit() would end the worker
            raise raised(self._name, error) from error
        if not isinstance(changed, list) or len(changed) != len(cells):
            found = f"{len(changed)} rows" if isinstance(changed, list) else type(changed).__name__
            raise DataError(f"transform '{self._name}' was given {len(cells)} rows and gave back {found}")
        for row, new in zip(cells, changed, strict=True):
            if not isinstance(new, dict) or set(new) != set(self._touched):
                raise DataError(
                    f"transform '{self._name}' gave back {unlike(new, self._touched)}, expected the columns "
                    f"{self._touched}"
                )
            for name, place in places:
                value = new[name]
                if value is not None and not isinstance(value, str):
                    raise DataError(f"transform '{self._name}' gave {type(value).__name__} in {name!r}, expected text")
                row[place] = value
        return [list(column) for column in zip(*cells, strict=True)]

    def _said(self, sql: str) -> str:
        if sql not in self.statements:
            self.statements.append(sql)
        return sql
