"""What becomes of rows that somebody else has written where the run is to be taken back: who decides it, and where.

Such rows are a finding. They stay untouched until the plan (`rollback.changed_since`) or a person (`knarr.decide`) has
said what is to become of them; what then happens is in the audit trail.
"""

import json
from collections.abc import Sequence
from typing import Final

from knarr.audit import chain
from knarr.errors import DataError
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import writers
from knarr.postgres.identifiers import literal
from knarr.postgres.lease import Lease
from knarr.postgres.session import Connection
from knarr.postgres.undo_sql import ChangedSince
from knarr.wording import counted

# A decision was given in one undoing; the epoch is raised where another begins, which then asks again.
DECIDED: Final = """
SELECT d.changed_since FROM knarr.decision d JOIN knarr.lease l USING (run_id, epoch)
 WHERE d.run_id = $1 AND d.mapping = $2
"""
SAID: Final = "SELECT body FROM knarr.audit WHERE run_id = $1 AND entry_key = $2"
CARRY_ON: Final = "UPDATE knarr.decision SET epoch = $3 WHERE run_id = $1 AND epoch = $2"
# A phase that has passed its verification, or whose verdict a person has accepted, is used by people while it soaks and
# waits for approval, long before the seal. What takes verdicts, checkpoints and the seal back leaves their entries.
# Bodies are canonical JSON; as jsonb what people say in them can't be read always (a NUL).
WAS_IN_USE: Final = """
SELECT EXISTS (SELECT FROM knarr.verdict WHERE run_id = $1 AND passed)
    OR EXISTS (SELECT FROM knarr.audit
                WHERE run_id = $1
                  AND (kind = 'step' AND entry_key LIKE 'step/seal/%'
                       OR kind = 'checkpoint' AND body NOT LIKE '%"mapping":%'
                       OR kind = 'operator' AND body LIKE '{"accepted":true,"action":"skip",%'))
"""


async def decision(connection: Connection, run_id: str, mapping: int) -> ChangedSince | None:
    """What a person has decided about a mapping's table in this undoing, if anybody has."""
    decided: ChangedSince | None = await connection.fetchval(DECIDED, run_id, mapping)
    return decided


async def policy(connection: Connection, run_id: str, mapping: int, planned: ChangedSince) -> ChangedSince:
    """What holds now for a mapping's table: a person's decision in this undoing, or else what the plan says."""
    return await decision(connection, run_id, mapping) or planned


async def carry_on(connection: Connection, run_id: str, old: int, new: int) -> None:
    """Decisions given under one epoch hold under the next: the same undoing goes on after it stopped for them."""
    await connection.execute(CARRY_ON, run_id, old, new)


async def was_in_use(connection: Connection, run_id: str) -> bool:
    """Whether people were ever meant to use rows of the run: a phase of it was proved, or accepted without proof."""
    return bool(await connection.fetchval(WAS_IN_USE, run_id))


def decide(run_id: str, mapping: str, changed_since: ChangedSince) -> str:
    """The statement by which a person decides about a mapping's table, for a hint. The table's owner may not."""
    given = ", ".join(map(literal, (run_id, mapping, changed_since)))
    return f"as the run's own role: SELECT knarr.decide({given}, WHO, WHY)"


def way_out(run_id: str, mapping: str, choices: Sequence[ChangedSince]) -> str:
    """What a person may do where a phase's rows can't be told from others, for a hint; `choices` are what may help."""
    effects = {
        "keep theirs": "what no transaction of the run wrote stays",
        "restore ours": "it goes when the last phase does",
    }
    said = " or ".join(f"{decide(run_id, mapping, choice)} ({effects[choice]})" for choice in choices)
    decided = f"on the target: {said}, and retry; or " if said else ""
    return f"{decided}skip this step with a reason; nothing was changed"


def require_decision(
    decided: ChangedSince, run_id: str, mapping: ResolvedMapping, found: writers.Written, expected: int
) -> None:
    """Stops where a table that is to be emptied holds rows of others and nothing that can be done was decided.

    Raises:
        DataError: with how many they are, how to see them, and how to decide; or they are to stay and can't be told.
    """
    if decided == "restore ours" or (decided == "keep theirs" and found.ours is not None):
        return
    said = f"{mapping.name} holds {counted(found.rows, 'row')}, the ledger says that the run put {expected:,} there"
    restore = decide(run_id, mapping.name, "restore ours")
    if found.ours is None:
        raise DataError(
            f"{said}: somebody else has written to it, and the ledger, of an older version, does not say to which rows",
            hint=f"put the table's rows right, or on the target: {restore}, which empties the table; then retry; "
            "nothing was changed",
        )
    kept = ", and the table is not dropped then" if mapping.mode == "create" else ""
    raise DataError(
        f"{said}; {found.rows - found.ours:,} of them show transactions that are not the run's: somebody else has "
        "written to it",
        hint=f"look at them: {writers.list_others(run_id, mapping)}; then on the target: "
        f"{decide(run_id, mapping.name, 'keep theirs')} (they stay{kept}) or {restore} (they go too), and retry; "
        "nothing was changed",
    )


def in_use(run_id: str, mapping: ResolvedMapping, partition: int, found: int) -> DataError:
    """A repair would write over what others have done; it can't tell what is damage and what is work, a person can."""
    rows = f"{counted(found, 'row')} that somebody else has written or deleted"
    return DataError(
        f"partition {partition} of {mapping.name} differs from the source and has {rows} since the table is in use: "
        "they are not written over",
        hint=f"look at the partition's rows: {writers.list_others(run_id, mapping)}; put them right and verify again, "
        "or roll back, which asks what is to become of them",
    )


def stay(rows: int, mapping: ResolvedMapping) -> list[str]:
    """That rows are left to others, for whoever reads that the target is what it was before; nothing where none are."""
    verb = "stays" if rows == 1 else "stay"
    return [f"{counted(rows, 'row')} of {mapping.name} that others have written {verb}"] if rows else []


async def left_before(connection: Connection, run_id: str, key: str) -> list[str]:
    """What an attempt whose answer was lost said of what stays, by the key of its entry in the trail; else nothing."""
    body: str | None = await connection.fetchval(SAID, run_id, key)
    left = json.loads(body).get("left", []) if body else []
    return [str(each) for each in left]


async def note(
    connection: Connection, lease: Lease, run_id: str, place: str, decided: ChangedSince, summary: str
) -> None:
    """Puts what became of rows of others into the audit trail, in the transaction that does it.

    Args:
        place: the step that met the rows, without control characters; with the epoch it is the entry's key.
        summary: how many rows of which table, and what became of them.
    """
    key = f"changed since {place}/epoch {lease.epoch}"
    body = {"summary": summary, "reason": f"changed_since: {decided}"}
    await chain.append(connection, run_id, key, "decision", body)
