"""Logs: one way to stderr, bound to run and step, without secrets, without lies."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from knarr.errors import TransientError
from knarr.telemetry.logging import Format, bound, configure

CANARY = "c4nary-Pa55"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stderr:
    """What this test has written to stderr."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._captured.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """What goes to stderr; logging is as it was afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield Stderr(capsys)
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


def lines(stderr: Stderr) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def redact(text: str) -> str:
    return text.replace("s3cr3t-by-value", "***")


def test_both_ways_of_logging_give_one_json_object_a_line(stderr: Stderr) -> None:
    configure("info", "json")
    with bound(run="shop/1", step="copy", mapping="shop.order", partition=3):
        structlog.get_logger("knarr.copy").info("partition copied", rows=12)
        logging.getLogger("temporalio.worker").warning("slow %s", "poll")
    structlog.get_logger("knarr").info("afterwards")
    first, second, third = lines(stderr)
    assert first["event"] == "partition copied"
    assert first["rows"] == 12
    assert second["event"] == "slow poll"
    assert second["logger"] == "temporalio.worker"
    assert second["level"] == "warning"
    for line in (first, second):
        assert (line["run"], line["step"], line["mapping"], line["partition"]) == ("shop/1", "copy", "shop.order", 3)
        assert str(line["ts"]).endswith("Z")
    assert "run" not in third


def test_the_level_holds_for_both_ways(stderr: Stderr) -> None:
    configure("warning", "json")
    structlog.get_logger("knarr").info("quiet")
    logging.getLogger("asyncpg").info("quiet")
    logging.getLogger("asyncpg").error("loud")
    assert [line["event"] for line in lines(stderr)] == ["loud"]


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="expected debug, info, warning or error"):
        configure("chatty")


def test_configuring_again_replaces_what_was_before(stderr: Stderr) -> None:
    configure("info", "json")
    configure("info", "json")
    structlog.get_logger("knarr").info("once")
    assert len(lines(stderr)) == 1


class Connection:
    """Something whose repr tells too much."""

    def __repr__(self) -> str:
        return f"<Connection postgresql://mover:{CANARY}@db/shop>"


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_no_secret_reaches_a_line(stderr: Stderr, fmt: Format) -> None:
    configure("debug", fmt, redact)
    log = structlog.get_logger("knarr")
    dsn = f"postgresql://mover:{CANARY}@db/shop"
    log.info(f"connecting to {dsn}")
    log.info("connecting", dsn=dsn, password=CANARY, nested={"api_key": CANARY, dsn: [dsn, (dsn, {dsn})]})
    log.info("connecting", connection=Connection(), error=OSError(f"refused by {dsn}"))
    log.info("by value: s3cr3t-by-value", more=["s3cr3t-by-value"], **{"s3cr3t-by-value": 1})
    logging.getLogger("asyncpg").warning("lost %s with %r", dsn, {"password": CANARY})
    with bound(run=dsn):
        log.info("bound")
    try:
        try:
            raise OSError(f"could not reach {dsn}")
        except OSError as error:
            raise RuntimeError(f"password={CANARY} did not help, nor s3cr3t-by-value") from error
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("temporalio.activity").exception("failed")
    text = stderr.getvalue()
    assert text.count("failed") >= 2
    assert text.count("could not reach") >= 2
    assert CANARY not in text
    assert "s3cr3t-by-value" not in text


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_a_hostile_value_can_not_forge_a_line(stderr: Stderr, fmt: Format) -> None:
    configure("info", fmt)
    hostile = 'x\n2026-11-24 [info] all proved\r\x1b[2J\u202e\u2028{"event":"forged"}'
    structlog.get_logger("knarr").info(hostile, table=hostile)
    logging.getLogger("asyncpg").warning("table %s", hostile)
    text = stderr.getvalue()
    assert len(text.splitlines()) == 2
    assert not set(text) & set("\r\x1b\u202e\u2028")


def test_people_get_text_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch, stderr: Stderr) -> None:
    configure("info", "auto")
    structlog.get_logger("knarr").info("piped")
    assert lines(stderr)[0]["event"] == "piped"
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    configure("info", "auto")
    structlog.get_logger("knarr").info("seen")
    assert "seen" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


class ActivityFailure(Exception):
    """As Temporal's ApplicationError: it carries the name of our class as its type."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.type = kind


@pytest.mark.parametrize(("kind", "traceback"), [(TransientError.__name__, False), ("Unexpected", True)])
def test_a_failure_that_was_expected_takes_one_line(stderr: Stderr, kind: str, traceback: bool) -> None:
    configure("info", "json")
    try:
        raise ActivityFailure("the server is restarting", kind)
    except ActivityFailure:
        logging.getLogger("temporalio.activity").warning("Completing activity as failed", exc_info=True)
    (line,) = lines(stderr)
    assert ("exception" in line) is traceback
    assert "the server is restarting" in str(line["exception" if traceback else "event"])
