"""What stands in the way on the target: tables that exist or have rows, objects, other runs' claims, triggers."""

from typing import Final

import asyncpg

from knarr.errors import TransientError
from knarr.plan.names import write_table
from knarr.plan.resolved import DatabaseObject
from knarr.postgres import claims
from knarr.postgres.failures import classify
from knarr.postgres.identifiers import qualified
from knarr.postgres.session import Connection
from knarr.postgres.survey.ask import lookup
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed, nearest
from knarr.postgres.survey.sketches import Sketch
from knarr.postgres.survey.triggers import check_rules, check_triggers

_OWN_OBJECTS: Final = "SELECT kind, name FROM knarr.object WHERE run_id = $1"
_COPIED: Final = (
    "SELECT DISTINCT m.name FROM knarr.ledger l JOIN knarr.mapping m USING (run_id, mapping) WHERE run_id = $1"
)
_TABLES: Final = """
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname
"""


async def knarr_is_there(target: Connection) -> bool:
    """Whether the target has the knarr schema."""
    return bool(await lookup(target, "SELECT pg_catalog.to_regclass('knarr.claim') IS NOT NULL"))


async def own_objects(target: Connection, run_id: str | None) -> frozenset[tuple[str, str]]:
    """Kinds and names of what the run has made in an earlier attempt."""
    if run_id is None or not await knarr_is_there(target):
        return frozenset()
    return frozenset((row["kind"], row["name"]) for row in await target.fetch(_OWN_OBJECTS, run_id))


async def check_claims(inquiry: Inquiry) -> None:
    """Target tables that another run holds, or of which it holds a table above or below."""
    if not await knarr_is_there(inquiry.target):
        return
    for held in await claims.held_by_others(inquiry.target, inquiry.run_id, [one.target for one in inquiry.sketches]):
        for one in inquiry.sketches:
            if one.target == held.wanted:
                table = f"{write_table(held.table)}{held.kinship(write_table(held.wanted))}"
                inquiry.problems.error(
                    one.where("target"),
                    f"run {held.run_id} of plan {held.plan_name} holds {table} ({held.state})",
                    expected="a table that no other run holds",
                    hint=f"wait until it ends, or `knarr abort {held.run_id}`, or `knarr complete {held.run_id}`; if "
                    f"its workflow is gone: `knarr doctor --unwind {held.run_id}`",
                )


async def check_occupancy(
    inquiry: Inquiry, sketch: Sketch, objects: list[DatabaseObject], copied: frozenset[str]
) -> None:
    """The target table as the mapping's mode needs it, and the objects that the run is to make for it.

    Args:
        inquiry: the survey.
        sketch: the mapping.
        objects: what the run is to make for the mapping.
        copied: names of the mappings of this very run that have rows already.
    """
    table, where = sketch.target_table, sketch.where("target")
    if sketch.creates:
        if table is not None and ("table", str(sketch.target)) not in inquiry.own:
            await _in_the_way(inquiry, sketch, await _standing(inquiry, objects))
        else:
            await check_objects(inquiry, sketch.where(), objects)
        return
    if table is None:
        known = [row["relname"] for row in await inquiry.target.fetch(_TABLES, sketch.target.schema_name)]
        inquiry.problems.error(
            where,
            f"table {write_table(sketch.target)} does not exist on the target",
            expected=f"it, with `mode: {sketch.mapping.mode}`",
            hint=nearest(sketch.target.name, known) or "leave `mode` out, and the run makes the table",
        )
        return
    if table.kind not in ("table", "partitioned table"):
        inquiry.problems.error(where, f"{write_table(sketch.target)} is a {table.kind}", expected="a table")
        return
    if sketch.mapping.mode == "fill" and str(sketch.target) not in copied:
        has_rows = await _has_rows(inquiry, sketch)
        if has_rows:
            inquiry.problems.error(
                where,
                f"table {write_table(sketch.target)} has rows",
                expected="an empty table with `mode: fill`",
                hint="`mode: append` or `mode: merge` write to a table that has rows; or empty it",
            )
    if table.has_children and table.kind == "table":
        # Verification would count their rows, and a rollback would have to leave them.
        inquiry.problems.error(
            where,
            f"other tables inherit from {write_table(sketch.target)}: its rows and theirs can't be told apart",
            expected="a table alone",
            hint="ALTER TABLE ... NO INHERIT takes them off for the time of the run",
        )
    await check_triggers(inquiry, sketch)
    if table.rows_hidden:
        inquiry.problems.error(
            where,
            f"row level security hides rows of {write_table(sketch.target)} from this role",
            expected="a role that sees and writes all rows: its owner, or one with BYPASSRLS",
        )
    await check_rules(inquiry, sketch)
    _check_columns(inquiry, sketch)


