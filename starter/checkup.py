"""What `knarr doctor` looks at in the databases: each look is a line, ok, warn or fail, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from knarr import redis
from knarr.errors import KnarrError
from knarr.plan.models import Plan
from knarr.plan.names import parse_source, parse_table
from knarr.plan.resolved import TableName
from knarr.postgres import health, schema
from knarr.postgres.session import Connection, connect
from knarr.postgres.survey.environment import OLDEST
from knarr.settings import CONNECTION_PREFIX, Connections
from knarr.wording import counted
from starter.exits import Exit
from starter.failures import exit_of

SPARE_CONNECTIONS: Final = 10
NOT_THERE_YET: Final = "not there yet; the first run makes it"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    outcome: Literal["ok", "warn", "fail"]
    subject: str
    found: str
    next: str = ""
    exit_code: Exit = Exit.DONE
    """How the command ends because of it; only a failure has one."""


@dataclass(frozen=True)
class Wanted:
    """An alias, and what a plan wants of the database behind it."""

    alias: str
    is_source: bool = False
    is_target: bool = False
    tables: tuple[TableName, ...] = ()
    """To be read."""
    made_in: tuple[str, ...] = ()
    """Schemas in which the run makes tables or types."""
    filled: tuple[TableName, ...] = ()
    """Tables that are there and get rows; those that a whole schema stands for are not known here."""


def wanted_by(plan: Plan) -> list[Wanted]:
    """The aliases of a plan: source, target, and where its guards and its downstream checks ask."""
    sources = [parse_source(mapping.source) for mapping in plan.mappings]
    tables = tuple(dict.fromkeys(name.table_name for name in sources if name.table_name is not None))
    makes = [mapping.target_schema for mapping in plan.mappings if mapping.mode == "create"]
    made_in = tuple(dict.fromkeys([*makes, *(parse_table(name).schema_name for name in plan.types)]))
    there = [mapping.target_table for mapping in plan.mappings if mapping.mode != "create"]
    filled = tuple(dict.fromkeys(table for table in there if table is not None))
    target = Wanted(plan.target, is_target=True, made_in=made_in, filled=filled)
    if plan.source == plan.target:
        found = [replace(target, is_source=True, tables=tables)]
    else:
        found = [Wanted(plan.source, is_source=True, tables=tables), target]
    others = {guard.on for guard in plan.guards} - {"source", "target"}
    others |= {seen.alias for check in plan.downstream if (seen := check.query or check.redis) is not None}
    return found + [Wanted(alias) for alias in sorted(others - {plan.source, plan.target})]


async def look_at(
    connections: Connections, wanted: Wanted, *, needed: int
) -> tuple[list[Line], list[health.HeldLease]]:
    """One database: can it be reached, is it what a run needs, and which runs hold tables there. Or one Redis server.

    Args:
        needed: connections that a run's worker may open at once.
    """
    alias = wanted.alias
    try:
        address = connections.resolve(alias)
        if redis.is_address(address):
            return [Line("ok", alias, f"{await redis.greet(address)} answers")], []
        connection = await connect(address, application_name="knarr doctor", read_only=True)
    except KnarrError as error:
        fix = error.hint or f"check the address in {CONNECTION_PREFIX}{alias.upper()}, and that the server runs"
        return [Line("fail", alias, connections.redact(error.message), fix, exit_of(error))], []
    try:
        server = await health.look(connection)
        lines = [
            Line("ok", alias, f"PostgreSQL {server.version}, database {server.database}, role {server.role}"),
            *_server(wanted, server, needed),
            *await _privileges(connection, wanted, server),
        ]
        held = await health.held_leases(connection) if server.knarr_version is not None else []
        return lines, held
    except KnarrError as error:
        return [Line("fail", alias, connections.redact(error.message), error.hint, exit_of(error))], []
    finally:
        await connection.close()


def _server(wanted: Wanted, server: health.Server, needed: int) -> Iterable[Line]:
    alias = wanted.alias
    if server.major < OLDEST:
        fix = f"Knarr knows PostgreSQL {OLDEST} and later"
        yield Line("fail", alias, f"PostgreSQL {server.version} is too old", fix, Exit.USAGE)
    if wanted.is_target and server.standby:
        fix = "let the alias lead to the primary"
        yield Line("fail", alias, "the target is a standby: nothing can be written there", fix, Exit.USAGE)
    if server.free < needed:
        found = f"{counted(server.free, 'connection')} free; a run may want {needed:,}"
        yield Line("warn", alias, found, "raise max_connections, or lower `parallelism` in the plan")
    yield from _knarr_schema(wanted, server)


def _knarr_schema(wanted: Wanted, server: health.Server) -> Iterable[Line]:
    if not wanted.is_target and server.knarr_version is None:
        return
    subject = f"{wanted.alias}: knarr schema"
    if not server.may_use:
        fix = f"GRANT USAGE ON SCHEMA knarr TO {server.role}, and the privileges on its tables"
        yield Line("fail", subject, f"role {server.role} may not use it", fix, Exit.USAGE)
    elif server.knarr_version is None:
        yield Line("ok", subject, NOT_THERE_YET)
    elif server.knarr_version < schema.VERSION:
        found = f"version {server.knarr_version}; the next run brings it to {schema.VERSION}"
        yield Line("warn", subject, found, "let runs of older workers end first")
    elif server.knarr_version > schema.VERSION:
        found = f"version {server.knarr_version}, this Knarr knows {schema.VERSION}"
        yield Line("fail", subject, found, "use the Knarr that belongs to it", Exit.USAGE)
    else:
        yield Line("ok", subject, f"version {server.knarr_version}")


async def _privileges(connection: Connection, wanted: Wanted, server: health.Server) -> list[Line]:
    subject, role = f"{wanted.alias}: privileges", server.role
    found: list[Line] = []
    if wanted.is_source:
        missing, unreadable = await health.unreadable(connection, wanted.tables)
        if missing:
            found.append(Line("fail", subject, f"no such table: {_some(missing)}", "knarr check PLAN", Exit.USAGE))
        if unreadable:
            fix = f"GRANT SELECT ON {_some(unreadable)} TO {role}"
            found.append(Line("fail", subject, f"role {role} may not read {_some(unreadable)}", fix, Exit.USAGE))
    if wanted.is_target:
        found += await _may_make(connection, wanted, server)
        found += await _may_fill(connection, wanted, server)
    if not found and (wanted.is_source or wanted.is_target):
        doing = " and ".join(word for word, is_so in (("read", wanted.is_source), ("write", wanted.is_target)) if is_so)
        found.append(Line("ok", subject, f"role {role} may {doing} what the plan names"))
    return found


async def _may_make(connection: Connection, wanted: Wanted, server: health.Server) -> list[Line]:
    subject, role = f"{wanted.alias}: privileges", server.role
    found: list[Line] = []
    missing, closed = await health.closed_schemas(connection, wanted.made_in)
    if closed:
        fix = f"GRANT USAGE, CREATE ON SCHEMA {_some(closed)} TO {role}"
        found.append(Line("fail", subject, f"role {role} may not make tables in {_some(closed)}", fix, Exit.USAGE))
    to_make = missing + ([] if server.knarr_version is not None else ["knarr"])
    if to_make and not server.may_create:
        fix = f"GRANT CREATE ON DATABASE {server.database} TO {role}"
        found.append(Line("fail", subject, f"role {role} may not make schema {_some(to_make)}", fix, Exit.USAGE))
    return found


async def _may_fill(connection: Connection, wanted: Wanted, server: health.Server) -> list[Line]:
    subject, role = f"{wanted.alias}: privileges", server.role
    tables = await health.filled(connection, wanted.filled)
    found: list[Line] = []
    if missing := [table.name for table in tables if not table.there]:
        found.append(Line("fail", subject, f"no such table: {_some(missing)}", "knarr check PLAN", Exit.USAGE))
    if closed := list(dict.fromkeys(table.schema_name for table in tables if not table.may_use)):
        fix = f"GRANT USAGE ON SCHEMA {_some(closed)} TO {role}"
        found.append(Line("fail", subject, f"role {role} may not use schema {_some(closed)}", fix, Exit.USAGE))
    for table in tables:
        if table.there and table.lacking:
            lacking = ", ".join(table.lacking)
            fix = f"GRANT {lacking} ON {table.name} TO {role}"
            found.append(Line("fail", subject, f"role {role} lacks {lacking} on {table.name}", fix, Exit.USAGE))
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
