"""Connections to Redis serve one call at a time: no call reads another call's replies, and none outlives its pool."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import uvloop
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Position, Start
from tidewire.model.event import Event
from tidewire.protocol.sse import DATA
from tidewire.transports.base import Log
from tidewire.transports.errors import ConnectionClosed, ConnectionLost, StoreError
from tidewire.transports.redis.address import Address, Command
from tidewire.transports.redis.connection import Connection
from tidewire.transports.redis.pool import CONNECTIONS, ConnectionPool
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import at, head, read
from tests.contract.stores import RedisStore
from tests.support.certificates import certify
from tests.support.processes import HOST, MakeRedis
from tests.support.redis_node import Access, RedisNode
from tests.support.sinks import subscribed
from tests.support.waiting import eventually, spin

STEPS = 40  # iterations of the event loop: more than a call takes
BLOCKED: list[Command] = [["ECHO", "read"], ["BLPOP", "never", "0"], ["ECHO", "not read"]]


@pytest.fixture
async def connections(redis_url: str) -> AsyncIterator[ConnectionPool]:
    connections = ConnectionPool(Address.parse(redis_url))
    yield connections
    await connections.aclose()


def opened(blocking_redis: redis.Redis) -> set[str]:
    """Return the ids of all connections but this client's own."""
    return {client["id"] for client in blocking_redis.client_list()} - {str(blocking_redis.client_id())}


async def blocked(connections: ConnectionPool, blocking_redis: redis.Redis) -> asyncio.Task[list[object]]:
    """Start a call that has read one reply and waits for the next."""
    call = asyncio.create_task(connections.send(BLOCKED))
    await eventually(lambda: any(client["cmd"] == "blpop" for client in blocking_redis.client_list()))
    return call


async def test_a_call_cancelled_between_replies_leaves_none_behind(
    connections: ConnectionPool, blocking_redis: redis.Redis
) -> None:
    before = opened(blocking_redis)
    call = await blocked(connections, blocking_redis)
    (half_read,) = opened(blocking_redis) - before
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    blocking_redis.rpush("never", "a value")  # now Redis answers the blocked command, and the one after it
    assert await connections.send([["ECHO", "own"]]) == [b"own"]
    await eventually(lambda: half_read not in opened(blocking_redis))
    assert len(opened(blocking_redis) - before) == 1


async def test_after_a_cancelled_call_the_next_reads_its_own_replies(connections: ConnectionPool) -> None:
    ended = 0
    for step in range(STEPS):
        call = asyncio.create_task(connections.send([["ECHO", f"{step}-{n}"] for n in range(3)]))
        await spin(step)
        ended += not call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await connections.send([["ECHO", f"after-{step}"]]) == [b"after-%d" % step]
    assert ended < STEPS, "no call was cancelled"
    replies = await asyncio.gather(*(connections.send([["ECHO", str(n)]]) for n in range(2 * CONNECTIONS)))
    assert replies == [[b"%d" % n] for n in range(2 * CONNECTIONS)], "a place in the pool was lost"


async def test_closing_ends_a_running_call_and_its_connection(
    connections: ConnectionPool, blocking_redis: redis.Redis
) -> None:
    before = opened(blocking_redis)
    call = await blocked(connections, blocking_redis)
    await connections.aclose()
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(call, 5)
    await eventually(lambda: opened(blocking_redis) <= before)


async def test_closing_at_any_step_of_a_call_leaves_no_connection(redis_url: str, blocking_redis: redis.Redis) -> None:
    before = opened(blocking_redis)
    for step in range(STEPS):
        connections = ConnectionPool(Address.parse(redis_url))
        call = asyncio.create_task(connections.send([["ECHO", "a"], ["ECHO", "b"]]))
        await spin(step)
        await connections.aclose()
        answer = (await asyncio.gather(call, return_exceptions=True))[0]
        assert answer == [b"a", b"b"] or isinstance(answer, ConnectionClosed), answer
    await eventually(lambda: opened(blocking_redis) <= before)