async def check_objects(inquiry: Inquiry, where: str, objects: list[DatabaseObject]) -> None:
    """Objects that the run is to make and that are there already, not made by this run."""
    for one in await _standing(inquiry, objects):
        inquiry.problems.error(
            where,
            f"{one.kind} {one.name} is in the way on the target",
            expected="that it is not there: the run makes it",
            hint="drop or rename it, or choose another name in the plan",
        )


async def _standing(inquiry: Inquiry, objects: list[DatabaseObject]) -> list[DatabaseObject]:
    return [
        one
        for one in objects
        if one.kind != "table"
        and (one.kind, one.name) not in inquiry.own
        and await lookup(inquiry.target, one.probe) is not None
    ]


async def copied_mappings(target: Connection, run_id: str | None) -> frozenset[str]:
    """Target tables that this very run has copied rows into."""
    if run_id is None or not await knarr_is_there(target):
        return frozenset()
    return frozenset(row["name"] for row in await target.fetch(_COPIED, run_id))


async def _in_the_way(inquiry: Inquiry, sketch: Sketch, standing: list[DatabaseObject]) -> None:
    """One problem for the table and for all that stands on it: both go, or stay, together."""
    assert sketch.target_table is not None
    kind = sketch.target_table.kind
    rows = "no rows"
    if kind in ("table", "partitioned table"):
        has_rows = await _has_rows(inquiry, sketch)
        rows = "rows that can't be read" if has_rows is None else "rows" if has_rows else "no rows"
    found = f"{kind} {write_table(sketch.target)} exists on the target, with {rows}"
    if standing:
        suffix = f" on {sketch.target}"
        names = [f"{one.kind} {one.name.removesuffix(suffix)}" for one in standing if one.kind != "comment"]
        found += f"; there too: {listed(names)}" if names else ""
    inquiry.problems.error(
        sketch.where("target"),
        found,
        expected="that they are absent: the run makes them" if standing else "that it is absent: the run makes it",
        hint="`mode: fill` fills an empty table, append and merge write to one that has rows; or drop it, or name "
        "another target",
    )


async def _has_rows(inquiry: Inquiry, sketch: Sketch) -> bool | None:
    """None: this role may not look."""
    try:
        async with inquiry.target.transaction(readonly=True):
            found: bool = await inquiry.target.fetchval(f"SELECT EXISTS (SELECT FROM {qualified(sketch.target)})")
    except asyncpg.PostgresError as error:
        classified = classify(error, f"looking into {sketch.target}")
        if isinstance(classified, TransientError):
            raise classified from error
        return None  # the check of privileges says it
    return found


def _check_columns(inquiry: Inquiry, sketch: Sketch) -> None:
    """Columns of the table that must have a value and get none."""
    assert sketch.target_table is not None
    written = {column.name for column in sketch.copied}
    for column in sketch.target_table.columns:
        has_value = column.default_sql is not None or column.identity is not None or column.generated is not None
        if column.not_null and not has_value and column.name not in written and not sketch.broken:
            inquiry.problems.error(
                sketch.where("columns"),
                f"column {column.name} of {write_table(sketch.target)} is NOT NULL without a default, "
                "and the mapping does not write it",
                expected="an expression for it",
            )
