"""Durations and sizes."""

import pytest

from knarr.plan import Refusal, seconds, size_bytes


@pytest.mark.parametrize(
    ("text", "expected"), [("0s", 0), ("500ms", 0.5), ("90s", 90), ("10m", 600), ("6h", 21_600), ("7d", 604_800)]
)
def test_a_duration_is_in_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1kB", 1000), ("1KiB", 1024), ("2MB", 2_000_000), ("512MiB", 536_870_912), ("1GB", 10**9), ("1GiB", 2**30)],
)
def test_a_size_is_in_bytes(text: str, expected: int) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "10", "m", "1.5h", "-1s", "10 m", "1w", "10M", "٣m", "1h30m", " 1s", "1s\n", "9" * 10 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="a duration such as"):
        seconds(text)


def test_nobody_waits_longer_than_ten_years() -> None:
    assert seconds("3650d") == 3650 * 86_400
    with pytest.raises(Refusal, match="at most 3650d"):
        seconds("3651d")


@pytest.mark.parametrize("text", ["", "512", "MiB", "1mb", "1KB", "1 GiB", "1.5GiB", "٣MiB", "1GiB\n"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="a size such as"):
        size_bytes(text)
