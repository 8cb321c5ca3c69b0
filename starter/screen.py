"""The live screen of a run on a terminal: header, a bar per mapping, a bar for all, what it waits for."""

from collections.abc import Callable
from typing import Final

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from knarr.wording import counted
from starter.following import Snapshot
from starter.meter import Meter, spoken
from starter.output import plain
from workflows.messages import MappingProgress, MappingState

COLOURS: Final[dict[str, str]] = {
    "starting": "cyan", "running": "cyan", "soaking": "cyan", "at checkpoint": "yellow", "paused": "yellow",
    "waiting for approval": "yellow", "waiting for a person": "bold yellow", "unwinding": "magenta",
    "kept open": "green", "completed": "green", "rolled back": "red", "aborted": "red", "refused": "red",
}  # fmt: skip
# What is copied is being taken away again, or is gone.
GOING_BACK: Final = frozenset({"unwinding", "rolled back", "aborted", "at checkpoint"})
JUSTIFIED: Final[tuple[JustifyMethod, ...]] = ("left", "left", "right", "right", "right", "left")
BAR_WIDTH: Final = 28
MESSAGE_LINES: Final = 6
# Lines of the screen that are no mapping: header, spaces, overall bar, waits, what happened, retries.
OTHER_LINES: Final = 16


class Screen:
    """Draws snapshots in place; keeps the meters between them."""

    def __init__(self, console: Console, link: str | None) -> None:
        self._console = console
        self._link = link
        self._meters: dict[int, Meter] = {}
        self._overall = Meter()
        self._verified = Meter()
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> "Screen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, seen: Snapshot) -> None:
        """Draw one snapshot over the one before."""
        self._measure(seen)
        self._live.update(self.render(seen), refresh=True)

    def still(self, seen: Snapshot) -> RenderableType:
        """One snapshot, for a command that looks once."""
        self._measure(seen)
        return self.render(seen)

    def _measure(self, seen: Snapshot) -> None:
        if seen.progress is None:
            return
        if seen.state in GOING_BACK:
            self._overall = Meter()
        for mapping in seen.progress.mappings:
            if mapping.state in {"waiting", "taken back"}:
                self._meters.pop(mapping.number, None)
            self._meters.setdefault(mapping.number, Meter()).see(seen.at, seen.rows_of(mapping.number))
        self._overall.see(seen.at, sum(meter.rows for meter in self._meters.values()))
        self._verified.see(seen.at, seen.progress.verified_rows + seen.verifying)

    def render(self, seen: Snapshot) -> RenderableType:
        """What is drawn for a snapshot."""
        parts: list[RenderableType] = [self._header(seen)]
        if seen.progress is not None and seen.progress.mappings:
            parts += [self._mappings(seen.progress.mappings), self._sum(seen)]
        if seen.waiting_for:
            parts.append(plain(f"waits for {seen.waiting_for}", style="yellow"))
        if seen.progress is not None and seen.running and seen.progress.status.message:
            parts.append(plain(_beginning(seen.progress.status.message), style="yellow"))
        parts += [plain(f"trying again: {line}", style="yellow") for line in seen.retrying[:3]]
        if not seen.answered and seen.running:
            known = "no worker answers; what is shown is the last that was known. Start one: knarr worker"
            parts.append(Text(known, style="yellow"))
        return Group(*parts)

    def _header(self, seen: Snapshot) -> Text:
        colour = COLOURS.get(seen.state, "white")
        header = Text.assemble((seen.run_id, "bold"), "  ", (seen.state, colour))
        if seen.progress is not None:
            status = seen.progress.status
            for word in (f"phase {status.phase}" if status.phase else "", status.step):
                if word:
                    header.append_text(plain(f"  ·  {word}"))
        if self._link:
            header.append(f"\n{self._link}", style="dim")
        return header

    def _mappings(self, mappings: list[MappingProgress]) -> Table:
        table = Table.grid(padding=(0, 2))
        for justify in JUSTIFIED:
            table.add_column(justify=justify, no_wrap=True)
        room = max(3, self._console.height - OTHER_LINES)
        for mapping in by_interest(mappings)[:room]:
            meter = self._meters[mapping.number]
            total = max(mapping.estimated_rows, meter.rows, 1)
            moved = mapping.state not in {"waiting", "copying", "taken back"}
            copying = mapping.state == "copying" and meter.rate > 0
            table.add_row(
                plain(mapping.name),
                ProgressBar(total=total, completed=total if moved else meter.rows, width=BAR_WIDTH),
                f"{meter.rows:,} rows",
                f"{meter.rate:,.0f} rows/s" if copying else "",
                f"{spoken(meter.seconds_left(total))} to go" if copying else "",
                mapping.state,
            )
        if len(mappings) > room:
            table.add_row(f"and {len(mappings) - room:,} more")
        return table

    def _sum(self, seen: Snapshot) -> Table:
        assert seen.progress is not None
        table = Table.grid(padding=(0, 2))
        total = max(seen.progress.status.estimated_rows, 1)
        verifying = seen.progress.status.step in {"verify", "verified"}
        meter = self._verified if verifying else self._overall
        goal = max(self._overall.rows, 1) if verifying else max(total, meter.rows)
        moving = seen.state == "running" and meter.rate > 0
        word = "verified" if verifying else "still there" if seen.state in GOING_BACK else "copied"
        table.add_row(
            Text(word, style="bold"),
            ProgressBar(total=goal, completed=meter.rows, width=BAR_WIDTH + 12),
            f"{meter.rows:,} of {goal:,} rows",
            f"{meter.rate:,.0f} rows/s" if moving else "",
            f"{spoken(meter.seconds_left(goal))} to go" if moving and meter.rows < goal else "",
        )
        return table


