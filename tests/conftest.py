"""Fixtures for every test: real servers, started for the first test that uses one."""

import os
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio
from hypothesis import Phase, settings

from tests.contract.stores import PostgresStore, PubSubStore, RedisStore, UpstashStore
from tests.support.postgres_server import make_postgres, postgres_database, postgres_server, postgres_url  # noqa: F401 — fixtures
from tests.support.processes import Instance, MakeInstance, MakeRedis, RedisServer, ServerProcess, StartInstance
from tests.support.redis_cluster import MakeCluster, RedisCluster
from tests.support.sentinel import MakeSentinels, SentinelGroup
from tests.support.upstash_stand_in import StandIn

# A time limit for one example would measure how busy the machine is; pytest-timeout bounds a test.
settings.register_profile("tidewire", deadline=None, print_blob=True)
# For scripts/mutate: the same examples for each mutant, and a mutant is killed by the first that fails.
settings.register_profile(
    "mutants",
    settings.get_profile("tidewire"),
    derandomize=True,
    max_examples=40,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("tidewire")

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

Server = TypeVar("Server", bound=ServerProcess)

_started = pytest.StashKey[list[ServerProcess]]()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """This worker's Redis, which no other worker sees; tests share it, so none may break it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    with ExitStack() as stack:
        stack.callback(server.stop)
        yield server.start()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The shared Redis, emptied."""
    assert redis_server.ask("FLUSHALL") == "+OK"
    return redis_server.url


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """This worker's Valkey, as `redis_server`."""
    server = RedisServer(tmp_path_factory.mktemp("valkey"), kind="valkey")
    with ExitStack() as stack:
        stack.callback(server.stop)
        yield server.start()


@pytest.fixture
def valkey_url(valkey_server: RedisServer) -> str:
    """The shared Valkey, emptied."""
    assert valkey_server.ask("FLUSHALL") == "+OK"
    return valkey_server.url


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the shared Redis."""
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def blocking_redis(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the shared Redis whose methods block."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def redis_store(redis_url: str) -> AsyncIterator[RedisStore]:
    """A log in the shared Redis."""
    store = RedisStore(redis_url)
    yield store
    await store.aclose()


@pytest.fixture
async def pubsub_store(redis_url: str) -> AsyncIterator[PubSubStore]:
    """Pub/Sub on the shared Redis."""
    store = PubSubStore(redis_url)
    yield store
    await store.aclose()


@pytest.fixture
async def postgres_store(postgres_url: str) -> AsyncIterator[PostgresStore]:  # noqa: F811 — the fixture imported above
    """A log in the shared Postgres."""
    store = PostgresStore(postgres_url)
    yield store
    await store.aclose()


@pytest.fixture
def upstash(redis_server: RedisServer, redis_url: str) -> Iterator[StandIn]:
    """Upstash's REST API, over the shared Redis, emptied."""
    with StandIn(redis_server.port) as stand_in:
        yield stand_in


@pytest.fixture
async def upstash_store(redis_url: str, upstash: StandIn) -> AsyncIterator[UpstashStore]:
    """A log in the shared Redis, reached over REST."""
    store = UpstashStore(redis_url, upstash)
    yield store
    await store.aclose()


@pytest.fixture
def make_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeRedis]:
    """Starts a Redis for this test alone, to be killed, paused and restarted."""
    with ExitStack() as stack:

        def make(*, aof: bool = True, options: Sequence[str] = (), kind: str = "redis") -> RedisServer:
            server = RedisServer(tmp_path_factory.mktemp(kind), aof=aof, options=options, kind=kind)
            return _start(server, stack, request)

        yield make


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """This worker's cluster; a test takes it as `redis_cluster`."""
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    with ExitStack() as stack:
        stack.callback(cluster.stop)
        yield cluster.start()


@pytest.fixture
def redis_cluster(request: pytest.FixtureRequest, shared_cluster: RedisCluster) -> RedisCluster:
    """The shared cluster, empty and as it was at the start.

    A test may move slots and fail over; for anything worse, `make_cluster`.
    """
    request.node.stash.setdefault(_started, []).extend(shared_cluster.nodes)
    shared_cluster.tidy()
    return shared_cluster


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCluster]:
    """Starts a cluster for this test alone, to be broken."""
    with ExitStack() as stack:

        def make(**options: Any) -> RedisCluster:
            cluster = RedisCluster(tmp_path_factory.mktemp("cluster"), **options)
            request.node.stash.setdefault(_started, []).extend(cluster.nodes)
            stack.callback(cluster.stop)
            return cluster.start()

        yield make


@pytest.fixture(scope="session")
def shared_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """This worker's sentinels; a test takes them as `sentinel_group`."""
    group = SentinelGroup(tmp_path_factory.mktemp("sentinel"))
    with ExitStack() as stack:
        stack.callback(group.stop)
        yield group.start()


@pytest.fixture
def sentinel_group(request: pytest.FixtureRequest, shared_sentinels: SentinelGroup) -> SentinelGroup:
    """The shared sentinels, all up, with an empty primary; which server that is may differ from test to test.

    A test may fail over; for anything worse, `make_sentinels`.
    """
    request.node.stash.setdefault(_started, []).extend(shared_sentinels.processes)
    shared_sentinels.tidy()
    return shared_sentinels


@pytest.fixture
def make_sentinels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSentinels]:
    """Starts servers and sentinels for this test alone, to be broken."""
    with ExitStack() as stack:

        def make(**options: Any) -> SentinelGroup:
            group = SentinelGroup(tmp_path_factory.mktemp("sentinel"), **options)
            request.node.stash.setdefault(_started, []).extend(group.processes)
            stack.callback(group.stop)
            return group.start()

        yield make


@pytest.fixture(scope="session")
def start_instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartInstance]:
    """Starts an instance that several tests share: it runs until the session ends."""
    with ExitStack() as stack:
        started: list[Instance] = []

        def start(settings: Mapping[str, str], command: Sequence[str] = ()) -> Instance:
            started.append(Instance(tmp_path_factory.mktemp("instance"), settings, command=command))
            stack.callback(started[-1].stop)
            return started[-1].start()

        yield start
        for instance in started:
            instance.terminate()  # all at once; then each is waited for


@pytest.fixture
def make_instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeInstance]:
    """Starts a Tidewire with these settings: `make_instance(REALTIME_RETENTION="1s")`."""
    with ExitStack() as stack:
        started: list[Instance] = []

        def make(**settings: str) -> Instance:
            started.append(Instance(tmp_path_factory.mktemp("instance"), settings))
            return _start(started[-1], stack, request)

        yield make
        for instance in started:
            instance.terminate()  # all at once; then each is waited for


def _start(server: Server, stack: ExitStack, request: pytest.FixtureRequest) -> Server:
    request.node.stash.setdefault(_started, []).append(server)
    stack.callback(server.stop)
    return server.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure is reported as skipped too; it ran, unless the reason begins with [NOTRUN].
    if IN_CI and report.skipped and getattr(report, "wasxfail", "[NOTRUN]").startswith("[NOTRUN]"):
        _fail_instead_of_skip(report)
    if report.failed:
        for server in item.stash.get(_started, []):
            report.sections.append((f"log of {server.log_file.name}", server.log()))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped:
        _fail_instead_of_skip(report)
    return report


def _fail_instead_of_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """CI has all that the tests need: a test skipped there is a promise that nobody checked."""
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"skipped, which counts as failed where CI is set: {reason}"
    if hasattr(report, "wasxfail"):
        del report.wasxfail
