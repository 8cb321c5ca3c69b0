"""What a secret looks like, and what only resembles one."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knarr.telemetry.acting import spelled_out
from knarr.telemetry.scrub import BLANK, scrub, scrub_value

CANARY = "c4nary-Pa55"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://mover:{CANARY}@db.example/shop",
        f"could not connect to 'postgres://mover:{CANARY}@db:5432/shop?sslmode=require': refused",
        f"postgresql://mover:pa@{CANARY}@db/shop",
        f"postgresql://mover@db/shop?password={CANARY}&sslmode=require",
        f"redis://:{CANARY}@cache:6379/0",
        f"host=db user=mover password={CANARY} dbname=shop",
        f"host=db password='{CANARY} with spaces' dbname=shop",
        f"host=db password='it\\'s {CANARY}'",
        f"PGPASSWORD={CANARY} psql",
        f"PGPASSWORD: '{CANARY}'",
        f'{{"password": "{CANARY}"}}',
        f'{{"db_password":"a \\" {CANARY}"}}',
        f"TEMPORAL_API_KEY={CANARY}",
        f"client_secret: {CANARY}",
        f"CREATE ROLE mover LOGIN PASSWORD '{CANARY}'",
        f"ALTER ROLE mover PASSWORD E'{CANARY}\\' more'",
        f"ALTER ROLE mover PASSWORD $x$ {CANARY} $x$",
        f"CREATE USER MAPPING FOR mover SERVER legacy OPTIONS (user 'mover', password '{CANARY}')",
        f"Authorization: Bearer {CANARY}.{CANARY}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_secrets_are_blanked_and_twice_is_as_once(text: str) -> None:
    scrubbed = scrub(text)
    assert CANARY not in scrubbed
    assert BLANK in scrubbed
    assert scrub(scrubbed) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://mover@db.example:5432/shop",
        "12 of 866,602 rows differ in shop.order at 21:04:05",
        "SELECT email || '@' || host FROM account WHERE note LIKE 'http://%'",
        "the secretary of state = 'MD'",
        "key (id)=(42) already exists",
        "shop.customer: column passage = 7",
        "",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert scrub(text) == text


def test_a_value_under_a_telling_key_goes_whole_at_any_depth() -> None:
    value = {"a": [{"db_password": CANARY, "n": 1}], "api-key": [CANARY], "password": "", "b": ({"x": None},)}
    scrubbed = scrub_value(value)
    assert scrubbed == {"a": [{"db_password": BLANK, "n": 1}], "api-key": BLANK, "password": "", "b": [{"x": None}]}


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "a.", "a://", "a://b:", "x:", "$", "@", "' ", "\\"),
        *("password", "password ", "password='", 'password="', "password $a$"),
        *("api_key:", "pwd=\t", "bearer ", "-----BEGIN PRIVATE KEY-----", "secret_"),
    ],
)
def test_a_large_value_costs_no_more_than_its_size(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    before = time.process_time()
    scrub(text)
    assert time.process_time() - before < 4


@given(st.text())
def test_scrubbing_never_fails_and_is_stable(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


@given(st.text())
def test_nothing_acts_after_it_was_spelled_out(text: str) -> None:
    shown = spelled_out(text, one_line=True)
    assert shown.isprintable() or all(c.isprintable() or c == "\t" or c.isspace() or ord(c) > 0x9F for c in shown)
    assert not set(shown) & set("\n\r\x1b\x00\u202e\u2066\u2028")
