"""The memory of verification: check results and verdicts as rows of the target's `knarr` schema, written once.

A result that is stored is not computed again and not replaced: the first one stands, a retry gets it back. A verdict
goes in with its digest in the audit trail, in one transaction.
"""

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from knarr.audit import chain
from knarr.audit.signing import SigningKey
from knarr.errors import DataError
from knarr.postgres.failures import classified
from knarr.postgres.lease import Lease, fenced
from knarr.postgres.session import Connection
from knarr.verify.models import CheckKey, CheckResult, Verdict

STORE: Final = """
INSERT INTO knarr.check_result (run_id, phase, round, kind, name, mapping, partition, outcome, result)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)
ON CONFLICT (run_id, phase, round, kind, name, mapping, partition) DO NOTHING
"""

LOAD: Final = """
SELECT kind, name, mapping, partition, outcome, result::text AS result
  FROM knarr.check_result
 WHERE run_id = $1 AND phase = $2 AND round = $3
 ORDER BY mapping, kind, name, partition
"""

LOAD_OF_MAPPINGS: Final = """
SELECT kind, name, mapping, partition, outcome, result::text AS result
  FROM knarr.check_result
 WHERE run_id = $1 AND phase = $2 AND round = $3 AND mapping = ANY ($4::int[])
 ORDER BY mapping, kind, name, partition
"""

LOAD_ONE: Final = """
SELECT kind, name, mapping, partition, outcome, result::text AS result
  FROM knarr.check_result
 WHERE run_id = $1 AND phase = $2 AND round = $3 AND kind = $4 AND name = $5 AND mapping = $6 AND partition = $7
"""

LAST_ROUND: Final = "SELECT max(round) FROM knarr.check_result WHERE run_id = $1 AND phase = $2"

STORE_VERDICT: Final = """
INSERT INTO knarr.verdict (run_id, phase, round, passed, document, digest)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6)
ON CONFLICT (run_id, phase, round) DO NOTHING
"""

LOAD_VERDICT: Final = """
SELECT passed, withdrawn, digest, document::text AS document
  FROM knarr.verdict
 WHERE run_id = $1 AND phase = $2 AND round = $3
"""

# Rounds count through the whole run or start again with each phase; the clock in the document decides either way.
NEWEST_VERDICT: Final = """
SELECT phase, round, passed, withdrawn, digest
  FROM knarr.verdict
 WHERE run_id = $1
 ORDER BY (document ->> 'ended_at')::timestamptz DESC, round DESC
 LIMIT 1
"""

WITHDRAW: Final = """
UPDATE knarr.verdict SET withdrawn = true
 WHERE run_id = $1 AND phase = $2 AND NOT withdrawn
RETURNING true
"""


class VerdictRow(BaseModel):
    """Where a run's newest verdict stands."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: str
    round: int
    passed: bool
    withdrawn: bool
    digest: str


async def store(
    target: Connection, lease: Lease, run_id: str, phase: str, round: int, result: CheckResult
) -> CheckResult:
    """Keeps a result, in a fenced transaction, and returns the one that stands: the first that was stored.

    Raises:
        LostLease, TransientError: nothing was written.
    """
    with classified(f"storing the result of the {result.check}"):
        async with fenced(target, lease):
            await target.execute(
                STORE,
                run_id,
                phase,
                round,
                result.kind,
                result.name,
                result.mapping,
                result.partition,
                result.outcome,
                result.model_dump_json(),
            )
        standing = await done(target, run_id, phase, round, result.check)
    if standing is None:
        raise DataError(f"the result of the {result.check} of run {run_id} was stored and is gone")
    return standing


async def done(target: Connection, run_id: str, phase: str, round: int, key: CheckKey) -> CheckResult | None:
    """The result of one check if it is stored."""
    with classified(f"reading the result of the {key}"):
        row = await target.fetchrow(LOAD_ONE, run_id, phase, round, key.kind, key.name, key.mapping, key.partition)
    return None if row is None else _result(dict(row))


async def load(target: Connection, run_id: str, phase: str, round: int) -> list[CheckResult]:
    """All stored results of one round of a phase's verification.

    Raises:
        DataError: a row contradicts the document in it: somebody edited one of them.
    """
    with classified(f"reading the results of phase {phase}"):
        rows = await target.fetch(LOAD, run_id, phase, round)
    return [_result(dict(row)) for row in rows]


async def load_of_mappings(
    target: Connection, run_id: str, phase: str, round: int, mappings: Sequence[int]
) -> list[CheckResult]:
    """The same, of some mappings only.

    Raises:
        DataError: a row contradicts the document in it: somebody edited one of them.
    """
    with classified(f"reading the results of phase {phase}"):
        rows = await target.fetch(LOAD_OF_MAPPINGS, run_id, phase, round, list(mappings))
    return [_result(dict(row)) for row in rows]


async def next_round(target: Connection, run_id: str, phase: str) -> int:
    """The number of a new round of a phase's verification: 1, 2, 3 ..."""
    with classified(f"reading the rounds of phase {phase}"):
        last: int | None = await target.fetchval(LAST_ROUND, run_id, phase)
    return (last or 0) + 1


