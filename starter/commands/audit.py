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
    """Check a run's audit trail against itself and Temporal's history.

    Every digest is recomputed, and the chain is held against each head that an activity returned.
    """
    from knarr.audit import chain
    from knarr.postgres.session import connect
    from knarr.settings import Settings
    from starter.aliases import load_connections
    from starter.failures import StarterError
    from starter.trails import named_run

    settings = Settings()
    found = await named_run(settings, run, target)
    dsn = load_connections(settings).resolve(found.target)
    connection = await connect(dsn, application_name="knarr audit", read_only=True)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            entries = await chain.read(connection, found.run_id)
            head = await chain.read_head(connection, found.run_id)
    finally:
        await connection.close()
    if not entries and head is None and not found.witnesses:
        raise StarterError(
            Exit.NOT_FOUND, f"{found.target} holds no audit trail of {found.run_id!r}", hint="what there is: knarr list"
        )
    faults = chain.check_chain(entries, head, found.witnesses)
    for fault in faults:
        output.result(f"✗ entry {fault.position}: {fault.kind}: {fault.message}")
    standing = f"entry {head.position}, {head.digest}" if head else "no head"
    witnessed = f"{len(found.witnesses)} heads in Temporal's history" if found.witnesses else "nobody else"
    output.result(
        f"{'✗' if faults else '✓'} {found.run_id}: {len(entries)} entries, {len(faults)} faults\n"
        f"  head: {standing}\n  witnessed by {witnessed}"
    )
    exit_code = Exit.DIFFERS if faults else Exit.DONE
    output.document(
        "audit",
        {
            "run_id": found.run_id,
            "exit_code": int(exit_code),
            "intact": not faults,
            "entries": len(entries),
            "head": head.model_dump(mode="json") if head else None,
            "witnesses": len(found.witnesses),
            "faults": [fault.model_dump(mode="json") for fault in faults],
        },
    )
    return exit_code
