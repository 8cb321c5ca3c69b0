"""A survey from the command line: both databases by alias, read only."""

from knarr.plan.models import Plan
from knarr.plan.resolved import Survey
from knarr.postgres.session import connect
from knarr.postgres.survey import survey
from knarr.settings import Settings
from starter.aliases import load_connections


async def survey_plan(settings: Settings, plan: Plan) -> Survey:
    """Hold a plan against its two databases.

    Raises:
        PlanError: an alias leads nowhere, a database is not there.
        TransientError: a server does not answer.
    """
    connections = load_connections(settings)
    source = await connect(connections.resolve(plan.source), application_name="knarr check", read_only=True)
    try:
        target = await connect(connections.resolve(plan.target), application_name="knarr check", read_only=True)
        try:
            return await survey(source, target, plan, None)
        finally:
            await target.close()
    finally:
        await source.close()
