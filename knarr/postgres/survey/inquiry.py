"""What every check of the survey is given: connections, plan, sketches, types and the list of problems."""

import re
from dataclasses import dataclass, field
from typing import Final

from knarr.plan.models import Plan
from knarr.plan.resolved import TableName
from knarr.postgres.identifiers import quote
from knarr.postgres.session import Connection
from knarr.postgres.survey.problems import Problems
from knarr.postgres.survey.sketches import Sketch
from knarr.postgres.survey.types import Types

_TEXT: Final = r"'(?:[^']|'')*'"


@dataclass
class Inquiry:
    """One survey under way."""

    source: Connection
    target: Connection
    plan: Plan
    run_id: str | None
    own: frozenset[tuple[str, str]]
    """Kinds and names of objects that this run has made already: they are not in the way of its retry."""
    problems: Problems
    types: Types
    schemas: dict[str, str]
    """Schema of the source: schema of the target that its types and sequences go to."""
    sketches: list[Sketch] = field(default_factory=list)

    @property
    def target_major(self) -> int:
        """The target server's major version."""
        return self.target.get_server_version().major

    def creating(self, table: TableName) -> Sketch | None:
        """The sketch whose run makes that target table."""
        return next((one for one in self.sketches if one.target == table and one.creates), None)

    def writing(self, table: TableName) -> Sketch | None:
        """A sketch that writes that target table."""
        return next((one for one in self.sketches if one.target == table), None)


def mentions(name: TableName) -> re.Pattern[str]:
    """Finds `schema.name` in SQL, quoted or not as SQL allows; a text literal matches too, as group `text`."""
    return re.compile(
        rf'(?P<text>{_TEXT})|(?<![\w".]){_spelled(name.schema_name)}\s*\.\s*{_spelled(name.name)}(?![\w"$(])'
    )


def mentions_bare(name: str) -> re.Pattern[str]:
    """Finds a name that stands without a schema, of a table or of anything else; text literals as above."""
    return re.compile(rf'(?P<text>{_TEXT})|(?<![\w".]){_spelled(name)}(?![\w"$(])')


def replaced(sql: str, name: TableName, by: str) -> str:
    """The SQL with `schema.name` replaced outside text literals."""
    return mentions(name).sub(lambda found: found[0] if found["text"] else by, sql)


def _spelled(name: str) -> str:
    """A quoted name, or in any case without quotes where the server would fold it to this one."""
    quoted = re.escape(quote(name))
    return f"(?:{quoted}|(?i:{re.escape(name)}))" if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else quoted