async def test_waiting_and_later_calls_raise_connection_closed(
    connections: ConnectionPool, blocking_redis: redis.Redis
) -> None:
    before = opened(blocking_redis)
    calls = [asyncio.create_task(connections.send(BLOCKED)) for _ in range(CONNECTIONS + 4)]
    await eventually(lambda: sum(client["cmd"] == "blpop" for client in blocking_redis.client_list()) == CONNECTIONS)
    await connections.aclose()
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert {type(answer) for answer in answers} == {ConnectionClosed}
    with pytest.raises(StoreError, match="the connections to Redis were closed"):
        await connections.send([["PING"]])
    await eventually(lambda: opened(blocking_redis) <= before)


async def test_a_publish_after_close_opens_no_connection(redis_url: str, blocking_redis: redis.Redis) -> None:
    before = opened(blocking_redis)
    log = RedisStreams(redis_url)
    await log.publish([Event("id", "t", b"1")])
    await log.aclose()
    accepted = blocking_redis.info("stats")["total_connections_received"]
    with pytest.raises(TransportUnavailable, match="ConnectionClosed"):
        await log.publish([Event("late", "t", b"1")])
    assert blocking_redis.info("stats")["total_connections_received"] == accepted
    await eventually(lambda: opened(blocking_redis) <= before)


def test_writing_to_a_closed_connection_under_uvloop(redis_url: str) -> None:
    """Uvloop raises RuntimeError on such a write; the pool sends again only after a ConnectionLost."""

    async def write() -> None:
        connection = Connection(Address.parse(redis_url))
        await connection.connect(5.0)
        connection.close()
        with pytest.raises(ConnectionLost):
            await connection.call([["PING"]], 5.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write())


NEWCOMER = (Interest(), Start(), DATA)


async def test_closing_during_reads_leaves_no_connection(
    redis_store: RedisStore,
) -> None:
    await redis_store.client.client_setname("witness")
    deadline = asyncio.get_running_loop().time() + 5
    before = asyncio.all_tasks()
    hub = Hub(redis_store.open())
    async with subscribed(hub) as sink:
        await sink.ready()
        await redis_store.client.client_pause(400)
        coming = [asyncio.create_task(hub.add(*NEWCOMER)) for _ in range(5)]
        reading = asyncio.create_task(read(hub_log(hub), at(Position(1, 0)), at(Position(1, 5))))
        await asyncio.sleep(0.05)  # they should have sent their commands; otherwise the test is only easier
        for task in (*coming, reading):
            task.cancel()
        await asyncio.gather(*coming, reading, return_exceptions=True)
        await hub.aclose()
    assert asyncio.all_tasks() == before  # nothing is left that could connect again
    clients = await redis_store.client.client_list()
    while len(clients) > 1 and asyncio.get_running_loop().time() < deadline:  # the server notices a little later
        clients = await redis_store.client.client_list()
    assert [client["name"] for client in clients] == ["witness"]


def hub_log(hub: Hub) -> Log:
    assert isinstance(hub.transport, Log)
    return hub.transport


