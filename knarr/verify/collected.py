"""What one integrity check gathers while it goes: findings, their counts, the statements, what was compared."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from asyncpg import Record

from knarr.plan.resolved import ResolvedColumn, ResolvedMapping
from knarr.postgres.identifiers import qualified
from knarr.postgres.session import Connection
from knarr.verify.canonical import Value, actual_value
from knarr.verify.expected import target_scope
from knarr.verify.models import Finding, FindingKind, shorten


@dataclass
class Collected:
    """The target table that is asked, and everything that the asking gave.

    Args:
        target: in its snapshot.
        mapping: the table's mapping.
        shown: how many rows of one kind are asked for by key; counts are of all.
    """

    target: Connection
    mapping: ResolvedMapping
    shown: int
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table: str = qualified(self.mapping.target)
        self.scope: str = " AND ".join(target_scope(self.mapping)) or "true"
        # Without a key the whole row names it.
        self.identity: list[ResolvedColumn] = self.mapping.key or self.mapping.columns
        self.values: list[Value] = [actual_value(column) for column in self.identity]
        self.key: str = f"ARRAY[{', '.join(value.shown for value in self.values)}]::text[]"

    async def ask(self, sql: str) -> list[Record]:
        """Runs a statement and keeps it as evidence."""
        self.statements.append(sql)
        return list(await self.target.fetch(sql))

    def count(self, kind: FindingKind, count: int) -> None:
        """Counts findings, whether or not they are shown."""
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count

    def show(
        self,
        kind: FindingKind,
        key: Sequence[str | None] = (),
        *,
        column: str | None = None,
        expected: str,
        found: str | None = None,
        hint: str,
    ) -> None:
        """Adds a finding without counting it; `key` has the texts of the identity's columns."""
        names = [item.name for item in self.identity] if key else []
        self.findings.append(
            Finding(
                mapping=self.mapping.name,
                kind=kind,
                key={name: shorten(text) for name, text in zip(names, key, strict=True)},
                column=column,
                expected=shorten(expected),
                found=shorten(found),
                hint=hint,
            )
        )

    def find(
        self, kind: FindingKind, *, column: str | None = None, expected: str, found: str | None = None, hint: str
    ) -> None:
        """Counts one finding about the table as a whole, and shows it."""
        self.count(kind, 1)
        self.show(kind, column=column, expected=expected, found=found, hint=hint)
