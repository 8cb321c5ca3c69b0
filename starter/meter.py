"""How fast rows go by and how long it will take: from what was seen in the last seconds."""

from collections import deque
from typing import Final

from knarr import wording

WINDOW_SECONDS: Final = 15.0


class Meter:
    """Rate over a sliding window. Rows never go back on it: a partition that is tried again is not shown as a loss."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self.rows = 0

    def see(self, at: float, rows: int) -> None:
        """Note how many rows there were at `at` seconds of a clock that only goes forward."""
        self.rows = max(self.rows, rows)
        self._seen.append((at, self.rows))
        while len(self._seen) > 2 and at - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Rows per second over the window; 0 before there are two looks."""
        if len(self._seen) < 2:
            return 0.0
        (first, before), (last, now) = self._seen[0], self._seen[-1]
        return (now - before) / (last - first) if last > first else 0.0

    def seconds_left(self, total: int) -> float | None:
        """Seconds until `total` at this rate; None when nothing moves."""
        return max(0.0, (total - self.rows) / self.rate) if self.rate > 0 else None


def spoken(seconds: float | None) -> str:
    """A duration for people: 42 s, 3 min 05 s, 2 h 10 min; a dash when it can't be known."""
    return "–" if seconds is None else wording.spoken(seconds)
