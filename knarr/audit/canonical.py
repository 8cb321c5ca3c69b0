"""Canonical JSON: one text for one value, so that a digest over it means something."""

import hashlib
import json
import re
from typing import Final

# A lone surrogate is legal in a Python string and in JSON as an escape, but has no UTF-8 form.
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no escapes but those that JSON demands.

    Takes what JSON can hold (dict with str keys, list, tuple, str, int, float, bool, None). Two values that are equal
    give one text; the text holds no control character, so it can't be confused with a separator around it.

    Raises:
        TypeError: the value, or a key, is of another type.
        ValueError: a float is NaN or infinite.
    """
    _refuse_other_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _LONE_SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def digest_of(value: object) -> str:
    """SHA-256 of a value's canonical JSON in UTF-8, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def _refuse_other_keys(value: object) -> None:
    # json.dumps turns 1, True and None into the keys "1", "true" and "null": two values would share one text.
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON takes only strings as keys, found {key!r} ({type(key).__name__})")
            _refuse_other_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_other_keys(inner)
