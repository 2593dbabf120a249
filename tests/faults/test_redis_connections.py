"""ConnectionPool to Redis that are used one call at a time: no call reads another's replies, and closed is closed."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.transports.errors import ConnectionClosed, ConnectionLost, StoreError
from tidewire.transports.redis.connection import Address, Command
from tidewire.transports.redis.pool import CONNECTIONS, ConnectionPool
from tidewire.transports.redis.streams import RedisStreams

from tests.support.certificates import certify
from tests.support.processes import HOST
from tests.support.waiting import eventually

STEPS = 40  # turns of the loop: more than a call takes from its start to its last reply
BLOCKED: list[Command] = [["ECHO", "read"], ["BLPOP", "never", "0"], ["ECHO", "not read"]]


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def connections(redis_url: str) -> AsyncIterator[ConnectionPool]:
    connections = ConnectionPool(Address.parse(redis_url))
    yield connections
    await connections.aclose()


def opened(server: redis.Redis) -> set[str]:
    """The ids of all connections but the one that asks."""
    return {client["id"] for client in server.client_list()} - {str(server.client_id())}


async def blocked(connections: ConnectionPool, server: redis.Redis) -> asyncio.Task[list[object]]:
    """A call of which one reply was read and the next does not come."""
    call = asyncio.create_task(connections.send(BLOCKED))
    await eventually(lambda: any(client["cmd"] == "blpop" for client in server.client_list()))
    return call


async def test_a_call_that_was_cancelled_between_two_replies_leaves_the_rest_of_them_to_nobody(
    connections: ConnectionPool, server: redis.Redis
) -> None:
    before = opened(server)
    call = await blocked(connections, server)
    (half_read,) = opened(server) - before
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    server.rpush("never", "a value")  # the blocked command answers now, and the one after it
    assert await connections.send([["ECHO", "own"]]) == [b"own"]
    await eventually(lambda: half_read not in opened(server))
    assert len(opened(server) - before) == 1


async def test_wherever_a_call_is_cancelled_the_next_one_reads_its_own_replies(connections: ConnectionPool) -> None:
    ended = 0
    for step in range(STEPS):
        call = asyncio.create_task(connections.send([["ECHO", f"{step}-{n}"] for n in range(3)]))
        for _ in range(step):
            await asyncio.sleep(0)
        ended += not call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await connections.send([["ECHO", f"after-{step}"]]) == [b"after-%d" % step]
    assert ended < STEPS, "some were cancelled"
    replies = await asyncio.gather(*(connections.send([["ECHO", str(n)]]) for n in range(2 * CONNECTIONS)))
    assert replies == [[b"%d" % n] for n in range(2 * CONNECTIONS)], "and no turn was lost"


async def test_to_close_ends_a_call_that_is_under_way_and_its_connection(
    connections: ConnectionPool, server: redis.Redis
) -> None:
    before = opened(server)
    call = await blocked(connections, server)
    await connections.aclose()
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(call, 5)
    await eventually(lambda: opened(server) <= before)


async def test_wherever_a_call_is_when_it_is_closed_no_connection_is_left_or_opened(
    redis_url: str, server: redis.Redis
) -> None:
    before = opened(server)
    for step in range(STEPS):
        connections = ConnectionPool(Address.parse(redis_url))
        call = asyncio.create_task(connections.send([["ECHO", "a"], ["ECHO", "b"]]))
        for _ in range(step):
            await asyncio.sleep(0)
        await connections.aclose()
        answer = (await asyncio.gather(call, return_exceptions=True))[0]
        assert answer == [b"a", b"b"] or isinstance(answer, ConnectionClosed), answer
    await eventually(lambda: opened(server) <= before)


async def test_calls_that_wait_for_their_turn_and_those_that_come_later_are_told_that_it_is_closed(
    connections: ConnectionPool, server: redis.Redis
) -> None:
    before = opened(server)
    calls = [asyncio.create_task(connections.send(BLOCKED)) for _ in range(CONNECTIONS + 4)]
    await eventually(lambda: sum(client["cmd"] == "blpop" for client in server.client_list()) == CONNECTIONS)
    await connections.aclose()
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert {type(answer) for answer in answers} == {ConnectionClosed}
    with pytest.raises(StoreError, match="the connections to Redis were closed"):
        await connections.send([["PING"]])
    await eventually(lambda: opened(server) <= before)


async def test_a_publisher_that_is_late_hears_503_and_nothing_is_opened_for_it(
    redis_url: str, server: redis.Redis
) -> None:
    before = opened(server)
    log = RedisStreams(redis_url)
    await log.publish([Event("id", "t", b"1")])
    await log.aclose()
    accepted = server.info("stats")["total_connections_received"]
    with pytest.raises(TransportUnavailable, match="ConnectionClosed"):
        await log.publish([Event("late", "t", b"1")])
    assert server.info("stats")["total_connections_received"] == accepted
    await eventually(lambda: opened(server) <= before)


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


async def test_over_tls_only_a_server_that_is_trusted_hears_the_password(redis_url: str, tmp_path: Path) -> None:
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


async def test_a_database_and_a_user_of_ones_own_are_asked_for_first(redis_url: str, server: redis.Redis) -> None:
    server.acl_setuser("ann", enabled=True, passwords=["+p:w"], keys="*", commands=["+@all"])
    port = urlsplit(redis_url).port
    connections = ConnectionPool(Address.parse(f"redis://ann:p%3Aw@{HOST}:{port}/3"))
    assert await connections.send([["ACL", "WHOAMI"], ["SET", "here", 1]]) == [b"ann", b"OK"]
    assert server.exists("here") == 0
    assert await connections.send([["DEL", "here"]]) == [1]
    await connections.aclose()


async def test_a_database_that_the_server_does_not_have_is_named(redis_url: str) -> None:
    """The server's answer is an ERR without a code of its own."""
    log = RedisStreams(f"{redis_url}/99")
    with pytest.raises(TransportUnavailable, match="the server has no database 99, which REDIS_URL names"):
        await log.publish([Event("id", "t", b"1")])
    await log.aclose()


async def test_a_wrong_password_is_told_by_redis_code_alone(redis_url: str) -> None:
    port = urlsplit(redis_url).port
    log = RedisStreams(f"redis://ann:hunter2@{HOST}:{port}")
    with pytest.raises(TransportUnavailable, match=r"\b(WRONGPASS|NOAUTH)\b") as caught:
        await log.publish([Event("id", "t", b"1")])
    assert "hunter2" not in caught.value.detail
    await log.aclose()


async def test_no_commands_are_answered_at_once_and_not_waited_for(connections: ConnectionPool) -> None:
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
async def test_a_server_that_is_not_ready_or_not_redis_is_away_and_its_words_are_not_told(
    answer: bytes, asked: int
) -> None:
    server = Answering(answer)
    async with server.running() as connections:
        with pytest.raises(ConnectionLost) as caught:
            await connections.send([["PING"]])
    assert server.asked == asked
    assert not {"HTTP", "dataset"} & set(str(caught.value).split())


async def test_a_reply_that_nobody_asked_for_is_given_to_nobody() -> None:
    async with Answering(b"+one\r\n+two\r\n").running() as connections:
        with pytest.raises(ConnectionLost, match="more replies than commands"):
            await connections.send([["PING"]])
