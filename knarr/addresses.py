"""A connection's address in libpq's two spellings: what it says, and the URL of it that asyncpg reads as libpq would.

asyncpg 0.32 takes `postgresql:///?dbname=shop` for the user's own database, so that a run could write to another than
the one that was named (connect_utils.py: an empty path wins). So nothing of an address is left for it to make out:
it gets host, port, user and database said, and what libpq would do and it can't is refused.
"""

import contextlib
import getpass
import os
import pwd
import re
from difflib import get_close_matches
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

from knarr.errors import PlanError

SPELLINGS: Final = "postgresql://user@host:port/database or host=... dbname=... user=..."
SCHEMES: Final = ("postgresql://", "postgres://")
# fmt: off
# What asyncpg does as libpq does.
UNDERSTOOD: Final = frozenset({
    "host", "port", "dbname", "user", "password", "passfile", "options", "target_session_attrs", "krbsrvname", "gsslib",
    "sslmode", "sslnegotiation", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl",
    "ssl_min_protocol_version", "ssl_max_protocol_version",
})
# Knarr says these itself, to every server alike.
OURS: Final = frozenset({
    "application_name", "fallback_application_name", "client_encoding", "connect_timeout", "tcp_user_timeout",
    "sslcompression", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
})
# fmt: on
# What the driver can't do, and the values that don't ask for it.
BEYOND: Final[dict[str, frozenset[str]]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "load_balance_hosts": frozenset({"disable"}),
    "hostaddr": frozenset(),
    "service": frozenset(),
    "require_auth": frozenset(),
    "requirepeer": frozenset(),
    "replication": frozenset(),
}
WHERE: Final = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
DEFAULT_PORT: Final = "5432"
# Where builds of libpq look where nobody names a host. asyncpg would go on to localhost, to whatever listens there.
SOCKETS: Final = "/run/postgresql,/var/run/postgresql,/tmp"

# A backslash takes the next character as it is, inside quotes and outside.
_PAIR: Final = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(?!')((?:[^\s\\]|\\.)*))", re.DOTALL)
_PERCENT: Final = "write special characters of the password percent-encoded: / as %2F, # as %23, ? as %3F, @ as %40"
_ANY_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20})://")


class Address(SecretStr):
    """An address that knows which alias it stands behind, so that every message about it can say so."""

    def __init__(self, value: str, alias: str) -> None:
        super().__init__(value)
        self.alias = alias


def driver_url(address: SecretStr) -> str:
    """The address as the URL that asyncpg reads as libpq reads the address.

    All stands after the ?, since asyncpg prefers an empty path to what stands there, and what the address leaves
    open is filled in as libpq does it.

    Raises:
        PlanError: it is none, or it or the environment asks for what the driver can't do; the message names the alias
            and repeats no more of it than a setting's name.
    """
    try:
        fields = {name: value for name, value in _said(address.get_secret_value()).items() if name in UNDERSTOOD}
        fields = {name: value for name, value in fields.items() if value} | _place(fields)
    except _Unusable as error:
        whose = f"the address of '{address.alias}'" if isinstance(address, Address) else "a connection's address"
        # The driver's own texts, and ours with more in them, could quote a piece of the password.
        message = f"{whose} {error.what} (it is not shown, since it may hold a password)"
        raise PlanError(message, hint=error.hint) from None
    return "postgresql://?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())


def shown(address: SecretStr) -> str:
    """`'alias' at host:port/database`, for messages: no user, and nothing that could be a password."""
    alias = f"'{address.alias}'" if isinstance(address, Address) else ""
    try:
        place = _place(_said(address.get_secret_value()))
    except _Unusable:
        return alias or "a server"
    hosts = ["(local socket)"] if place["host"] == SOCKETS else place["host"].split(",")
    ports = place["port"].split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)) + f"/{place['dbname']}"
    return f"{alias} at {where}" if alias else where


def passwords(text: str) -> set[str]:
    """The passwords in an address of any kind, as far as they can be made out: for blanking, so it never raises."""
    found: list[str | None] = []
    if "://" in text:
        with contextlib.suppress(ValueError):
            parts = urlsplit(text)
            found = [parts.password, *(value for name, value in parse_qsl(parts.query) if _is_secret(name))]
    else:
        found = [_value(match) for match in _PAIR.finditer(text) if _is_secret(match[1])]
    with contextlib.suppress(_Unusable):
        found += [value for name, value in _said(text).items() if _is_secret(name)]
    return {spelling for each in found if each for spelling in (each, unquote(each), quote(unquote(each), safe=""))}


class _Unusable(Exception):
    """What is wrong with an address, as the rest of a sentence that begins with it; what to do about it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def _said(text: str) -> dict[str, str]:
    """What the address says, under libpq's names; of a URL, what stands after the ? counts, as with libpq."""
    text = text.strip()
    if text.startswith(SCHEMES):
        fields = _of_url(text)
    elif scheme := _ANY_SCHEME.match(text):
        raise _Unusable(f"is a URL of {scheme[1]}, which is no PostgreSQL server", f"write {SPELLINGS}")
    else:
        fields = _of_pairs(text)
    for name in sorted(fields.keys() - UNDERSTOOD - OURS):
        _refuse_unless_idle(name, fields[name])
    return fields


