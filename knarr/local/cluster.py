"""A PostgreSQL server of our own: its life, its databases and their dumps.

with Cluster.start(Path(".knarr/source")) as cluster:
    cluster.create_database("legacy")
    connection = await asyncpg.connect(cluster.dsn("legacy"))
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from knarr.local.account import Account, clean_environment, service_account
from knarr.local.binaries import Binaries, find_postgres
from knarr.local.errors import LocalServerError
from knarr.local.folders import server_folder, stand_ins_of
from knarr.local.initdb import SUPERUSER, make_data
from knarr.local.lifeline import Lifeline, tail
from knarr.local.owner import FolderLock
from knarr.local.ports import LOOPBACK, free_port
from knarr.local.postmaster import stop_leftover_server, wait_until_ready
from knarr.local.server_settings import server_settings

PASSWORD_FILE: Final = "password"
RestartMode = Literal["fast", "immediate", "kill"]
RESTART_SIGNALS: Final[Mapping[RestartMode, signal.Signals]] = {
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
    "kill": signal.SIGKILL,
}

# Crash recovery replays up to max_wal_size before the server is ready.
START_SECONDS: Final = 300.0
# A fast shutdown writes a checkpoint of all of shared_buffers.
STOP_SECONDS: Final = 60.0


class Cluster:
    """A running server, owned by this process: it stops when we stop it, or when we end, however that happens."""

    def __init__(
        self,
        state_dir: Path,
        binaries: Binaries,
        account: Account | None,
        data: Path,
        password: str,
        settings: Mapping[str, str],
        lock: FolderLock,
    ) -> None:
        self.state_dir = state_dir
        self.binaries = binaries
        self.data = data
        self.port = 0
        self.log = state_dir / "postgres.log"
        self._account = account
        self._password = password
        self._settings = settings
        self._lock = lock
        self._lifeline: Lifeline | None = None

    @classmethod
    def start(
        cls,
        state_dir: Path,
        *,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> "Cluster":
        """Start the server whose state is in `state_dir`; the first start makes it.

        Args:
            state_dir: this server's own folder, made if it is not there.
            durable: False for tests: faster, and a crash of the machine may lose the data.
            settings: server settings that go before ours.
            port: the port to listen on; a free one if None.

        Raises:
            LocalServerError: no PostgreSQL was found, another process owns the folder, or the server does not start.
        """
        state_dir = state_dir.resolve()
        account = service_account()
        binaries = find_postgres(account)
        state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = FolderLock.take(state_dir, "The PostgreSQL server of")
        try:
            data = server_folder(state_dir, account) / f"data-{binaries.major}"
            if data.exists():
                stop_leftover_server(data, STOP_SECONDS)
            else:
                make_data(binaries, account, data, state_dir / PASSWORD_FILE, durable=durable)
            wanted = {**server_settings(durable=durable), **(settings or {})}
            password = (state_dir / PASSWORD_FILE).read_text()
            cluster = cls(state_dir, binaries, account, data, password, wanted, lock)
            cluster._start_on(port)
        except BaseException:
            lock.release()
            raise
        return cluster

    @property
    def version(self) -> str:
        """The server's version, such as 18.6."""
        return self.binaries.version

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._lifeline is not None and self._lifeline.alive

    def dsn(self, database: str = SUPERUSER) -> str:
        """A URL with the password, for asyncpg and for libpq. TLS is off in it, whatever PGSSLMODE says."""
        where = f"{LOOPBACK}:{self.port}/{quote(database, safe='')}"
        return f"postgresql://{SUPERUSER}:{quote(self._password, safe='')}@{where}?sslmode=disable"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database, a copy of `template` if given, and return its DSN.

        Raises:
            LocalServerError: the server refused; its message is quoted.
        """
        # psql quotes :"name" itself.
        if template is None:
            self.psql('CREATE DATABASE :"name";', variables={"name": name})
        else:
            self.psql(
                'CREATE DATABASE :"name" TEMPLATE :"template" STRATEGY file_copy;'
                if self.binaries.major >= 15
                else 'CREATE DATABASE :"name" TEMPLATE :"template";',
                variables={"name": name, "template": template},
            )
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it is there, ending whatever is connected to it.

        Raises:
            LocalServerError: the server refused; its message is quoted.
        """
        self.psql('DROP DATABASE IF EXISTS :"name" WITH (FORCE);', variables={"name": name})

    def psql(self, script: str | Path, database: str = SUPERUSER, variables: Mapping[str, str] | None = None) -> str:
        """Run a script (text, or a file) by psql until its first error; returns unaligned rows without headers.

        Raises:
            LocalServerError: a statement failed; the server's message is quoted.
        """
        command = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        command += [f"--set={name}={value}" for name, value in (variables or {}).items()]
        if isinstance(script, Path):
            return self._run("psql", [*command, f"--file={script}"], database)
        return self._run("psql", [*command, "--file=-"], database, script)

    def pg_dump(self, database: str, *args: str) -> str:
        """What `pg_dump *args` says of a database; two dumps of the same state are the same text.

        Raises:
            LocalServerError: pg_dump failed; its message is quoted.
        """
        # Since August 2025 a dump carries a random \restrict key unless one is given.
        if "--restrict-key" in self._run("pg_dump", ["--help"], database):
            args = ("--restrict-key=knarr", *args)
        return self._run("pg_dump", list(args), database)

    def restart(self, mode: RestartMode = "fast") -> None:
        """Stop the server and start it again on the same port: `fast` ends sessions in order, `immediate` and `kill`
        leave it to crash recovery.

        Raises:
            LocalServerError: it does not end, or does not start again.
        """
        if self._lifeline is not None:
            self._lifeline.signal(RESTART_SIGNALS[mode])
            self._lifeline.wait(STOP_SECONDS)
        self._start_on(self.port)

    def kill(self) -> None:
        """End the server by SIGKILL, for tests; `restart` brings it back."""
        if self._lifeline is not None:
            self._lifeline.signal(signal.SIGKILL)
            self._lifeline.wait(STOP_SECONDS)

    def stop(self) -> None:
        """Stop the server and give its folder up. Twice is once.

        Raises:
            LocalServerError: it does not end.
        """
        if self._lifeline is not None:
            self._lifeline.stop()
            self._lifeline = None
        self._lock.release()

    def destroy(self) -> None:
        """Stop the server and remove all it has on disk."""
        self.stop()
        remove(self.state_dir)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_on(self, port: int | None) -> None:
        """Start on `port`, or on a free one; a free port may be taken meanwhile, so five are tried."""
        deadline = time.monotonic() + START_SECONDS
        attempts = 0
        while True:
            attempts += 1
            self.port = port if port is not None else free_port()
            before = self.log.stat().st_size if self.log.exists() else 0
            lifeline = self._launch()
            if wait_until_ready(self.data, lifeline, deadline):
                self._lifeline = lifeline
                return
            timed_out = lifeline.alive
            lifeline.stop()
            said = tail(self.log, start=before)
            if timed_out:
                raise LocalServerError(
                    f"PostgreSQL is not ready after {START_SECONDS:.0f} s:\n{said}", hint=f"its log is {self.log}"
                )
            if "Address already in use" in said and port is None and attempts < 5:
                continue
            # After SIGKILL the backends need a moment to notice that their postmaster has gone.
            if "pre-existing shared memory block" in said and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise LocalServerError(
                f"PostgreSQL {self.version} ({self.binaries.label}) does not start:\n{said}",
                hint=f"its log is {self.log}",
            )

    def _launch(self) -> Lifeline:
        command = [self.binaries.program("postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        return Lifeline.start(
            "PostgreSQL",
            command,
            log=self.log,
            environment=clean_environment(self.data.parent),
            account=self._account,
            grace=STOP_SECONDS,
        )

    def _run(self, program: str, arguments: list[str], database: str, script: str | None = None) -> str:
        environment = {
            **clean_environment(self.state_dir),
            "PGHOST": LOOPBACK,
            "PGPORT": str(self.port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": database,
            "PGPASSWORD": self._password,
            "PGSSLMODE": "disable",
            "PGCLIENTENCODING": "UTF8",
        }
        done = subprocess.run(
            [self.binaries.program(program), *arguments],
            input=script or "",
            capture_output=True,
            encoding="utf-8",
            env=environment,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip()[-4000:]
            raise LocalServerError(
                f"{program} on database '{database}' of the server of {self.state_dir} failed: {said}",
                hint=f"the server's log is {self.log}" if self.alive else f"the server is not running; see {self.log}",
            )
        return done.stdout


def remove(state_dir: Path) -> None:
    """Remove what a stopped server has on disk, its stand-in included.

    Raises:
        LocalServerError: a process owns it.
    """
    state_dir = state_dir.resolve()
    if state_dir.exists():
        lock = FolderLock.take(state_dir, "The PostgreSQL server of")
        places = [*stand_ins_of("data", state_dir), state_dir]
        for place in places:
            for data in place.glob("server/data-*"):
                stop_leftover_server(data, STOP_SECONDS)
            shutil.rmtree(place)
        lock.release()
