"""Sentinels that watch a primary and its replicas, and replace the primary: killed, paused or by plan.

Methods block until all sentinels that answer agree on the result; a coroutine calls them with `asyncio.to_thread`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from redis.exceptions import ResponseError

from tests.support.processes import HOST, ServerError
from tests.support.redis_node import OPEN, Access, RedisNode, await_that, start_all, stop_all

SERVICE = "tide"
DOWN_AFTER = 1.0  # seconds without a valid answer, after which a sentinel suspects a server
FAILOVER_TIMEOUT = 3.0  # seconds; after twice as long, another failover may be tried
PERIOD = 0.4  # seconds between two looks at a server, and between two greetings; 10 and 2 by default
FAILOVER_SECONDS = 30.0  # for the slowest: the first attempt failed, and the next one has to wait


class Sentinel(RedisNode):
    """One `redis-server --sentinel`; it rewrites its own configuration file."""

    def __init__(
        self,
        folder: Path,
        configuration: Sequence[str],
        *,
        access: Access = OPEN,
        period: float = PERIOD,
        kind: str = "redis",
    ) -> None:
        super().__init__(folder, access=access, kind=kind)
        self._period = period
        self._file = folder / str(self.port) / "sentinel.conf"
        self._configuration = list(configuration)

    def command(self) -> Sequence[str]:
        if not self._file.exists():
            own = _lines(self.access.options(self.port))
            self._file.write_text("\n".join([f"bind {HOST}", f"dir {self._file.parent}", *own, *self._configuration]))
        return [super().command()[0], str(self._file), "--sentinel"]

    def start(self) -> Self:
        super().start()
        milliseconds = round(self._period * 1000)
        self.call("SENTINEL", "DEBUG", "INFO-PERIOD", milliseconds, "PUBLISH-PERIOD", milliseconds)
        return self

    def primary_port(self) -> int:
        """Where this sentinel says that the primary is."""
        return int(self.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def sees(self) -> dict[str, str]:
        """What this sentinel knows of the primary: `flags`, `num-slaves`, `num-other-sentinels`, …"""
        return _pairs(self.call("SENTINEL", "MASTER", SERVICE))

    def replicas(self) -> list[dict[str, str]]:
        """What this sentinel knows of each replica."""
        return [_pairs(replica) for replica in self.call("SENTINEL", "REPLICAS", SERVICE)]


class SentinelGroup:
    """One primary, its replicas and the sentinels, all on 127.0.0.1.

    `access` is what the data servers demand of clients, `sentinel_access` what the sentinels do; with TLS, both.
    With `period=10.0` a former primary takes writes for as long as in production, 8 to 18 s after a planned failover.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        aof: bool = False,
        down_after: float = DOWN_AFTER,
        period: float = PERIOD,
        access: Access = OPEN,
        sentinel_access: Access | None = None,
        options: Sequence[str] = (),
        kind: str = "redis",
    ) -> None:
        self.access = access
        self.sentinel_access = sentinel_access or Access(
            certificate=access.certificate, client_certificates=access.client_certificates
        )
        self.servers = [
            RedisNode(folder, access=access, aof=aof, options=options, kind=kind) for _ in range(1 + replicas)
        ]
        first = self.servers[0]
        configuration = [
            f"sentinel monitor {SERVICE} {HOST} {first.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT * 1000:.0f}",
            f"sentinel parallel-syncs {SERVICE} {replicas or 1}",
        ]
        if access.admin_password:
            configuration.append(f"sentinel auth-pass {SERVICE} {access.admin_password}")
        if self.sentinel_access.admin_password:
            configuration.append(f"sentinel sentinel-pass {self.sentinel_access.admin_password}")
        self.sentinels = [
            Sentinel(folder, configuration, access=self.sentinel_access, period=period, kind=kind)
            for _ in range(sentinels)
        ]

    @property
    def url(self) -> str:
        """The address for clients, with each sentinel."""
        theirs = self.sentinel_access
        options = {"sentinel_username": theirs.user, "sentinel_password": theirs.password}
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return self.access.url(hosts, "+sentinel", f"/{SERVICE}", **{name: it for name, it in options.items() if it})

    @property
    def processes(self) -> list[RedisNode]:
        return [*self.servers, *self.sentinels]

    def start(self) -> Self:
        """Returns when each sentinel knows the others and each replica."""
        start_all(self.servers)
        primary, *replicas = self.servers
        for replica in replicas:
            replica.call("REPLICAOF", HOST, primary.port)
        await_that("all replicas have links", lambda: all(replica.is_linked() for replica in replicas))
        start_all(self.sentinels)
        self.wait_until_ok()
        self.flush()
        return self

    def stop(self) -> None:
        """End every server and sentinel at once."""
        stop_all(self.processes)

    @property
    def primary(self) -> RedisNode:
        """The server that most sentinels name; raises ServerError if they do not agree."""
        named = [sentinel.primary_port() for sentinel in self.sentinels if sentinel.answers]
        if len(set(named)) != 1:
            raise ServerError(f"the sentinels name {named}")
        return next(server for server in self.servers if server.port == named[0])

    @property
    def replicas(self) -> list[RedisNode]:
        """The other servers, in the order of `servers`."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def is_ok(self) -> bool:
        """Whether all agree on a primary that answers, the others replicate from it, and a failover could follow."""
        answering = [server for server in self.servers if server.answers]
        sentinels = [sentinel for sentinel in self.sentinels if sentinel.answers]
        primary = self.primary
        return (
            primary.answers
            and primary.role() == "master"
            and all(_follows(server, primary) for server in answering if server is not primary)
            and all(sentinel.sees()["flags"] == "master" for sentinel in sentinels)
            and all(int(sentinel.sees()["num-other-sentinels"]) == len(self.sentinels) - 1 for sentinel in sentinels)
            and all(_usable(sentinel) >= len(answering) - 1 for sentinel in sentinels)
        )

    def wait_until_ok(self) -> None:
        """Raises ServerError with what each sentinel sees if they do not agree in time."""
        try:
            await_that("the sentinels agree", self.is_ok, FAILOVER_SECONDS)
        except ServerError as error:
            views = [f"{sentinel} {sentinel.sees()}" for sentinel in self.sentinels if sentinel.answers]
            raise ServerError("\n".join([str(error), *views])) from None

    # Faults

    def failover(self) -> RedisNode:
        """Replace the primary by plan, and return the new one as soon as all sentinels name it.

        Nobody pauses writes: the former primary accepts some until it is demoted (`wait_until_ok`), and loses them.
        """
        former = self.primary
        await_that("a sentinel begins", lambda: self._ask_for_failover(former), FAILOVER_SECONDS)
        return self.wait_for_failover(former)

    def wait_for_failover(self, former: RedisNode) -> RedisNode:
        """Return the server that replaced a primary that a test killed or paused, as soon as all sentinels name it."""

        def replaced() -> bool:
            return self.primary is not former and self.primary.role() == "master"

        await_that(f"{former} is replaced", replaced, FAILOVER_SECONDS)
        return self.primary

    def kill_primary(self) -> RedisNode:
        """End the primary at once, and return it; returns before the sentinels know."""
        primary = self.primary
        primary.kill()
        return primary

    def restart(self, server: RedisNode) -> None:
        """Start a server or a sentinel again; returns when it has its place: a replaced primary is a replica."""
        server.restart()
        self.wait_until_ok()

    def tidy(self) -> None:
        """Undo what tests have done: all run and agree, and no key is left; which server is the primary may differ."""
        for process in self.processes:
            if not process.is_running():
                process.restart()
            elif not process.answers:
                process.resume()
        self.wait_until_ok()
        self.flush()

    def flush(self) -> None:
        """Delete all keys, at the replicas too."""
        self.primary.write("FLUSHALL", copies=sum(replica.answers for replica in self.replicas))

    def _ask_for_failover(self, former: RedisNode) -> bool:
        if self.primary is not former:
            return True
        sentinel = next(sentinel for sentinel in self.sentinels if sentinel.answers)
        try:
            return bool(sentinel.call("SENTINEL", "FAILOVER", SERVICE) == "OK")
        except ResponseError:  # INPROG, NOGOODSLAVE: it had no INFO of a replica yet
            return False


class MakeSentinels(Protocol):
    """The fixture `make_sentinels`."""

    def __call__(
        self,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        aof: bool = False,
        down_after: float = DOWN_AFTER,
        period: float = PERIOD,
        access: Access = OPEN,
        sentinel_access: Access | None = None,
        options: Sequence[str] = (),
        kind: str = "redis",
    ) -> SentinelGroup: ...


def _follows(server: RedisNode, primary: RedisNode) -> bool:
    replication = server.info("replication")
    return (
        replication["role"] == "slave"
        and replication["master_port"] == str(primary.port)
        and replication["master_link_status"] == "up"
    )


def _usable(sentinel: Sentinel) -> int:
    """How many replicas a sentinel would promote."""
    return sum(replica["flags"] == "slave" and replica["master-link-status"] == "ok" for replica in sentinel.replicas())


def _pairs(reply: list[Any]) -> dict[str, str]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _lines(options: Sequence[str]) -> list[str]:
    """Arguments of a server as lines of a configuration file."""
    lines: list[str] = []
    for word in options:
        if word.startswith("--"):
            lines.append(word[2:])
        else:
            lines[-1] += f' "{word}"' if word else ' ""'
    return lines
