"""`knarr audit`: the audit trail of a run checked against itself and against Temporal's history."""

import click

from starter.command import common, run_argument
from starter.exits import Exit
from starter.output import Output


@click.command()
@run_argument
@click.option("--target", help="The target's alias; then Temporal isn't asked, and nothing witnesses the chain's end.")
@common
async def audit(output: Output, run: str, target: str | None) -> Exit:
    """Check a run's audit trail and verdicts against themselves and Temporal's history.

    Every digest is recomputed, the chain is held against each head that an activity returned, and each verdict against
    the results it was computed from and the checks that the plan asks for. With KNARR_SIGNING_KEY_FILE every verdict
    must be signed by that key.
    """
    from knarr.audit import chain
    from knarr.audit.gather import gather
    from knarr.audit.signing import check_signatures, key_of_environment, told
    from knarr.errors import PlanError
    from knarr.postgres.session import connect
    from knarr.settings import Settings
    from knarr.wording import counted
    from starter.aliases import load_connections
    from starter.failures import StarterError
    from starter.trails import named_run, require_record

    settings = Settings()
    found = await named_run(settings, run, target)
    dsn = load_connections(settings).resolve(found.target)
    key = key_of_environment()
    connection = await connect(dsn, application_name="knarr audit", read_only=True)
    try:
        await require_record(connection, found)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            entries = await chain.read(connection, found.run_id)
            head = await chain.read_head(connection, found.run_id)
        if not entries and head is None and not found.witnesses:
            raise StarterError(
                Exit.NOT_FOUND,
                f"{found.target} holds no audit trail of {found.run_id!r}",
                hint="what there is: knarr list",
            )
        try:
            data = await gather(connection, found.run_id, found.witnesses)
            doubts = [doubt for doubt in data.doubts if not doubt.startswith("audit trail, entry")]
        except PlanError as error:
            doubts = [f"there is a trail, but {error.message}"]
    finally:
        await connection.close()
    faults = chain.check_chain(entries, head, found.witnesses)
    signatures = check_signatures(entries, key)
    doubts += signatures.doubts
    for fault in faults:
        output.result(f"✗ entry {fault.position}: {fault.kind}: {fault.message}")
    for doubt in doubts:
        output.result(f"✗ {doubt}")
    standing = f"position {head.position}, digest {head.digest}" if head else "none"
    heads = counted(len(found.witnesses), "head")
    witnessed = f"{heads} in Temporal's history" if found.witnesses else "nobody: Temporal was not asked, or has none"
    output.result(
        f"{'✗' if faults or doubts else '✓'} {found.run_id}: {counted(len(entries), 'entry', 'entries')}, "
        f"{counted(len(faults), 'fault')}, {counted(len(doubts), 'doubt')} about verdicts\n"
        f"  head: {standing}\n  witnessed by {witnessed}\n  signatures: {told(signatures)}"
    )
    exit_code = Exit.DIFFERS if faults or doubts else Exit.DONE
    output.document(
        "audit",
        {
            "run_id": found.run_id,
            "exit_code": int(exit_code),
            "intact": not faults and not doubts,
            "entries": len(entries),
            "head": head.model_dump(mode="json") if head else None,
            "witnesses": len(found.witnesses),
            "faults": [fault.model_dump(mode="json") for fault in faults],
            "doubts": [*doubts],
            "signatures": signatures.model_dump(mode="json"),
        },
    )
    return exit_code
