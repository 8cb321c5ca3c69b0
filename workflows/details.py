"""What the Web UI shows of a run under "Current Details": markdown for somebody who is called at night."""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from knarr.wording import counted, spoken
from workflows.asked import asked
from workflows.messages import MappingProgress, Progress

# The Web UI asks for the rendered text by a URL that holds all of it, and proxies cut a URL at 8 kB.
LONGEST: Final = 1_500
LONGEST_MESSAGE: Final = 400
ROWS_SHOWN: Final = 12
LINKS_SHOWN: Final = 3
NAME_WIDTH: Final = 22
GOING_BACK: Final = frozenset({"unwinding", "rolled back", "aborted", "refused"})
# What moves first, then what waits for its turn, then what is done.
RANK: Final = {"copying": 0, "building": 0, "waiting": 1}
_ACTIVE: Final = re.compile(r"([\\`*_\[\]<>])")


def current_details(progress: Progress, phases: Sequence[str], namespace: str) -> str:
    """Where a run is, what it waits for and the command that answers, how far each mapping is; 1,500 characters.

    Tables are code blocks, since the Web UI's own have no space between cells. Links are relative to its root.
    """
    status = progress.status
    parts = [f"**{status.state}**{_phase(status.phase, phases)} · {status.step or 'starting'}"]
    if status.state == "waiting for a person" and status.message:
        parts.append(asked(status.message, status.waiting_for))
    else:
        if status.waiting_for:
            parts.append(f"> waits for {status.waiting_for}")
        if status.message:
            parts.append(_quiet(status.message))
    if progress.mappings:
        parts.append(_copied(progress))
    if at_work := _at_work(progress, namespace):
        parts.append(at_work)
    if verified := _verified(progress):
        parts.append(verified)
    parts.append(f"as of {status.updated_at:%Y-%m-%d %H:%M:%S} UTC")
    if progress.mappings:
        room = LONGEST - len("\n\n".join(parts)) - 40
        parts.insert(-1, _table(progress.mappings, room))
    return "\n\n".join(parts)


def _phase(phase: str, phases: Sequence[str]) -> str:
    if not phase:
        return ""
    which = f" ({phases.index(phase) + 1} of {len(phases)})" if phase in phases and len(phases) > 1 else ""
    return f" · phase `{phase}`{which}"


def _quiet(message: str) -> str:
    """A message as it stands: it may quote what somebody's rows hold, so nothing in it is markdown or HTML."""
    cut = message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 1] + "…"
    return _ACTIVE.sub(r"\\\1", cut).replace("\n", "<br>")


def _copied(progress: Progress) -> str:
    rows = sum(mapping.rows for mapping in progress.mappings)
    if progress.status.state in GOING_BACK:
        return f"**{counted(rows, 'copied row')}** still on the target" if rows else "no copied row is on the target"
    total = sum(mapping.estimated_rows for mapping in progress.mappings)
    share = min(1.0, rows / total) if total else 1.0
    parts = [f"**{share:.0%} copied** · {rows:,} of about {total:,} rows"]
    if progress.copy_started_at and rows:
        until = progress.copy_ended_at or progress.status.updated_at
        seconds = (until - progress.copy_started_at).total_seconds()
        if seconds > 0:
            rate = rows / seconds
            parts.append(f"{rate:,.0f} rows/s")
            if progress.status.state == "running" and not progress.copy_ended_at and total > rows:
                parts.append(f"about {spoken((total - rows) / rate)} to go")
    return " · ".join(parts)


def _verified(progress: Progress) -> str:
    if verdict := progress.status.verdict:
        word = "passed ✓" if verdict.passed else "failed ✗"
        return f"verdict: **{word}** · {counted(verdict.checks, 'check')} · {counted(verdict.findings, 'finding')}"
    if not progress.verified_rows:
        return ""
    rows = max(1, sum(mapping.rows for mapping in progress.mappings))
    return f"**{min(1.0, progress.verified_rows / rows):.0%} verified** · {progress.verified_rows:,} of {rows:,} rows"


def _at_work(progress: Progress, namespace: str) -> str:
    """Links to the children at work: what is tried again and again is seen there, not on the run's own page."""
    status = progress.status
    if status.state not in {"running", "paused"}:
        return ""
    names = [mapping.name for mapping in progress.mappings if mapping.state == "copying"]
    if status.step == "verify":
        names = [f"verify {status.phase}"]
    if not names:
        return ""
    links = [f"[{name}]({_page(f'{status.run_id}/{name}', namespace)})" for name in names[:LINKS_SHOWN]]
    return f"at work: {', '.join(links)}. If one does not move, its Pending Activities say why."


def _page(workflow_id: str, namespace: str) -> str:
    return f"namespaces/{quote(namespace, safe='')}/workflows/{quote(workflow_id, safe='')}"


def _table(mappings: Sequence[MappingProgress], room: int) -> str:
    """A line a mapping, as many as there is room for: the largest first, what is done last if not all can be shown."""
    ordered = sorted(mappings, key=lambda mapping: (-mapping.estimated_rows, mapping.number))
    head = f"{'mapping':<{NAME_WIDTH}} {'rows':>13} {'':>4}  {'state':<10} partitions"
    shown = max(1, min(ROWS_SHOWN, room // (len(head) + 1) - 2))
    if len(ordered) > shown:
        ordered.sort(key=lambda mapping: RANK.get(mapping.state, 2))
    lines = ["```", head, *map(_line, ordered[:shown])]
    if len(ordered) > shown:
        lines.append(f"and {len(ordered) - shown:,} more")
    return "\n".join([*lines, "```"])


def _line(mapping: MappingProgress) -> str:
    name = mapping.name if len(mapping.name) <= NAME_WIDTH else f"…{mapping.name[1 - NAME_WIDTH :]}"
    share = f"{min(1.0, mapping.rows / mapping.estimated_rows):.0%}" if mapping.estimated_rows else ""
    return (
        f"{name:<{NAME_WIDTH}} {mapping.rows:>13,} {share:>4}  {mapping.state:<10} "
        f"{mapping.partitions_done}/{mapping.partitions}"
    )
