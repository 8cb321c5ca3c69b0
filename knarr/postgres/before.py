"""What an occupied table held before the run's first write to it, and the proof that it holds the same again.

A sum of row hashes can be added to and taken from: each ledger row says by how much its partition changed the sum, so
what the table must hold is known at every checkpoint without another look at it.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from knarr.errors import DataError
from knarr.plan.models import Limits
from knarr.plan.resolved import ResolvedMapping
from knarr.postgres import others, sequences
from knarr.postgres.failures import classified
from knarr.postgres.identifiers import enclosed, qualified, quote
from knarr.postgres.lease import Lease, fence, step_lock
from knarr.postgres.merge_sql import OURS, row_hash
from knarr.postgres.session import Connection
from knarr.postgres.transactions import transaction
from knarr.postgres.undo_sql import COLUMNS, TableColumn
from knarr.wording import counted

OF_THE_RUN: Final = ""  # the phase under which positions of sequences from before the run stand

RECORDED: Final = "SELECT EXISTS (SELECT FROM knarr.table_before WHERE run_id = $1 AND mapping = $2)"
RECORD: Final = """
INSERT INTO knarr.table_before (run_id, mapping, columns, rows, checksum, snapshot)
SELECT $1::text, $2::integer, $3::text[], count(*), coalesce(sum({hash}), 0), pg_current_snapshot()
  FROM {table}{scope}
"""
READ_COLUMNS: Final = "SELECT columns FROM knarr.table_before WHERE run_id = $1 AND mapping = $2"
# Phase $3 is about to leave the ledger. What was kept of other people's rows is not there to be counted.
EXPECTED: Final = """
SELECT b.rows + coalesce(l.rows, 0) - coalesce(u.rows, 0) AS rows,
       b.checksum + coalesce(l.checksum, 0) - coalesce(u.checksum, 0) AS checksum,
       b.others + coalesce(m.others, 0) AS others
  FROM knarr.table_before b
 CROSS JOIN LATERAL (SELECT sum(inserted - deleted)::bigint AS rows, sum(checksum_change) AS checksum
                       FROM knarr.ledger WHERE run_id = $1 AND mapping = $2 AND phase <> $3) AS l
 CROSS JOIN LATERAL (SELECT sum(others)::bigint AS others FROM knarr.ledger WHERE run_id = $1 AND mapping = $2) AS m
 CROSS JOIN LATERAL (SELECT sum(kept_rows)::bigint AS rows, sum(kept_checksum) AS checksum
                       FROM knarr.undone WHERE run_id = $1 AND mapping = $2) AS u
 WHERE b.run_id = $1 AND b.mapping = $2
"""
FOUND: Final = "SELECT count(*) AS rows, coalesce(sum({hash}), 0) AS checksum FROM {table}{scope}"
SINCE: Final = "(SELECT snapshot FROM knarr.table_before WHERE run_id = $1 AND mapping = $2)"
FOUND_APART: Final = f"""
SELECT count(*) FILTER (WHERE others) AS others, count(*) FILTER (WHERE NOT others) AS rows,
       coalesce(sum(hash) FILTER (WHERE NOT others), 0) AS checksum
  FROM (SELECT {{hash}} AS hash, knarr.is_others({{table}}.xmin, {SINCE}, {OURS}) AS others
          FROM {{table}}{{scope}} OFFSET 0) AS found
"""

OWNED_SEQUENCES: Final = """
SELECT a.attname AS column, quote_ident(n.nspname) || '.' || quote_ident(s.relname) AS sequence,
       q.seqincrement AS increment, q.seqcache AS cache,
       EXISTS (SELECT FROM pg_depend e JOIN pg_attrdef f ON f.oid = e.objid
                WHERE e.classid = 'pg_attrdef'::regclass
                  AND (e.refclassid, e.refobjid) = ('pg_class'::regclass, s.oid)
                  AND (f.adrelid, f.adnum) <> (d.refobjid, d.refobjsubid)) AS shared
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_sequence q ON q.seqrelid = s.oid
  JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
   AND d.refobjid = to_regclass($1)
 ORDER BY 1
"""
FURTHEST_OF_OTHERS: Final = f"""
SELECT {{furthest}}({{column}})::bigint FROM {{table}} WHERE knarr.is_others(xmin, {SINCE}, {OURS})
"""

ONE_BY_ONE: Final = "can't be proved as a whole: every row of the undo log was, one by one"


class Proof(NamedTuple):
    """What a table was found to hold, for people, and whether that proves it as a whole."""

    whole: bool
    said: str


async def read_columns(connection: Connection, mapping: ResolvedMapping) -> list[TableColumn]:
    """The target's columns as they are now; none: it is gone."""
    return [TableColumn(**dict(row)) for row in await connection.fetch(COLUMNS, qualified(mapping.target))]


async def record(
    connection: Connection, lease: Lease, run_id: str, mapping: ResolvedMapping, *, limits: Limits | None = None
) -> bool:
    """Records what the table holds, once for each run, and where the sequences of its columns stand.

    Reads all rows of the mapping's scope. Must be done before the first partition is written.

    Returns:
        False when it stands already.

    Raises:
        LostLease, TransientError, PlanError.
    """
    with classified(f"recording what {mapping.name} holds before the run"):
        async with transaction(connection, limits):
            await step_lock(connection, f"{run_id}/{mapping.number}/before")
            await fence(connection, lease)
            if await connection.fetchval(RECORDED, run_id, mapping.number):
                return False
            columns = [column.described for column in await read_columns(connection, mapping)]
            for row in await connection.fetch(OWNED_SEQUENCES, qualified(mapping.target)):
                await sequences.remember(connection, run_id, mapping.number, OF_THE_RUN, row["sequence"])
            await connection.execute(_sql(RECORD, mapping), run_id, mapping.number, columns)
    return True


