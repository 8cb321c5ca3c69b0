"""Logs: structlog and the standard library's logging by one way to stderr, every line without secrets."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from knarr.errors import KnarrError
from knarr.telemetry.acting import spelled_out
from knarr.telemetry.scrub import scrub, scrub_value

Format = Literal["auto", "console", "json"]

# Where the Temporal SDK puts what it knows of a workflow or an activity; other attributes of a record stay inside.
_EXTRAS: Final = ("temporal_workflow", "temporal_activity")

_handler: logging.Handler | None = None


def configure(level: str = "info", fmt: Format = "auto", redact: Callable[[str], str] | None = None) -> None:
    """Sends all logs of this process to stderr; called again, it replaces what it did before.

    Args:
        level: debug, info, warning or error.
        fmt: `console` for people, `json` for one JSON object a line; `auto` is `console` on a terminal, else `json`.
        redact: takes out secrets that are known by value (`Connections.redact`); what merely looks like a secret is
            blanked out in any case.

    Raises:
        ValueError: there is no such level.
    """
    global _handler
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level: found {level!r}, expected debug, info, warning or error")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(allow=_EXTRAS),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    people = fmt == "console" or (fmt == "auto" and sys.stderr.isatty())
    # Last before rendering, so that texts of exceptions and of other libraries go through it too.
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _Scrubber(redact)]
    if people:
        last += [_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="ts")]
    else:
        # ASCII alone: a line can't hold a character that acts on the terminal it is read on.
        last.append(structlog.processors.JSONRenderer(ensure_ascii=True))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    handler.addFilter(_expected_failures_on_one_line)
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    root.addHandler(handler)
    root.setLevel(number)
    _handler = handler
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@contextmanager
def bound(
    *, run: str | None = None, step: str | None = None, mapping: str | int | None = None, partition: int | None = None
) -> Iterator[None]:
    """Every log line within the block says which run, step, mapping and partition it is about."""
    given = {"run": run, "step": step, "mapping": mapping, "partition": partition}
    with structlog.contextvars.bound_contextvars(**{key: value for key, value in given.items() if value is not None}):
        yield


class _Scrubber:
    """The processor that takes secrets out of every value of a line, the event and the traceback included."""

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self._redact = redact

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        scrubbed = scrub_value({self._key(key): self._known(value) for key, value in event.items()})
        return scrubbed if isinstance(scrubbed, dict) else {"event": scrubbed}

    def _known(self, value: object) -> object:
        if isinstance(value, dict):
            return {self._key(key): self._known(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._known(inner) for inner in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        # Anything else is rendered here: a repr that is made later would be made behind our back.
        text = value if isinstance(value, str) else repr(value)
        return self._redact(text) if self._redact else text

    def _key(self, key: object) -> str:
        text = scrub(str(key))
        return self._redact(text) if self._redact else text


def _one_line(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """For people: nothing but a traceback may begin a line of its own or act on the terminal."""
    return {
        key: spelled_out(value, one_line=key not in ("exception", "stack")) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _expected_failures_on_one_line(record: logging.LogRecord) -> bool:
    """Temporal's SDK logs a traceback of 15 lines for each try that failed; what we expected needs one line."""
    error = record.exc_info[1] if record.exc_info else None
    if record.name.startswith("temporalio") and error is not None and getattr(error, "type", None) in _expected():
        record.msg = f"{record.getMessage()}: {error}"
        record.args = ()
        record.exc_info = None
        record.exc_text = None
    return True


def _expected() -> set[str]:
    names, classes = set(), [KnarrError]
    while classes:
        each = classes.pop()
        names.add(each.__name__)
        classes.extend(each.__subclasses__())
    return names
