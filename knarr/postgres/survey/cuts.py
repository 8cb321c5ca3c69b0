"""Key columns whose ranges can't be cut: equal values would part, or a range would end elsewhere on the other side.

A partition is merged by itself, so two keys that are equal to the target must lie in one. Types that are compared by
their own order take care of that (1.0 and 1.00, a month and 30 days); what is compared by its bytes, because only
bytes are alike on both servers, does so only where equal values have equal bytes. Whether they have, the type's own
operator class knows: it is what B-trees ask before they keep one image for many values.
"""

from typing import Final

from knarr.plan.units import size_bytes
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sketches import Sketch, SketchColumn

# Amproc 4 is "equal image"; that of text says no for collations that are not deterministic, which is asked directly.
_EQUALITY: Final = """
WITH RECURSIVE over (name, type, sorted) AS (
    SELECT attname, atttypid, attcollation FROM pg_catalog.pg_attribute
     WHERE attrelid = $1 AND attname = ANY($2::text[]) AND NOT attisdropped
    UNION ALL
    SELECT over.name, t.typbasetype, over.sorted
      FROM over JOIN pg_catalog.pg_type t ON t.oid = over.type WHERE t.typtype = 'd')
SELECT over.name::text AS name,
       coalesce((SELECT NOT c.collisdeterministic FROM pg_catalog.pg_collation c WHERE c.oid = over.sorted), false)
           AS loosely_collated,
       EXISTS (SELECT FROM pg_catalog.pg_opclass c
                 JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
                 JOIN pg_catalog.pg_amproc p ON p.amprocfamily = c.opcfamily AND p.amprocnum = 4
                      AND p.amproclefttype = c.opcintype AND p.amprocrighttype = c.opcintype
                WHERE c.opcdefault
                  AND c.opcintype IN (t.oid, CASE t.typtype WHEN 'e' THEN 'anyenum'::regtype END)) AS equal_image
  FROM over JOIN pg_catalog.pg_type t ON t.oid = over.type
 WHERE t.typtype <> 'd'
"""
# Ordered by the database's default collation, which may be another on the other server.
_ORDERED_BY_DEFAULT: Final = ("jsonb", "jsonb[]")


async def find_uncuttable(inquiry: Inquiry, sketch: Sketch) -> None:
    """Marks the key's columns whose ranges can't be cut.

    A table that the run fills alone is cut by bytes whatever is equal in it: its rows are copied, not looked for.
    """
    for column in sketch.key:
        if column.base_type in _ORDERED_BY_DEFAULT:
            sketch.uncuttable[column.name] = "is ordered by the database's collation, which the other side may not have"
    table = sketch.target_table
    if sketch.mapping.mode not in ("append", "merge") or table is None:
        return
    rows = await inquiry.target.fetch(_EQUALITY, table.oid, [column.name for column in sketch.key])
    for row in rows:
        column = _named(sketch, row["name"])
        if row["loosely_collated"] or (column.category != "builtin" and not row["equal_image"]):
            sketch.uncuttable[column.name] = "may hold equal values that differ in their bytes"


def tell_of_cuts(inquiry: Inquiry, sketch: Sketch, estimated_bytes: int) -> None:
    """Says what becomes of a mapping that would be cut, and why."""
    names = [column.name for column in sketch.key]
    if not sketch.uncuttable or estimated_bytes <= size_bytes(inquiry.plan.limits.partition_size):
        return
    first = next(name for name in names if name in sketch.uncuttable)
    before = names[: names.index(first)]
    column = _named(sketch, first)
    inquiry.problems.warn(
        sketch.where("key", first),
        f"{first} ({column.target_type}) {sketch.uncuttable[first]}: no partition can end between two of them",
        hint=f"partitions end between values of {listed(before)} alone"
        if before
        else "it moves as one partition, in one transaction, and is verified as one",
    )


def _named(sketch: Sketch, name: str) -> SketchColumn:
    return next(column for column in sketch.key if column.name == name)