def _is_secret(name: str) -> bool:
    return name in ("password", "sslpassword")


def _of_url(text: str) -> dict[str, str]:
    """As libpq splits it: the standard library decodes + after the ?, and takes the user's part up to the last @."""
    try:
        parts = urlsplit(text)
    except ValueError:
        raise _Unusable("can't be read as a URL", _PERCENT) from None
    # Where a special character of a password stands as it is, the parts are not what their writer meant, and a piece
    # of the password would be looked for as a host, or shown as a database.
    if "#" in text or parts.netloc.count("@") < text.count("@") or text.count("@") > 1:
        raise _Unusable("can't be read as a URL: a # is in it, or an @ that does not end the user's part", _PERCENT)
    login, _, hosts = parts.netloc.partition("@") if "@" in parts.netloc else ("", "", parts.netloc)
    user, _, password = login.partition(":")
    specs = [re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]*)(?::(\d*))?", spec) for spec in hosts.split(",")]
    if not all(specs):
        raise _Unusable("can't be read as a URL: a host in it is not host or host:port", _PERCENT)
    found = {
        "user": user,
        "password": password,
        "host": ",".join(spec[1].strip("[]") for spec in specs if spec),
        "port": ",".join(spec[2] or "" for spec in specs if spec),
        "dbname": parts.path.removeprefix("/"),
    }
    fields = {name: unquote(value) for name, value in found.items() if value}
    for pair in filter(None, parts.query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise _Unusable("can't be read as a URL: after the ? stands something without =", _PERCENT)
        fields[unquote(name)] = unquote(value)
    return fields


def _of_pairs(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            what = "has something without = in it" if fields else f"is neither {SPELLINGS.replace(' or ', ' nor ')}"
            raise _Unusable(
                what, "put a value with spaces in quotes: password='two words'; and \\ before ' and \\ in it"
            )
        fields[match[1]] = _value(match)
        position = match.end()
    return fields


def _value(match: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", match[3] if match[2] is None else match[2], flags=re.DOTALL)


def _refuse_unless_idle(name: str, value: str) -> None:
    if name in BEYOND:
        if value in BEYOND[name]:
            return
        others = " or ".join(sorted(BEYOND[name]))
        raise _Unusable(
            f"asks for {name}, which the driver (asyncpg) can't do",
            f"leave it out{f', or say {others}' if others else ''}; "
            "say host, port, dbname and user themselves, and let pg_hba.conf and sslmode guard the way",
        )
    # A piece of a password may stand where a name should: only what is nearly a name is repeated.
    near = get_close_matches(name, [*UNDERSTOOD, *OURS, *BEYOND], n=1, cutoff=0.7)
    raise _Unusable(
        f"says {name}, which libpq does not know" if near else "says something that libpq does not know",
        f"did you mean {near[0]}?" if near else "a setting of the server goes like this: options='-c name=value'",
    )


def _place(fields: dict[str, str]) -> dict[str, str]:
    """Host, port, user and database, each from the address, or else libpq's variable, or else libpq's default."""
    open_ones = [name for name in WHERE if not fields.get(name)]
    if os.environ.get("PGHOSTADDR"):
        raise _Unusable("leads elsewhere with PGHOSTADDR, which the driver (asyncpg) does not know", "unset PGHOSTADDR")
    if open_ones and os.environ.get("PGSERVICE"):
        what = f"leaves {', '.join(open_ones)} to PGSERVICE, which the driver (asyncpg) does not read"
        raise _Unusable(what, "say them in the address, or unset PGSERVICE")
    found = {name: fields[name] if name in fields else os.environ.get(variable, "") for name, variable in WHERE.items()}
    found["host"] = found["host"] or SOCKETS
    found["user"] = found["user"] or _own_name()
    found["dbname"] = found["dbname"] or found["user"]
    hosts = found["host"].split(",")
    ports = [port.strip() or DEFAULT_PORT for port in found["port"].split(",")]
    if not all(re.fullmatch(r"\d{1,5}", port) and 0 < int(port) < 65536 for port in ports):
        raise _Unusable("has a port that is no number from 1 to 65535", _PERCENT)
    if len(ports) not in (1, len(hosts)):
        raise _Unusable(
            f"has {len(hosts)} hosts and {len(ports)} ports", "give each host its port, or one port for all"
        )
    if len(hosts) > 1 and not all(hosts):
        raise _Unusable("has an empty host in its list", "name each host")
    # A host with a colon in it is an IPv6 address, or nothing: asyncpg would take the end of it for a port.
    found["host"] = ",".join(f"[{host}]" if ":" in host and host[0] != "/" else host for host in hosts)
    found["port"] = ",".join(ports)
    return found


def _own_name() -> str:
    # As libpq: who we are. asyncpg would believe LOGNAME and USER, which sudo and su may leave behind.
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return getpass.getuser()