def _beginning(message: str) -> str:
    lines = message.splitlines()
    more = len(lines) - MESSAGE_LINES
    return "\n".join(lines[:MESSAGE_LINES]) + (f"\n… and {counted(more, 'line')} more" if more > 0 else "")


def by_interest(mappings: list[MappingProgress]) -> list[MappingProgress]:
    """What moves first, then what waits, then what is done; the largest first among equals."""
    rank: dict[MappingState, int] = {
        "copying": 0,
        "building": 0,
        "waiting": 1,
        "copied": 2,
        "verified": 2,
        "taken back": 2,
    }
    if all(rank[mapping.state] == 2 for mapping in mappings) or len(mappings) <= 12:
        return mappings
    return sorted(mappings, key=lambda mapping: (rank[mapping.state], -mapping.estimated_rows))


class Lines:
    """Without a terminal: one line for each change that matters, none for mere progress more often than a tenth."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""
        self._tenth = -1
        self._meter = Meter()
        self._verifying = False
        self._goal = 0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, seen: Snapshot) -> None:
        """Print a line if there is something new."""
        if seen.progress is None:
            self._change("starting" if seen.answered else "no worker answers yet", "")
            return
        status = seen.progress.status
        copied = sum(seen.rows_of(mapping.number) for mapping in seen.progress.mappings)
        verifying = status.step == "verify"
        if verifying and not self._verifying:
            self._meter, self._tenth, self._goal = Meter(), 0, copied
        self._verifying = verifying
        self._meter.see(seen.at, seen.progress.verified_rows + seen.verifying if verifying else copied)
        tenth = 10 * self._meter.rows // max(self._goal if verifying else status.estimated_rows, 1)
        # A mapping's copy and its index builds alternate quickly: a line for each would say nothing.
        step = "" if status.step in {"build", "sequences"} else status.step
        words = [seen.state, f"phase {status.phase}" if status.phase else "", step]
        rate = f"  {self._meter.rate:,.0f} rows/s" if self._meter.rate and status.state == "running" else ""
        numbers = f"{self._meter.rows:>14,} rows{' verified' if verifying else ''}{rate}"
        if seen.state in GOING_BACK:
            numbers = f"{status.rows:>14,} rows still there"
        waits = f"\n  waits for {seen.waiting_for}" if seen.waiting_for else ""
        self._change(" · ".join(word for word in words if word), numbers, waits, force=tenth > self._tenth)
        self._tenth = max(tenth, self._tenth)

    def _change(self, what: str, numbers: str, waits: str = "", *, force: bool = False) -> None:
        if what + waits != self._last or force:
            self._last = what + waits
            self._say(f"{what:<60} {numbers}".rstrip() + waits)
