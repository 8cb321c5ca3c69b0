"""What an error of PostgreSQL, the driver or the network means for the run, and what of it may be told in history."""

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from typing import Final

import asyncpg

from knarr.errors import DataError, KnarrError, LostLease, PlanError, TransientError, raised_at
from knarr.postgres import server_words
from knarr.telemetry.scrub import scrub

# The longest matching prefix of the SQLSTATE decides. What is not listed stops the run (PlanError): an error that
# nobody thought of must reach a person, not be retried for ever.
_TRANSIENT: Final = "a run tries it again by itself, a command does not; if it goes on, look at the server's log"
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
# The same while something is taken back: what could be moved is moved, neither the source nor the plan is asked any
# more, and what is in the way has come to the target since.
_TAKING_BACK: Final[dict[str, str]] = {
    "22": "what a table held does not fit its types as they are now: give the type, its labels or the column "
    "back what they were when the run wrote there, then retry",
    "23": "rows or a constraint of others on the target stand in the way: change those rows, or take that constraint "
    "away meanwhile, then retry",
    "42501": "grant the privilege to the role of this connection alias, then retry",
    "42": "something of the target is not as the run left it, renamed, changed or dropped: give it back its name and "
    "its definition, then retry",
    "0A": "the table is not what it was when the run wrote there: see what has come to it since, as a foreign key "
    "or a partition, and take that away meanwhile, then retry",
    "55000": "something has come to the table since that forbids this, as a publication or a deferrable constraint: "
    "take that away meanwhile, then retry",
    "21": "a trigger or a function on the target gave more than one row: mend it, or disable it meanwhile, then retry",
    "P0": "a trigger or a function on the target refused it: let it pass, or disable it meanwhile, then retry",
    "2BP01": "something outside the run depends on it, and Knarr never drops with CASCADE: take that away, or let it "
    "depend on something else, then retry",
}
_LEFT_IN_THE_LOG: Final = (
    "read the server's own words, here or in the worker's log, then put right on the target what they name, then retry"
)
_IN_THE_LOG: Final = "read the server's own words, here or in the worker's log, then mend the plan or the database"
_NO_IDENTITY: Final = (
    "a publication sends on what is done to the table: give it a replica identity by which the rows can be told, as "
    "with ALTER TABLE ... REPLICA IDENTITY FULL, or take it out of the publication; then retry"
)
_NO_RECORD: Final = (
    "the knarr schema, in which a run keeps its record, is not in this database, or not all of it: does the alias lead "
    "to the database that the run has written to? If the schema was dropped, restore it from a backup (pg_restore "
    "--schema knarr), then retry: without the record nothing of the run can be taken back or proved"
)
_UNEXPECTED: Final = "this error is not one that Knarr knows; please report it with the worker's log"


_NUMBER: Final = re.compile(r"\[Errno (\d{1,4})\]")
# A backend that was ended between two messages leaves asyncpg in a state of which it says the last of these
# (measured: 3 of 300 kills); a new connection is all it takes.
_LOST: Final = ("closed", "released", "cannot switch to state")


def classify(error: BaseException, doing: str, *, taking_back: bool = False) -> KnarrError:
    """The error as one of ours; an error that is ours already comes back as it is.

    Its message holds no row's value, its detail the whole of what was said (see `server_words`).

    Args:
        error: what was raised.
        doing: what was being done, as in "creating index x on shop.order"; it opens the message.
        taking_back: the run undoes what it did: what to do next then lies on the target alone.
    """
    if isinstance(error, KnarrError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, doing, taking_back)
    said, name = str(error).strip(), type(error).__name__
    detail = scrub(f"{doing}: {name}: {said}" if said else f"{doing}: {name}")
    if isinstance(error, ssl.SSLCertVerificationError):
        # What a certificate says of itself.
        hint = "check sslrootcert and the host's name in the address of this connection alias"
        return PlanError(scrub(f"{doing}: {said or name}"), hint=hint)
    if isinstance(error, UnicodeError):
        return DataError(f"{doing}: {name}{raised_at(error)}", detail=detail)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        if any(word in said for word in _LOST):
            return TransientError(f"{doing}: {name}: the connection was lost", hint=_TRANSIENT, detail=detail)
        return PlanError(f"{doing}: {name}{raised_at(error)}", hint=_UNEXPECTED, detail=detail)
    if isinstance(error, OSError | TimeoutError | EOFError):
        # What the numbers mean, by this machine's own table.
        reasons = "; ".join(map(os.strerror, numbers(error)))
        return TransientError(f"{doing}: {name}{f': {reasons}' if reasons else ''}", hint=_TRANSIENT, detail=detail)
    return PlanError(f"{doing}: {name}{raised_at(error)}", hint=_UNEXPECTED, detail=detail)


def numbers(error: BaseException) -> dict[int, None]:
    """The numbers of the system's errors in it, each once; asyncio puts those of several addresses into one text."""
    found = [getattr(error, "errno", None) or 0, *map(int, _NUMBER.findall(str(error)))]
    return dict.fromkeys(number for number in found if number > 0)


@contextlib.contextmanager
def classified(doing: str, *, taking_back: bool = False) -> Iterator[None]:
    """Raises whatever goes wrong inside as one of our errors, as `classify`; a cancellation passes untouched."""
    try:
        yield
    except KnarrError:
        raise
    except Exception as error:
        raise classify(error, doing, taking_back=taking_back) from error


def _of_server(error: asyncpg.PostgresError, doing: str, taking_back: bool) -> KnarrError:
    state = str(error.sqlstate or "")
    words = server_words.words(error)
    hint = _UNEXPECTED if state.startswith("XX") else str(getattr(error, "hint", None) or "") if words else ""
    found: type[KnarrError] = PlanError
    for length in (5, 2):
        if entry := _CLASSES.get(state[:length]):
            found, hint = entry[0], entry[1] or hint
            break
    if taking_back and not issubclass(found, TransientError):
        hint = _TAKING_BACK.get(state) or _TAKING_BACK.get(state[:2]) or hint
    if server_words.lacks_identity(error):
        hint = _NO_IDENTITY
    if server_words.lacks_record(error):
        hint = _NO_RECORD
    # The one internal error that passes: two sessions changed one catalogue row at once.
    if state == "XX000" and "concurrently" in server_words.text_of(error):
        found, hint = TransientError, _TRANSIENT
    whole = f"{doing}: {server_words.text_of(error) or server_words.condition(error)}"
    for what in ("detail", "hint", "context"):
        if text := getattr(error, what, None):
            whole += f"\n{what.capitalize()}: {text}"
    if words:
        detail = str(getattr(error, "detail", None) or "")
        return found(scrub(f"{doing}: {words}" + (f"\nDetail: {detail}" if detail else "")), hint=hint, sqlstate=state)
    told = f"{doing}: {server_words.condition(error)} (SQLSTATE {state})"
    if names := server_words.names(error):
        told += f": {names}"
    if place := server_words.place(error):
        told += f"\nContext: {place}"
    return found(
        scrub(told),
        hint=hint or (_LEFT_IN_THE_LOG if taking_back else _IN_THE_LOG),
        sqlstate=state,
        detail=scrub(whole),
    )
