"""Triggers and rules of a target table that is there: what they do when a run writes or takes back can't be undone."""

from typing import Final

from knarr.plan.names import write_table
from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.survey.inquiry import Inquiry
from knarr.postgres.survey.problems import listed
from knarr.postgres.survey.sketches import Sketch

# Of the table and of its partitions, on whose rows they fire as well. A partition's copy of a trigger is switched off
# with the one that it was made from, if that is not on a table above, which is none of the plan's.
_TRIGGERS: Final = """
SELECT t.tgname::text AS trigger, n.nspname::text AS schema_name, c.relname::text AS name
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE (t.tgrelid = $1 OR t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1)))
   AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & $2 <> 0
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger p WHERE p.oid = t.tgparentid AND p.tgenabled IN ('O', 'A')
                      AND (p.tgrelid = $1 OR p.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1))))
 ORDER BY 1, 2, 3
"""
_EVENTS: Final = {"INSERT": 4, "UPDATE": 16, "DELETE": 8, "TRUNCATE": 32}  # bits of pg_trigger.tgtype
# Those of a partition count only for statements that name the partition.
_RULES: Final = """
SELECT r.rulename::text AS rule, r.ev_type::text = ANY($2::text[]) AS applies FROM pg_catalog.pg_rewrite r
 WHERE r.ev_class = $1 AND r.rulename <> '_RETURN' AND r.ev_enabled IN ('O', 'A')
 ORDER BY 1
"""
_RULE_EVENTS: Final = {"UPDATE": "2", "INSERT": "3", "DELETE": "4"}


async def check_triggers(inquiry: Inquiry, sketch: Sketch) -> None:
    """No enabled trigger fires for what the run does to a table that is there."""
    assert sketch.target_table is not None
    events = _events(inquiry, sketch)
    rows = await inquiry.target.fetch(_TRIGGERS, sketch.target_table.oid, sum(_EVENTS[event] for event in events))
    if not rows:
        return
    triggers = list(dict.fromkeys(row["trigger"] for row in rows))
    tables = list(dict.fromkeys(TableName(schema_name=row["schema_name"], name=row["name"]) for row in rows))
    disable = [f"ALTER TABLE {qualified(table)} DISABLE TRIGGER USER" for table in tables]
    done = "copied" if sketch.mapping.mode == "fill" else "merged"
    inquiry.problems.error(
        sketch.where("target"),
        f"triggers of {write_table(sketch.target)} would fire when rows are {done} or taken back: {listed(triggers)}",
        expected=f"no enabled trigger on {', '.join(events[:-1])} or {events[-1]}: "
        "what it does can be neither verified nor undone",
        hint=f"for the time of the run: {'; '.join(disable[:3])}{'; and so on' if len(disable) > 3 else ''}",
    )


async def check_rules(inquiry: Inquiry, sketch: Sketch) -> None:
    """No enabled rule rewrites what the run does to a table that is there; to the COPY of a fill none applies."""
    assert sketch.target_table is not None
    events = [event for event in _events(inquiry, sketch) if event in _RULE_EVENTS]
    if sketch.mapping.mode == "fill" and "UPDATE" not in events:
        events.remove("INSERT")
    rows = await inquiry.target.fetch(_RULES, sketch.target_table.oid, [_RULE_EVENTS[event] for event in events])
    where, name = sketch.where("target"), write_table(sketch.target)
    if rules := [row["rule"] for row in rows if row["applies"]]:
        disable = ", ".join(f"DISABLE RULE {quote(rule)}" for rule in rules)
        inquiry.problems.error(
            where,
            f"rules of {name} would rewrite what the run does: {listed(rules)}",
            expected=f"no enabled rule on {', '.join(events[:-1])}{' or ' if events[1:] else ''}{events[-1]}",
            hint=f"for the time of the run: ALTER TABLE {qualified(sketch.target)} {disable}",
        )
    if rules := [row["rule"] for row in rows if not row["applies"]]:
        inquiry.problems.warn(where, f"rules of {name} do not apply to COPY: {listed(rules)}")


def _events(inquiry: Inquiry, sketch: Sketch) -> list[str]:
    """A table that was filled is emptied, or rid of the run's rows; only a repair updates it. No merge truncates."""
    if sketch.mapping.mode != "fill":
        return ["INSERT", "UPDATE", "DELETE"]
    repairs = inquiry.plan.verification.on_difference == "repair"
    return ["INSERT", *(["UPDATE"] if repairs else []), "DELETE", "TRUNCATE"]
