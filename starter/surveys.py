"""A survey from the command line: both databases by alias, and where downstream checks are asked, read only."""

from pathlib import Path

from knarr.plan.models import Plan
from knarr.plan.resolved import Survey
from knarr.postgres.session import connect
from knarr.postgres.survey import Surroundings, survey
from knarr.settings import Settings
from starter.aliases import load_connections


async def survey_plan(settings: Settings, plan: Plan, folder: Path) -> Survey:
    """Hold a plan against its two databases.

    Args:
        settings: where aliases lead.
        plan: as loaded.
        folder: where it lies. A function of it is looked for there, and where a worker that is started here looks.

    Raises:
        PlanError: an alias leads nowhere, a database is not there.
        TransientError: a server does not answer.
    """
    connections = load_connections(settings)
    surroundings = Surroundings(connections.resolve, [folder, Path.cwd()])
    source = await connect(connections.resolve(plan.source), application_name="knarr check", read_only=True)
    try:
        target = await connect(connections.resolve(plan.target), application_name="knarr check", read_only=True)
        try:
            return await survey(source, target, plan, None, surroundings)
        finally:
            await target.close()
    finally:
        await source.close()
