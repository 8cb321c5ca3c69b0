"""Numbers, times and foreign text in the form that people read."""

from datetime import datetime

from markupsafe import Markup

from knarr.telemetry.acting import spelled_out


def visible(value: object) -> object:
    """Text with every character that would act on the page instead of being seen written out as ⟨U+XXXX⟩.

    Markup is left alone: it is a template's own, and the values in it came through here before.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return spelled_out(value)
    return value


def short(text: str, length: int = 120) -> str:
    """The text, or its beginning and an ellipsis where it is longer than `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def duration(seconds: float) -> str:
    """3.4 ms, 60 ms, 0.42 s, 12.3 s, 3 min 12 s, 1 h 02 min, 2 d 03 h."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def size(count: int) -> str:
    """A number of bytes with three digits: 812 B, 4.21 kB, 1.07 GB (powers of 1,000)."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} PB"


def moment(at: datetime | None) -> str:
    """2026-11-24 21:54:03 UTC, or a dash."""
    return "–" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def number(count: float | None) -> str:
    """1,234,567, or a dash."""
    return "–" if count is None else f"{count:,.0f}"
