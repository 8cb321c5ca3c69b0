"""What an error of PostgreSQL, the driver or the network means for the run."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Final

import asyncpg

from knarr.errors import DataError, KnarrError, LostLease, PlanError, TransientError
from knarr.postgres.quoted_values import context_without_values, detail_without_values, message_without_values
from knarr.telemetry.scrub import scrub

# The longest matching prefix of the SQLSTATE decides. What is not listed stops the run (PlanError): an error that
# nobody thought of must reach a person, not be retried for ever.
_TRANSIENT: Final = "it is retried by itself; if it goes on, look at the server's log"
_CLASSES: Final[dict[str, tuple[type[KnarrError], str]]] = {
    "KN": (LostLease, "nothing: another attempt or a rollback has taken over, and this writer wrote nothing"),
    "08": (TransientError, _TRANSIENT),
    "25P03": (TransientError, _TRANSIENT),  # idle in transaction: this worker was frozen
    "25P04": (TransientError, _TRANSIENT),  # transaction_timeout
    "40": (TransientError, _TRANSIENT),
    "40002": (DataError, ""),
    "53": (TransientError, "the server is short of something: see its disk, memory and max_connections"),
    "53100": (TransientError, "the server's disk is full: make room there; the step is retried"),
    "53300": (TransientError, "the server has no connection left: lower `parallelism` or raise max_connections"),
    "55006": (TransientError, _TRANSIENT),
    "55P03": (TransientError, "another session holds the lock: see pg_locks, and `limits.lock_timeout`"),
    "57": (TransientError, _TRANSIENT),
    "57014": (TransientError, "a statement was cancelled: by a person, or by `limits.statement_timeout`"),
    "57P04": (PlanError, "the database was dropped"),
    "58": (TransientError, "the server could not read or write a file: see its log"),
    "72": (TransientError, _TRANSIENT),
    "21": (DataError, "an expression of the plan gave more than one value for a row"),
    "22": (DataError, "correct the row at the source, or the expression in the plan"),
    "23": (DataError, "correct the row at the source, or the constraint in the plan"),
    "44": (DataError, ""),
    "54": (DataError, "a row or a value is larger than PostgreSQL allows there"),
    "P0": (DataError, "a function or a trigger of the database refused it"),
    "XX001": (DataError, "the server reports damaged data: stop, and look at its disk"),
    "XX002": (DataError, "the server reports a damaged index: REINDEX it"),
    "28": (PlanError, "check the user and the password of this connection alias"),
    "3D": (PlanError, "check the database's name in the address of this connection alias"),
    "42501": (PlanError, "grant the privilege to the role of this connection alias"),
    "2BP01": (PlanError, "something outside the run depends on it; Knarr never drops with CASCADE"),
    "25006": (PlanError, "the session may only read: is this a standby, or the source's connection?"),
}
_UNEXPECTED: Final = "this error is not one that Knarr knows; please report it with the worker's log"


def classify(error: BaseException, doing: str) -> KnarrError:
    """The error as one of ours; an error that is ours already comes back as it is.

    Args:
        error: what was raised.
        doing: what was being done, as in "creating index x on shop.order"; it opens the message.
    """
    if isinstance(error, KnarrError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, doing)
    message = scrub(f"{doing}: {_described(error)}")
    if isinstance(error, asyncpg.DataError | UnicodeError):
        return DataError(scrub(f"{doing}: {message_without_values(_described(error), '')}"), detail=message)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        # A backend that was ended between two messages leaves asyncpg in a state of which it says the last of these
        # (measured: 3 of 300 kills); a new connection is all it takes.
        lost = any(word in str(error) for word in ("closed", "released", "cannot switch to state"))
        return TransientError(message, hint=_TRANSIENT) if lost else PlanError(message, hint=_UNEXPECTED)
    if isinstance(error, ssl.SSLCertVerificationError):
        return PlanError(message, hint="check sslrootcert and the host's name in the address of this connection alias")
    if isinstance(error, OSError | TimeoutError | EOFError):
        return TransientError(message, hint=_TRANSIENT)
    return PlanError(message, hint=_UNEXPECTED)


@contextlib.contextmanager
def classified(doing: str) -> Iterator[None]:
    """Raises whatever goes wrong inside as one of our errors; a cancellation passes through untouched."""
    try:
        yield
    except KnarrError:
        raise
    except Exception as error:
        raise classify(error, doing) from error


def _of_server(error: asyncpg.PostgresError, doing: str) -> KnarrError:
    state = str(getattr(error, "sqlstate", None) or "")
    found: type[KnarrError] = PlanError
    hint = _UNEXPECTED if state.startswith("XX") else str(getattr(error, "hint", None) or "")
    for length in (5, 2):
        if entry := _CLASSES.get(state[:length]):
            found, hint = entry[0], entry[1] or hint
            break
    # The one internal error that passes: two sessions changed one catalogue row at once.
    if state == "XX000" and "concurrently" in str(error):
        found, hint = TransientError, _TRANSIENT
    said = _described(error)
    whole, shown = [f"{doing}: {said}"], [f"{doing}: {message_without_values(said, state)}"]
    if text := getattr(error, "detail", None):
        whole.append(f"Detail: {text}")
        shown += [f"Detail: {kept}"] if (kept := detail_without_values(text, state)) else []
    if text := getattr(error, "context", None):
        whole.append(f"Context: {text}")
        shown += [f"Context: {kept}"] if (kept := context_without_values(text)) else []
    detail = scrub("\n".join(whole)) if shown != whole else ""
    return found(scrub("\n".join(shown)), hint=hint, sqlstate=state, detail=detail)


def _described(error: BaseException) -> str:
    # str() of a server's error repeats its detail and hint.
    text = str(error.args[0] if isinstance(error, asyncpg.PostgresError) and error.args else error)
    return text.strip() or type(error).__name__
