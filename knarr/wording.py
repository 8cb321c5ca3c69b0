"""Numbers and durations as people read them, for messages."""


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 finding`, `2,000 findings`; `things` is the plural where it is not the singular with an s."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def spoken(seconds: float) -> str:
    """A duration: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
