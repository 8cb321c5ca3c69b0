"""The transform of shop.customer: phone numbers into international form."""

import re

NOT_A_DIGIT = re.compile(r"[^0-9]")


def international(rows: list[dict[str, str | None]]) -> list[dict[str, str | None]]:
    """`25-989-741-2988` becomes `+259897412988`; as many rows as came, in the same order."""
    return [row | {"phone": "+" + NOT_A_DIGIT.sub("", row["phone"] or "")} for row in rows]
