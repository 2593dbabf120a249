"""A private Postgres, and its fixtures: `postgres_url`, `make_postgres`."""

import asyncio
import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import asyncpg
import pytest
from tidewire.transports.postgres import migrations

from tests.support import servers
from tests.support.processes import HOST, START_SECONDS, ServerProcess, inherited, wait_until

T = TypeVar("T")

SUPERUSER = "tidewire"
_BACKENDS = "select pid from pg_stat_activity where pid <> pg_backend_pid() and {}"
LISTENS = "application_name = 'tidewire-tail'"

# Postgres refuses to run as root: a process of root changes its user before it runs Postgres.
AS_SOMEBODY_ELSE = """
import os, sys
os.chdir("/")
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[3], sys.argv[3:])
"""


class PostgresServer(ServerProcess):
    """A Postgres of its own, empty at first; an acknowledged commit survives the process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = _make_folder()
        # Owners and rights too: Postgres takes no folder that others may read.
        subprocess.run(["cp", "-a", f"{_cluster()}/.", str(self.data)], check=True)

    @property
    def url(self) -> str:
        return f"postgres://{SUPERUSER}@{HOST}:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        return [
            *_program("postgres"),
            *("-D", str(self.data), "-p", str(self.port), "-k", ""),
            # A commit is in the kernel's hands when it is answered: safe from a kill, not from a power cut.
            *(f"-c{setting}" for setting in (f"listen_addresses={HOST}", "fsync=off", "max_connections=60")),
        ]

    def environment(self) -> Mapping[str, str]:
        return {**inherited(), "TZ": "UTC"}

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("select 1"))
        except (OSError, asyncpg.PostgresError):
            return False

    def ask(self, sql: str, *arguments: object) -> list[Any]:
        """The rows of a statement; without arguments it may be several statements, and there are none."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.url, timeout=START_SECONDS)
            try:
                if not arguments and ";" in sql:
                    await connection.execute(sql)
                    return []
                return list(await connection.fetch(sql, *arguments))
            finally:
                await connection.close()

        return in_a_thread(ask)

    def terminate(self) -> None:
        """Asks the server to end and not to wait until its clients leave."""
        if self.is_running():
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Ends all processes without a checkpoint: the next start has to recover."""
        if self.is_running():
            os.kill(self.pid, signal.SIGQUIT)
            self.resume()
            self.wait()

    def pause(self) -> None:
        """Freezes the server and all its sessions: connections stay open and silent."""
        super().pause()
        self._signal_children(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_children(signal.SIGCONT)
        super().resume()

    def stop(self) -> None:
        """Ends the server in order, and deletes its data."""
        super().stop()
        shutil.rmtree(self.data, ignore_errors=True)

    def restart(self) -> None:
        """Ends in order and starts again on the same port, with its data."""
        super().stop()
        self.start()

    def follow(self, primary: "PostgresServer") -> None:
        """Become a standby of another server, which is restarted for it; not started yet, and empty by now."""
        ServerProcess.stop(primary)
        shutil.rmtree(self.data)
        subprocess.run(["cp", "-a", str(primary.data), str(self.data)], check=True)
        primary.start()
        settings = self.data / "postgresql.auto.conf"
        settings.write_text(f"primary_conninfo = 'host={HOST} port={primary.port} user={SUPERUSER}'\n")
        (self.data / "standby.signal").touch()
        if (user := _somebody_else()) is not None:
            os.chown(settings, user.pw_uid, user.pw_gid)
            os.chown(self.data / "standby.signal", user.pw_uid, user.pw_gid)

    def set_read_only(self, value: bool) -> None:
        """Refuse writes from now on, on open connections too, or take them again."""
        self.ask(f"alter system set default_transaction_read_only = {'on' if value else 'off'}")
        self.ask("select pg_reload_conf()")
        wait_until(lambda: self.ask("show default_transaction_read_only")[0][0] == ("on" if value else "off"), 5.0)

    def backends(self, where: str) -> list[int]:
        """The process ids of the sessions that fulfil a condition on pg_stat_activity."""
        return [pid for (pid,) in self.ask(_BACKENDS.format(where))]

    def listeners(self) -> list[int]:
        """The process ids of the sessions that listen, once there is one."""
        wait_until(lambda: bool(self.backends(LISTENS)), START_SECONDS)
        return self.backends(LISTENS)

    def _signal_children(self, number: signal.Signals) -> None:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        for pid, parent in (line.split() for line in listed.splitlines()):
            if int(parent) == self.pid:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(int(pid), number)


class MakePostgres(Protocol):
    """The fixture `make_postgres`."""

    def __call__(self) -> PostgresServer: ...


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """This worker's Postgres, with our schema; tests share it, so none may break it."""
    with ExitStack() as stack:
        yield start_postgres(stack, tmp_path_factory.mktemp("postgres"))


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The shared Postgres with an empty log of the prefix `rt`."""
    postgres_server.ask("truncate rt.partitions, rt.records, rt.ids; select 1")
    return postgres_server.url


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of its own, without our schema."""
    name = f"own-{os.urandom(4).hex()}"
    postgres_server.ask(f'create database "{name}"')
    yield postgres_server.url.replace("/postgres", f"/{quote(name)}")
    postgres_server.ask(f'drop database "{name}" with (force)')


@pytest.fixture
def make_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePostgres]:
    """Starts a Postgres for this test alone, to be killed, paused and restarted."""
    with ExitStack() as stack:
        yield lambda: start_postgres(stack, tmp_path_factory.mktemp("postgres"))


def start_postgres(stack: ExitStack, folder: Path) -> PostgresServer:
    """Start one with our schema; the end of the stack stops it."""
    server = PostgresServer(folder)
    stack.callback(server.stop)
    server.start()
    in_a_thread(lambda: migrations.apply(server.url))
    return server


@functools.cache
def _cluster() -> Path:
    """A cluster that no server has run on, made once a process: to copy it takes a tenth of the time."""
    data = _make_folder()
    atexit.register(shutil.rmtree, data, ignore_errors=True)
    done = subprocess.run(
        [
            *_program("initdb"),
            *("-D", str(data), "-U", SUPERUSER, "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        ],
        env=inherited(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return data


def _make_folder() -> Path:
    """A folder of the user that runs Postgres; not below pytest's, which other users may not read."""
    folder = Path(tempfile.mkdtemp(prefix="tidewire-postgres-"))
    if (user := _somebody_else()) is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def in_a_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also if a loop is running in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


def _program(name: str) -> list[str]:
    program = str(servers.find("postgres").resolve().parent / name)
    user = _somebody_else()
    if user is None:
        return [program]
    return [sys.executable, "-c", AS_SOMEBODY_ELSE, str(user.pw_uid), str(user.pw_gid), program]


def _somebody_else() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None
