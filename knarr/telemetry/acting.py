"""Characters that act on a terminal or a page instead of being seen: spelling them out, so that names can't lie."""

import re
from typing import Final

# C0 and C1 controls, bidirectional overrides, invisible and line-breaking characters, lone surrogates.
_ACTING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_ACTING_OR_LINE_END: Final = re.compile(f"{_ACTING.pattern[:-1]}\n]")


def spelled_out(text: str, *, one_line: bool = False) -> str:
    """The text with each such character written as ⟨U+XXXX⟩; tabs stay, and line ends unless `one_line`."""
    pattern = _ACTING_OR_LINE_END if one_line else _ACTING
    return pattern.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text)