async def require_same_columns(
    connection: Connection, run_id: str, mapping: ResolvedMapping, columns: Sequence[TableColumn]
) -> None:
    """The undo log's rows are the texts of records with the columns of then.

    Raises:
        DataError: the table has other columns now, or is gone.
    """
    then: list[str] | None = await connection.fetchval(READ_COLUMNS, run_id, mapping.number)
    now = [column.described for column in columns]
    if then is not None and then != now:
        raise DataError(
            f"the columns of {mapping.name} were {', '.join(then)} when the run wrote to it; they are now "
            f"{', '.join(now) or 'gone with the table'}: the undo log holds rows of the former",
            hint="give the table its former columns again, then retry; nothing was changed",
        )


async def prove(connection: Connection, run_id: str, mapping: ResolvedMapping, phase: str) -> Proof:
    """Holds the table against what it must be once the phase is taken back.

    Called in the transaction that ends the phase's undo, while the ledger still has its rows. Where somebody else has
    written meanwhile, their rows are left out of the sum; where they changed rows that the run never touched, the table
    as a whole can't be proved, and that is what this says. Rows that they deleted leave no sign: then it takes a
    person's decision about rows of others; what the plan says beforehand is not about these.

    Raises:
        DataError: it holds something else, there is no sign of anybody else, and no person has decided.
    """
    expected = await connection.fetchrow(EXPECTED, run_id, mapping.number, phase)
    if expected is None:
        raise DataError(f"what {mapping.name} held before the run was not recorded, so nothing can be proved about it")
    found = await connection.fetchrow(_sql(FOUND, mapping))
    if found is None:
        raise RuntimeError("counting returned no row")
    wanted: tuple[int, Decimal] = expected["rows"], expected["checksum"]
    if (found["rows"], found["checksum"]) == wanted:
        return Proof(whole=True, said=f"{wanted[0]:,} rows with checksum {wanted[1]}, as it must be")
    apart = await connection.fetchrow(_sql(FOUND_APART, mapping), run_id, mapping.number)
    if apart is None:
        raise RuntimeError("counting returned no row")
    if (apart["rows"], apart["checksum"]) == wanted:
        said = f"{wanted[0]:,} rows with checksum {wanted[1]}, as it must be"
        return Proof(whole=True, said=f"{said}, and {apart['others']:,} rows that somebody else has written since")
    figures = (
        f"{found['rows']:,} rows with checksum {found['checksum']}, expected {wanted[0]:,} with checksum {wanted[1]}"
    )
    if apart["others"] or expected["others"]:
        met = counted(apart["others"] + expected["others"], "row")
        said = f"{figures}; somebody else has written meanwhile ({met} of theirs met), so the table {ONE_BY_ONE}"
        return Proof(whole=False, said=said)
    decided = await others.decision(connection, run_id, mapping.number)
    if decided in ("keep theirs", "restore ours"):
        return Proof(whole=False, said=f"{figures}; '{decided}' was decided, and the table {ONE_BY_ONE}")
    raise DataError(
        f"{mapping.name} is not what it was: it holds {figures}",
        hint="if somebody has deleted rows of it during the run, that is why: on the target: "
        f"{others.decide(run_id, mapping.name, 'keep theirs')}, and retry; else do not release the run, and compare "
        "the table with a backup",
    )


async def put_sequences_back(connection: Connection, run_id: str, mapping: ResolvedMapping) -> list[str]:
    """Puts the sequences of the table's columns back to where they stood before the run, within its last undo.

    Not one that somebody else has drawn from since, or may have for another table or from a session's cache: theirs
    would be given out twice.

    Returns:
        Names of the sequences that were left where they are.
    """
    table, left = qualified(mapping.target), []
    for row in await connection.fetch(OWNED_SEQUENCES, table):
        name: str = row["sequence"]
        before = await sequences.remembered(connection, run_id, OF_THE_RUN, name)
        if before is None or before == await sequences.position(connection, name):
            continue
        # Nobody may be about to use a value that is then given out again.
        await connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        increment: int = row["increment"]
        query = _sql(
            FURTHEST_OF_OTHERS, mapping, column=quote(row["column"]), furthest="max" if increment > 0 else "min"
        )
        theirs: int | None = await connection.fetchval(query, run_id, mapping.number)
        drawn = theirs is not None and (theirs - before.next(increment)) * increment >= 0
        if drawn or row["shared"] or row["cache"] > 1:
            left.append(name)
        else:
            await sequences.put(connection, name, before)
    return left


def _sql(template: str, mapping: ResolvedMapping, **more: str) -> str:
    table = qualified(mapping.target)
    scope = f"\n WHERE {enclosed(mapping.scope)}" if mapping.scope else ""
    return template.format_map({"table": table, "scope": scope, "hash": row_hash(f"({table}.*)::text")} | more)
