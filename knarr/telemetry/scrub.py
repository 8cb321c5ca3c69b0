"""Blanking secrets out of text: what a password looks like in an address, a setting or a statement."""

import re
from typing import Final

BLANK: Final = "***"

# Every repetition is bounded: with an open one a value of 20 kB took 55 s (each position was a new beginning).
_SENSITIVE: Final = (
    r"(?:password|passwd|passphrase|pwd|secrets?(?![a-z])|api[_-]?key|access[_-]?key|auth[_-]?token)[\w.-]{0,40}"
)

_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # scheme://user:password@host; a password may hold an '@' when its writer did not escape it, so up to the last one.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://[^\s/:@\"'<>]{0,200}):[^\s\"'<>/]{0,500}@"), rf"\1:{BLANK}@"),
    # password=..., PGPASSWORD: ..., "api_key": "...", ?password=... in libpq, YAML, JSON, shell and URL spelling.
    (
        re.compile(
            rf"(?i)({_SENSITIVE}[\"']?\s{{0,9}}[=:]\s{{0,9}})"
            r"(?:'(?:[^'\\]|\\.|''){0,2000}'|\"(?:[^\"\\]|\\.){0,2000}\"|[^\s,;&\"')}\]]+)"
        ),
        rf"\1{BLANK}",
    ),
    # CREATE ROLE ... PASSWORD '...', and the dollar-quoted form.
    (
        re.compile(
            r"(?i)\b(password\s{1,9})(?:E?'(?:[^'\\]|\\.|''){0,2000}'|\$(\w{0,40})\$.{0,2000}?\$\2\$)", re.DOTALL
        ),
        rf"\1'{BLANK}'",
    ),
    (re.compile(r"(?i)\b(bearer\s{1,9})[\w.~+/=-]{8,}"), rf"\1{BLANK}"),
    (
        re.compile(r"-----BEGIN ([A-Z ]{0,40}PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL),
        f"-----BEGIN \\1-----{BLANK}-----END \\1-----",
    ),
)

_SENSITIVE_KEY: Final = re.compile(rf"(?i){_SENSITIVE}")


def scrub(text: str) -> str:
    """The text with everything that looks like a password, a key or a token blanked out; twice is as once."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def scrub_value(value: object) -> object:
    """The same for a JSON-like value, at any depth; a value under a key such as `password` goes whole."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {
            key: BLANK if isinstance(key, str) and _SENSITIVE_KEY.search(key) and inner else scrub_value(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [scrub_value(inner) for inner in value]
    return value
