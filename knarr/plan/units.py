"""Durations and sizes as a plan writes them: 90s, 6h, 512MiB."""

import re
from typing import Final

from knarr.plan.problems import Refusal, quoted

DURATION_PATTERN: Final = r"^[0-9]{1,9}(ms|s|m|h|d)$"
SIZE_PATTERN: Final = r"^[0-9]{1,9}(kB|KiB|MB|MiB|GB|GiB)$"
DURATION_EXPECTED: Final = "a duration such as 500ms, 90s, 10m, 6h or 7d"
SIZE_EXPECTED: Final = "a size such as 64KiB, 512MiB or 2GiB"

# Timers and timeouts of Temporal and PostgreSQL both overflow somewhere above this; nobody waits longer.
LONGEST_DAYS: Final = 3650

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3,
}  # fmt: skip


def seconds(text: str) -> float:
    """Seconds in a duration: `10m` is 600.0.

    Raises:
        Refusal: it is not a duration, or longer than ten years.
    """
    match = re.fullmatch(r"([0-9]{1,9})(ms|s|m|h|d)", text)
    if match is None:
        raise Refusal(quoted(text), DURATION_EXPECTED)
    value = int(match[1]) * _SECONDS[match[2]]
    if value > LONGEST_DAYS * _SECONDS["d"]:
        raise Refusal(quoted(text), f"at most {LONGEST_DAYS}d")
    return value


def size_bytes(text: str) -> int:
    """Bytes in a size: `512MiB` is 536,870,912, `1kB` is 1,000.

    Raises:
        Refusal: it is not a size.
    """
    match = re.fullmatch(r"([0-9]{1,9})(kB|KiB|MB|MiB|GB|GiB)", text)
    if match is None:
        raise Refusal(quoted(text), SIZE_EXPECTED)
    return int(match[1]) * _BYTES[match[2]]