async def test_an_outage_accepts_nothing(make_redis: MakeRedis) -> None:
    """Each call fails, in bounded time, and with an error that has neither the password nor the address."""
    server = await asyncio.to_thread(make_redis)
    log = RedisStreams(server.url.replace("redis://", "redis://user:hunter2@"))
    await asyncio.to_thread(server.kill)
    async with Hub(log) as hub:
        for attempt in (
            log.publish([Event("refused", "t", b"1")]),
            log.head(("all",)),
            log.seek(("all",), None),
            log.ping(),
            hub.add(*NEWCOMER),
        ):
            with pytest.raises(TransportUnavailable) as caught:
                async with asyncio.timeout(10):
                    await attempt
            assert "hunter2" not in str(caught.value)
            assert "127.0.0.1" not in str(caught.value)
        assert hub.fanout.positions == {}
        assert hub.subscribers == set()
    await asyncio.to_thread(server.start)
    async with Hub(RedisStreams(server.url)) as hub:
        assert (await head(hub_log(hub))).offset == 0


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port at which `serve` answers; at the end all of its connections have ended."""
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await serve(reader, writer)
        await closed(writer)

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(answer(reader, writer)))

    async with await asyncio.start_server(begin, HOST, 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.gather(*tasks)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def tls_before(port: int, certificate: Path) -> AsyncIterator[int]:
    """A port that speaks TLS, with the server at `port` behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certify(certificate))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        await closed(writer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection(HOST, port)
        await asyncio.gather(pass_on(reader, behind[1]), pass_on(behind[0], writer))

    async with serving(serve, context) as own:
        yield own


async def test_over_tls_only_a_trusted_server_gets_the_password(redis_url: str, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    redis_port = urlsplit(redis_url).port
    assert redis_port is not None
    async with tls_before(redis_port, certificate) as port:
        for url, trusted in (
            (f"rediss://{HOST}:{port}/1", False),
            (f"rediss://{HOST}:{port}/1?ssl_ca_certs={certificate}", True),
            (f"rediss://{HOST}:{port}/1?ssl_cert_reqs=none", True),
        ):
            connections = ConnectionPool(Address.parse(url))
            if trusted:
                assert await connections.send([["ECHO", "a"]]) == [b"a"]
            else:
                with pytest.raises(ConnectionLost, match="SSLCertVerificationError"):
                    await connections.send([["ECHO", "a"]])
            await connections.aclose()


async def test_a_server_may_demand_a_client_certificate(tmp_path: Path) -> None:
    access = Access.over_tls(tmp_path, password="pw", client_certificates=True)
    without = Access(password="pw", certificate=access.certificate)
    server = await asyncio.to_thread(RedisNode(tmp_path, access=access).start)
    try:
        for client, accepted in ((access, True), (without, False)):
            url = client.url(server.address)
            connections = ConnectionPool(Address.parse(url))
            if accepted:
                assert await connections.send([["ECHO", "a"]]) == [b"a"]
            else:
                with pytest.raises(ConnectionLost):
                    await connections.send([["ECHO", "a"]])
            await connections.aclose()
    finally:
        await asyncio.to_thread(server.stop)


async def test_the_user_and_the_database_of_the_url_are_used(redis_url: str, blocking_redis: redis.Redis) -> None:
    blocking_redis.acl_setuser("ann", enabled=True, passwords=["+p:w"], keys="*", commands=["+@all"])
    port = urlsplit(redis_url).port
    connections = ConnectionPool(Address.parse(f"redis://ann:p%3Aw@{HOST}:{port}/3"))
    assert await connections.send([["ACL", "WHOAMI"], ["SET", "here", 1]]) == [b"ann", b"OK"]
    assert blocking_redis.exists("here") == 0
    assert await connections.send([["DEL", "here"]]) == [1]
    await connections.aclose()


async def test_an_error_names_a_database_that_does_not_exist(redis_url: str) -> None:
    """The server's answer is an ERR without a code of its own."""
    log = RedisStreams(f"{redis_url}/99")
    with pytest.raises(TransportUnavailable, match="the server has no database 99, which REDIS_URL names"):
        await log.publish([Event("id", "t", b"1")])
    await log.aclose()


async def test_an_error_for_a_wrong_password_has_the_code_only(redis_url: str) -> None:
    port = urlsplit(redis_url).port
    log = RedisStreams(f"redis://ann:hunter2@{HOST}:{port}")
    with pytest.raises(TransportUnavailable, match=r"\b(WRONGPASS|NOAUTH)\b") as caught:
        await log.publish([Event("id", "t", b"1")])
    assert "hunter2" not in caught.value.detail
    await log.aclose()


async def test_a_call_without_commands_returns_at_once(connections: ConnectionPool) -> None:
    async with asyncio.timeout(2):
        assert await connections.send([]) == []


class Answering:
    """A server that answers each request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            self.asked += 1
            writer.write(self.answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ConnectionPool]:
        async with serving(self.serve) as port:
            connections = ConnectionPool(Address.parse(f"redis://{HOST}:{port}"))
            yield connections
            await connections.aclose()


@pytest.mark.parametrize(
    ("answer", "asked"),
    [(b"-LOADING Redis is loading the dataset in memory\r\n", 3), (b"HTTP/1.1 400 Bad Request\r\n\r\n", 3)],
    ids=["loading", "not-redis"],
)
async def test_an_error_quotes_no_server_that_is_not_ready(answer: bytes, asked: int) -> None:
    server = Answering(answer)
    async with server.running() as connections:
        with pytest.raises(ConnectionLost) as caught:
            await connections.send([["PING"]])
    assert server.asked == asked
    assert not {"HTTP", "dataset"} & set(str(caught.value).split())


async def test_more_replies_than_commands_are_an_error() -> None:
    async with Answering(b"+one\r\n+two\r\n").running() as connections:
        with pytest.raises(ConnectionLost, match="more replies than commands"):
            await connections.send([["PING"]])
