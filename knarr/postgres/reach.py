"""Why a server was not reached, in words a person can use: which alias, where it leads, and what to look at."""

import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

import asyncpg
from pydantic import SecretStr

from knarr.addresses import Address, shown
from knarr.errors import KnarrError, PlanError, TransientError
from knarr.postgres.failures import classify, numbers

AGAIN: Final = "a run tries again by itself, a command does not"
_NO_WAY: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
_HUNG_UP: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


@contextlib.contextmanager
def reaching(address: SecretStr, seconds: float) -> Iterator[None]:
    """Raises whatever goes wrong while connecting as one of our errors that says where to.

    Args:
        address: no password of it gets into a message.
        seconds: how long a server was given to answer.
    """
    try:
        yield
    except KnarrError:
        raise
    except Exception as error:
        raise _told(error, address, seconds) from error


def _told(error: Exception, address: SecretStr, seconds: float) -> KnarrError:
    where = shown(address)
    place = f"the address of '{address.alias}'" if isinstance(address, Address) else "the connection's address"
    if isinstance(error, asyncpg.ClientConfigurationError):
        # The driver's own words on sslmode and the files of certificates; what could quote a password came before.
        return PlanError(f"can't connect to {where}: {error}", hint=f"mend it in {place}")
    if isinstance(error, ValueError):
        # Anything may be quoted in it.
        return PlanError(f"can't connect to {where}: a setting there can't be used", hint=f"correct {place}")
    if isinstance(error, ssl.SSLCertVerificationError) or not isinstance(error, OSError | TimeoutError | EOFError):
        return classify(error, f"connecting to {where}")
    found, hint = _words(error, place, seconds)
    # The system's own words help whoever looks them up; they name no more than we do.
    known = type(error).__name__ + (f": {error.strerror}" if isinstance(error, OSError) and error.strerror else "")
    return TransientError(f"can't connect to {where}: {found} ({known})", hint=hint)


def _words(error: OSError | TimeoutError | EOFError, place: str, seconds: float) -> tuple[str, str]:
    """What it means that connecting ended so, and what to do."""
    codes = numbers(error).keys()
    if isinstance(error, socket.gaierror):
        return "no host of that name is known here", f"check the host in {place}, and this machine's DNS; {AGAIN}"
    if isinstance(error, TimeoutError):
        after = f"nobody answered within {seconds:.0f} s"
        return after, f"check host and port in {place}, and that no firewall is between; {AGAIN}"
    if errno.ECONNREFUSED in codes:
        return "no server listens there", f"start the server, or correct host and port in {place}; {AGAIN}"
    if codes & _NO_WAY:
        return "there is no way to that host", f"check the host in {place}, and this machine's network; {AGAIN}"
    if "rejected SSL" in str(error):
        return (
            "what answers there refuses TLS, or is no PostgreSQL server",
            f"check host and port in {place}; where the server has no TLS, sslmode=prefer or disable; {AGAIN}",
        )
    if isinstance(error, ssl.SSLError):
        return "TLS could not be agreed on", f"check sslmode and its certificates in {place}; {AGAIN}"
    if isinstance(error, EOFError | ConnectionError) or codes & _HUNG_UP:
        return (
            "what listens there hung up before it had answered",
            f"is it the PostgreSQL server, and up? Check host and port in {place}; {AGAIN}",
        )
    if isinstance(error, FileNotFoundError | PermissionError):
        lacks = "is not there" if isinstance(error, FileNotFoundError) else "may not be opened"
        return (
            f"the server's local socket {lacks}, or a file that {place} names",
            f"start the server, or correct host, port and the ssl files in {place}; {AGAIN}",
        )
    return "the network failed", f"check host and port in {place}; {AGAIN}"
