"""An address leads where libpq goes with it, to that database and as that role, or it is refused: psql is asked too."""

import os
import subprocess
from typing import Final
from urllib.parse import quote, urlsplit

import pytest

from knarr.errors import PlanError
from knarr.local.cluster import Cluster
from knarr.local.initdb import SUPERUSER
from knarr.postgres.session import connect

WHO: Final = "SELECT current_database() || ' ' || current_user || ' ' || inet_server_port()"
ODD: Final = "a+b c/d"  # what a URL can hold in more than one spelling
OF_LIBPQ: Final = ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE", "PGHOSTADDR", "PGPASSWORD", "PGSSLMODE")

# Each goes on with the password by PGPASSWORD. The first two are how a run once got into the wrong database.
SPELLINGS: Final = (
    "host=127.0.0.1 port={port} user={user} dbname=shop",
    "postgresql:///?host=127.0.0.1&port={port}&user={user}&dbname=shop",
    "postgresql://{user}@127.0.0.1:{port}/?dbname=shop",
    "postgresql://{user}@127.0.0.1:{port}/postgres?dbname=shop",
    "postgresql://{user}@127.0.0.1:1/postgres?dbname=shop&port={port}",
    "postgres://nobody@127.0.0.1:{port}/shop?user={user}",
    "postgresql://?host=127.0.0.1&port={port}&user={user}&dbname=shop",
    "postgresql://{user}@127.0.0.1:{port}",
    "postgresql://{user}@127.0.0.1:{port}/",
    "host=127.0.0.1 port={port} user={user}",
    "host=127.0.0.1 port={port} user={user} dbname=''",
    "host=127.0.0.1 port={port} user={user} dbname=postgres dbname=shop",
    "host = 127.0.0.1 port={port} user={user} dbname = 'shop'",
    "host=127.0.0.1 port={port} user={user} dbname='a+b c/d'",
    r"host=127.0.0.1 port={port} user={user} dbname=a+b\ c/d",
    "postgresql://{user}@127.0.0.1:{port}/a+b%20c%2Fd",
    "postgresql://{user}@127.0.0.1:{port}/?dbname=a+b%20c/d",
    "postgresql://{user}@127.0.0.1:1,127.0.0.1:{port}/shop",
    "postgresql://{user}@127.0.0.1,127.0.0.1:{port}/?dbname=shop",
    "postgresql://{user}@127.0.0.1:{port}/shop?application_name=x&connect_timeout=5&channel_binding=prefer",
    "postgresql://{user}@127.0.0.1:{port}/shop?options=-c%20work_mem%3D9MB",
    # No server of the tests has a socket.
    "host='' port={port} user={user} dbname=postgres",
    "port={port} user={user} dbname=postgres",
    "postgresql:///shop",
    "postgresql://",
    "dbname=shop",
    "user={user}",
)
SURROUNDINGS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"PGDATABASE": "other"},
    {"PGHOST": "127.0.0.1", "PGPORT": "{port}", "PGUSER": SUPERUSER, "PGDATABASE": "other"},
)


@pytest.fixture(scope="module")
def address(cluster: Cluster) -> dict[str, str]:
    for name in ("shop", "other", ODD):
        cluster.create_database(name)
    parts = urlsplit(cluster.dsn())
    return {"port": str(parts.port), "user": SUPERUSER, "password": parts.password or ""}


def surrounded(monkeypatch: pytest.MonkeyPatch, address: dict[str, str], variables: dict[str, str]) -> None:
    for name in OF_LIBPQ:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGPASSWORD", address["password"])
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(**address))


def of_psql(cluster: Cluster, address: str) -> str | None:
    command = [cluster.binaries.program("psql"), "-XAtwc", WHO, address]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


async def of_knarr(address: str) -> str | None:
    try:
        connection = await connect(address, application_name="address")
    except Exception:
        return None
    try:
        return str(await connection.fetchval(WHO))
    finally:
        await connection.close()


@pytest.mark.parametrize("variables", SURROUNDINGS, ids=["bare", "PGDATABASE", "all of libpq's variables"])
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_knarr_is_where_psql_is(
    spelling: str,
    variables: dict[str, str],
    cluster: Cluster,
    address: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    surrounded(monkeypatch, address, variables)
    said = spelling.format(**address)

    there = await of_knarr(said)

    assert there == of_psql(cluster, said)
    if "shop" in spelling and "{port}" in spelling:
        assert there == f"shop {SUPERUSER} {address['port']}"


@pytest.mark.parametrize(
    ("spelling", "variables", "expected"),
    [
        ("host=127.0.0.1 port={port} user={user} dbname=shop hostaddr=127.0.0.1", {}, "hostaddr"),
        ("postgresql://{user}@127.0.0.1:{port}/shop?service=x", {}, "service"),
        ("postgresql://{user}@127.0.0.1:{port}/shop", {"PGHOSTADDR": "10.0.0.1"}, "PGHOSTADDR"),
        ("postgresql://{user}@127.0.0.1/shop", {"PGSERVICE": "x"}, "leaves port to PGSERVICE"),
        ("postgresql://{user}@127.0.0.1:{port}/shop?channel_binding=require", {}, "channel_binding"),
        ("host=127.0.0.1 port={port} user={user} dbname=my shop", {}, "without ="),
        ("postgresql://{user}@127.0.0.1:{port}/shop#x", {}, "a # is in it"),
        ("postgresql://{user}@127.0.0.1:{port}/shop?sslmod=require", {}, "says sslmod"),
        ("postgresql://{user}@127.0.0.1:{port}/shop?database=other", {}, "libpq does not know"),
        ("mysql://{user}@127.0.0.1:{port}/shop", {}, "URL of mysql"),
        ("host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,{port} dbname=shop", {}, "3 hosts and 2 ports"),
        ("postgresql://{user}:12/secret@127.0.0.1:{port}/shop", {}, "does not end the user's part"),
    ],
)
async def test_what_the_driver_would_do_otherwise_is_refused(
    spelling: str,
    variables: dict[str, str],
    expected: str,
    address: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    surrounded(monkeypatch, address, variables)

    with pytest.raises(PlanError, match=expected) as raised:
        await connect(spelling.format(**address), application_name="address")

    assert raised.value.hint
    assert "secret" not in str(raised.value)


async def test_a_password_of_all_characters_arrives(
    cluster: Cluster, address: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    surrounded(monkeypatch, address, {})
    monkeypatch.delenv("PGPASSWORD")
    password = "a+b c/d@e#f?g%h'i\\j&k=l:m"
    cluster.psql(f"""CREATE ROLE guest LOGIN PASSWORD $p${password}$p$""")
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    at = f"127.0.0.1:{address['port']}"

    for said in (
        f"host=127.0.0.1 port={address['port']} user=guest dbname=shop password='{quoted}'",
        f"postgresql://guest:{quote(password, safe='')}@{at}/shop",
        f"postgresql://guest@{at}/shop?password={quote(password, safe='')}",
    ):
        assert await of_knarr(said) == f"shop guest {address['port']}"
