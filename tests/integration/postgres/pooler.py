"""A real PgBouncer in front of a Postgres, in each of its modes."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.support import servers
from tests.support.postgres_server import SUPERUSER, in_a_thread
from tests.support.processes import HOST, START_SECONDS, ServerProcess, inherited

SETTINGS = (
    "default_transaction_isolation,enable_seqscan,jit,tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count"
)


class PgBouncer(ServerProcess):
    """A pooler whose address does not show that it is one. If `lenient`, it accepts session settings and drops them."""

    def __init__(self, folder: Path, server_port: int, mode: str, *, lenient: bool) -> None:
        super().__init__(folder)
        self._config = folder / "pgbouncer.ini"
        lines = [
            "[databases]",
            f"* = host={HOST} port={server_port} user={SUPERUSER}",
            "[pgbouncer]",
            f"listen_addr = {HOST}",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = any",
            f"pool_mode = {mode}",
            "default_pool_size = 8",
            "server_round_robin = 1",  # each transaction gets another session, as under load
            f"ignore_startup_parameters = extra_float_digits{',' + SETTINGS if lenient else ''}",
            *(["user = nobody"] if os.geteuid() == 0 else []),
        ]
        self._config.write_text("\n".join(lines))
        folder.chmod(0o755)
        self._config.chmod(0o644)

    @property
    def url(self) -> str:
        return f"postgres://{SUPERUSER}@{HOST}:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        return [str(servers.find("pgbouncer")), str(self._config)]

    def environment(self) -> Mapping[str, str]:
        return inherited()

    def is_ready(self) -> bool:
        async def ask() -> bool:
            connection = await asyncpg.connect(self.url, timeout=START_SECONDS, statement_cache_size=0)
            try:
                return bool(await connection.fetchval("select 1"))
            finally:
                connection.terminate()

        try:
            return in_a_thread(ask)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False


MakePooler = Callable[..., PgBouncer]


@pytest.fixture
def make_pooler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakePooler]:
    """Starts a PgBouncer in front of the server at a port, in a mode."""
    with ExitStack() as stack:

        def make(server_port: int, mode: str, *, lenient: bool) -> PgBouncer:
            pooler = PgBouncer(tmp_path_factory.mktemp("pgbouncer"), server_port, mode, lenient=lenient)
            stack.callback(pooler.stop)
            pooler.start()
            return pooler

        yield make


async def start(make_pooler: MakePooler, server_port: int, mode: str, *, lenient: bool) -> PgBouncer:
    """Start a PgBouncer without blocking the event loop."""
    return await asyncio.to_thread(lambda: make_pooler(server_port, mode, lenient=lenient))
