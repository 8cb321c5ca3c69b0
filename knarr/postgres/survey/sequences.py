"""Sequences: which the run makes, what they are called on the target, and which must continue after the rows."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from knarr.plan.resolved import DatabaseObject, ResolvedSequence, TableName
from knarr.postgres import ddl
from knarr.postgres.catalogue import CatalogueSequence, read_sequences
from knarr.postgres.ddl_names import Names, renamed
from knarr.postgres.identifiers import literal, qualified
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.sketches import Sketch, SketchColumn


@dataclass
class SequencePlan:
    """The source's sequences behind the mappings' columns, and their names on the target."""

    found: dict[int, CatalogueSequence]
    names: dict[int, TableName] = field(default_factory=dict)
    shared: list[DatabaseObject] = field(default_factory=list)
    """Those that several mappings draw from: of the run as a whole."""
    of_mapping: defaultdict[int, list[DatabaseObject]] = field(default_factory=lambda: defaultdict(list))

    def default_sql(self, column: SketchColumn) -> str | None:
        """The column's DEFAULT with its sequence called as on the target."""
        oid = column.plain.default_sequence if column.plain else None
        if column.default_sql is None or oid is None:
            return column.default_sql
        there = literal(qualified(self.names[oid]))
        return column.default_sql.replace(f"{literal(self.found[oid].sql_name)}::regclass", f"{there}::regclass")

    def identity_options(self, column: SketchColumn) -> str | None:
        """The options of an identity column that moves as it is, its sequence's name among them."""
        oid = column.plain.owned_sequence if column.plain else None
        if oid is None or oid not in self.names:
            return None
        return f"SEQUENCE NAME {qualified(self.names[oid])} {self.found[oid].options}"

    def owners(self, sketch: Sketch) -> list[DatabaseObject]:
        """That a serial's sequence belongs to its column."""
        return [
            ddl.sequence_owner(self.names[oid], sketch.target, one.owner_column)
            for oid, one in self.found.items()
            if one.owner_table == sketch.source_table.oid and one.owner_column is not None
            and oid in self.names and not _is_identity(sketch, one.owner_column)
        ]  # fmt: skip

    def to_continue(self, sketch: Sketch) -> list[ResolvedSequence]:
        """The columns whose sequences must go on after the last row."""
        wanted: list[ResolvedSequence] = []
        for column, behind in _continuing(sketch):
            source = self.found[behind].sql_name if behind is not None else None
            wanted.append(ResolvedSequence(column=column.name, source_sequence=source))
        return wanted

    def to_read(self, sketch: Sketch) -> list[int]:
        """The source's sequences beyond whose position those must go on."""
        return [behind for _, behind in _continuing(sketch) if behind is not None]


async def plan_sequences(inquiry: Inquiry, names: Names) -> SequencePlan:
    """Reads the sequences behind all mappings and names those that the run makes."""
    behind = [
        (one, oid) for one in inquiry.sketches for column in one.copied if (oid := _source_sequence(column)) is not None
    ]
    planned = SequencePlan(await read_sequences(inquiry.source, sorted({oid for _, oid in behind})))
    users: defaultdict[int, list[Sketch]] = defaultdict(list)
    for one, oid in behind:
        if one.as_is and one.creates and one not in users[oid]:
            users[oid].append(one)
    for oid, several in users.items():
        sequence = planned.found[oid]
        owner = next((one for one in several if one.source_table.oid == sequence.owner_table), several[0])
        schema_name = inquiry.schemas.get(sequence.name.schema_name, sequence.name.schema_name)
        wanted = renamed(sequence.name.name, owner.source.name, owner.target.name)
        name = TableName(schema_name=schema_name, name=names.relation(schema_name, wanted))
        planned.names[oid] = name
        if sequence.owner_column is not None and _is_identity(owner, sequence.owner_column):
            continue  # it is made and dropped with its column
        made = ddl.sequence(name, sequence.type, sequence.options)
        if len(several) == 1:
            planned.of_mapping[several[0].number].append(made)
        else:
            planned.shared.append(made)
    return planned


def _continuing(sketch: Sketch) -> Iterator[tuple[SketchColumn, int | None]]:
    """The columns whose sequences must go on, each with the source's sequence behind it."""
    for column in sketch.copied:
        behind = _source_sequence(column)
        there = None if sketch.target_table is None or sketch.creates else sketch.target_table.column(column.name)
        drawn = there is not None and (there.owned_sequence or there.default_sequence) is not None
        if (sketch.creates and (column.identity or (sketch.as_is and behind is not None))) or drawn:
            yield column, behind


def _source_sequence(column: SketchColumn) -> int | None:
    if column.plain is None:
        return None
    return column.plain.owned_sequence or column.plain.default_sequence


def _is_identity(sketch: Sketch, column: str) -> bool:
    found = sketch.source_table.column(column)
    return found is not None and found.identity is not None