async def store_verdict(
    target: Connection, lease: Lease, verdict: Verdict, key: SigningKey | None = None
) -> chain.AuditHead:
    """Keeps a verdict and puts its digest into the audit trail, in one fenced transaction; returns the trail's head.

    With a key the trail's entry also holds a detached signature.

    A phase's round has one verdict: after a retry the first stands, and so does its entry in the trail. Ask
    `load_verdict` before concluding again.

    Raises:
        LostLease, TransientError: nothing was written.
    """
    name = f"verdict {verdict.phase} round {verdict.round}"
    signed: dict[str, object] = {}
    if key is not None:
        signature = key.sign(verdict.run_id, verdict.phase, verdict.round, verdict.passed, verdict.digest)
        signed = {"signature": signature, "signed_by": key.id}
    with classified(f"storing the {name}"):
        async with fenced(target, lease):
            await target.execute(
                STORE_VERDICT,
                verdict.run_id,
                verdict.phase,
                verdict.round,
                verdict.passed,
                verdict.model_dump_json(),
                verdict.digest,
            )
            return await chain.append(
                target,
                verdict.run_id,
                name,
                "verdict",
                {
                    "phase": verdict.phase,
                    "round": verdict.round,
                    "passed": verdict.passed,
                    "digest": verdict.digest,
                    "checks": len(verdict.checks),
                    "findings": verdict.findings_total,
                    "message": verdict.message,
                }
                | signed,
            )


async def load_verdict(target: Connection, run_id: str, phase: str, round: int) -> Verdict | None:
    """The verdict of one round of a phase, if there is one.

    Raises:
        DataError: the row, its digest and its document do not agree: somebody edited one of them.
    """
    with classified(f"reading the verdict of phase {phase}"):
        row = await target.fetchrow(LOAD_VERDICT, run_id, phase, round)
    if row is None:
        return None
    verdict = Verdict.model_validate_json(row["document"])
    if verdict.digest != row["digest"] or verdict.passed != row["passed"]:
        raise DataError(
            f"the verdict of run {run_id}, phase {phase}, round {round} is not what was written: its document gives "
            f"passed={verdict.passed}, digest {verdict.digest}; its row says passed={row['passed']}, {row['digest']}",
            hint="run knarr audit, and verify again",
        )
    return verdict


async def newest_verdict(target: Connection, run_id: str) -> VerdictRow | None:
    """The verdict of a run that was concluded last, whether it stands or was withdrawn; None if there is none."""
    with classified(f"reading the newest verdict of run {run_id}"):
        row = await target.fetchrow(NEWEST_VERDICT, run_id)
    return None if row is None else VerdictRow(**dict(row))


async def latest_verdict(target: Connection, run_id: str) -> Verdict | None:
    """The document behind `newest_verdict`.

    Raises:
        DataError: it is not what was written.
    """
    newest = await newest_verdict(target, run_id)
    return None if newest is None else await load_verdict(target, run_id, newest.phase, newest.round)


async def withdraw(target: Connection, run_id: str, phase: str) -> int:
    """Marks a phase's verdicts as no longer standing, in the caller's fenced transaction; returns how many stood."""
    return len(await target.fetch(WITHDRAW, run_id, phase))


def _result(row: dict[str, object]) -> CheckResult:
    result = CheckResult.model_validate_json(str(row["result"]))
    for column in ("kind", "name", "mapping", "partition", "outcome"):
        if getattr(result, column) != row[column]:
            raise DataError(
                f"the stored result of the {result.check} is not what was written: its document says "
                f"{column}={getattr(result, column)!r}, its row says {row[column]!r}",
                hint="run knarr audit, and verify again",
            )
    return result
