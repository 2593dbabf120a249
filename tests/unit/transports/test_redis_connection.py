"""One connection to Redis, against a server in this process that behaves as a test says."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Self, cast

import pytest
from tidewire.transports.errors import CommandError, ConnectionLost, NotServing, ReadTimeout
from tidewire.transports.redis.address import Address
from tidewire.transports.redis.connection import Connection
from tidewire.transports.sockets import SOCKET_OPTIONS

from tests.support.clocks import virtual_time
from tests.support.scripted_redis import HANG_UP, SILENCE, Answer, Peer, Raw, Reply, ScriptedRedis

ADDRESS = Address.parse("redis://h:7")
UNENCRYPTED = {"ssl": None}


def always(reply: Reply) -> Answer:
    return lambda *_: reply


async def connected(answer: Answer, url: str = "redis://h:7") -> tuple[Connection, ScriptedRedis]:
    redis = ScriptedRedis(answer).install()
    connection = Connection(Address.parse(url))
    await connection.connect(5)
    return connection, redis


def now() -> float:
    return asyncio.get_running_loop().time()


class Passed:
    """Measures the seconds of a block."""

    def __enter__(self) -> Self:
        self._start = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = now() - self._start


@virtual_time
async def test_replies_are_in_the_order_of_the_commands() -> None:
    replies = {b"A": b"one", b"B": CommandError("OOM no memory"), b"C": [1, None, [b"x"]]}
    connection, redis = await connected(lambda _, command: replies[command[0]])
    one, refused, three = await connection.call([["A", "é", 5], ["B"], ["C", b"\xff"]], 1)
    assert (one, three) == (b"one", [1, None, [b"x"]])
    assert isinstance(refused, CommandError)
    assert refused.code == "OOM"
    (peer,) = redis.opened
    assert peer.commands == [[b"A", "é".encode(), b"5"], [b"B"], [b"C", b"\xff"]]
    assert peer.writes == 1, "not one round trip"
    assert await connection.call([["A"]], 1) == [b"one"]


@virtual_time
async def test_a_reply_may_come_in_pieces() -> None:
    def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
        for piece in (b"$", b"3\r", b"\nab", b"c\r\n"):
            peer.send(Raw(piece))
        return SILENCE

    connection, _ = await connected(answer)
    assert await connection.call([["A"]], 1) == [b"abc"]


@virtual_time
async def test_a_connection_is_usable_while_it_is_open() -> None:
    ScriptedRedis(always("OK")).install()
    connection = Connection(ADDRESS)
    found = [connection.usable]
    await connection.connect(5)
    found.append(connection.usable)
    connection.close()
    assert [*found, connection.usable] == [False, True, False]


@virtual_time
async def test_a_connection_closed_while_it_opens_is_not_used() -> None:
    """A failover while it opened: it leads to the old primary."""
    redis = ScriptedRedis(always("OK")).install()
    redis.delay = 1
    connection = Connection(ADDRESS)
    opening = asyncio.create_task(connection.connect(5))
    await asyncio.sleep(0.5)
    connection.close()
    with pytest.raises(ConnectionLost):
        await opening
    assert redis.opened[0].is_closing()
    assert redis.opened[0].commands == []


@pytest.mark.parametrize("opened", [True, False])
def test_a_closed_connection_is_not_written_to(opened: bool) -> None:
    @virtual_time
    async def run() -> None:
        redis = ScriptedRedis(always("OK")).install()
        connection = Connection(ADDRESS)
        if opened:
            await connection.connect(5)
            redis.opened[0].hang_up()
        with pytest.raises(ConnectionLost) as caught:
            await connection.call([["A"]], 1)
        assert str(caught.value) == "closed"

    run()


@virtual_time
async def test_a_socket_is_kept_alive() -> None:
    options: list[tuple[int, int, int]] = []

    class Socket:
        family = socket.AF_INET

        def setsockopt(self, *option: int) -> None:
            options.append(cast(tuple[int, int, int], option))

    class Open(Peer):
        def get_extra_info(self, name: str) -> object:  # type: ignore[override]  # one parameter suffices here
            return Socket() if name == "socket" else None

    connection = Connection(ADDRESS)
    connection.connection_made(cast(asyncio.Transport, Open(ScriptedRedis(always("OK")), connection)))
    assert options == SOCKET_OPTIONS


@virtual_time
async def test_a_host_or_a_path_is_connected_to() -> None:
    _, redis = await connected(always("OK"))
    assert redis.opened[0].address == ("h", 7, UNENCRYPTED)
    _, redis = await connected(always("OK"), "unix:///run/redis.sock")
    assert redis.opened[0].address == ("/run/redis.sock",)
    _, redis = await connected(always("OK"), "rediss://h:7")
    options = redis.opened[0].address[2]
    assert isinstance(options["ssl"], ssl.SSLContext)


@virtual_time
async def test_a_connection_that_does_not_open_times_out() -> None:
    redis = ScriptedRedis(always("OK")).install()
    redis.delay = 60
    with Passed() as passed, pytest.raises(ReadTimeout) as caught:
        await Connection(ADDRESS).connect(3)
    assert str(caught.value) == "no connection in time"
    assert passed.seconds == 3


@virtual_time
async def test_the_reason_of_a_failed_connection_is_its_type_alone() -> None:
    """The text of an OSError may hold the address."""
    redis = ScriptedRedis(always("OK")).install()
    redis.failure = ConnectionRefusedError("hunter2")
    with pytest.raises(ConnectionLost) as caught:
        await Connection(ADDRESS).connect(3)
    assert str(caught.value) == "ConnectionRefusedError"
    assert caught.value.__cause__ is redis.failure


@virtual_time
async def test_credentials_and_database_come_before_any_command() -> None:
    _, redis = await connected(always("OK"), "redis://u:p@h/3")
    assert redis.opened[0].commands == [[b"AUTH", b"u", b"p"], [b"SELECT", b"3"]]
    assert redis.opened[0].writes == 1


@pytest.mark.parametrize(
    ("refused", "reply", "error", "text"),
    [
        (b"AUTH", "WRONGPASS invalid", NotServing, "WRONGPASS"),
        (b"AUTH", "ERR invalid password", NotServing, "ERR"),
        (b"SELECT", "NOAUTH Authentication required", NotServing, "NOAUTH"),
        (
            b"SELECT",
            "ERR DB index is out of range",
            ConnectionLost,
            "the server has no database 3, which REDIS_URL names",
        ),
    ],
)
def test_a_refused_handshake_closes_the_connection(
    refused: bytes, reply: str, error: type[Exception], text: str
) -> None:
    @virtual_time
    async def run() -> None:
        redis = ScriptedRedis(lambda _, command: Exception(reply) if command[0] == refused else "OK").install()
        connection = Connection(Address.parse("redis://:p@h/3"))
        with pytest.raises(error) as caught:
            await connection.connect(5)
        assert type(caught.value) is error
        assert str(caught.value) == text
        assert redis.opened[0].is_closing()
        assert not connection.usable

    run()


@virtual_time
async def test_a_silent_handshake_times_out() -> None:
    ScriptedRedis(always(SILENCE)).install()
    with Passed() as passed, pytest.raises(ReadTimeout):
        await Connection(Address.parse("redis://:p@h")).connect(3)
    assert passed.seconds == 3


@pytest.mark.parametrize(("first", "seconds"), [(None, 4), (2, 2), (0, 0)])
def test_a_silent_server_times_out(first: float | None, seconds: float) -> None:
    @virtual_time
    async def run() -> None:
        connection, redis = await connected(always(SILENCE))
        with Passed() as passed, pytest.raises(ReadTimeout) as caught:
            await connection.call([["A"]], 4, first=first)
        assert str(caught.value) == "no answer in time"
        assert passed.seconds == seconds
        assert redis.opened[0].is_closing(), "a late reply would be read as that of the next command"

    run()


@virtual_time
async def test_each_byte_extends_the_time_for_the_next_one() -> None:
    """A large reply may take longer than a time-out; silence may not."""

    def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
        loop = asyncio.get_running_loop()
        for second, piece in ((1.5, b"$3\r\n"), (5, b"a"), (8.5, b"b")):
            loop.call_later(second, peer.send, Raw(piece))
        return SILENCE

    connection, _ = await connected(answer)
    with Passed() as passed, pytest.raises(ReadTimeout):
        await connection.call([["A"]], 4, first=2)
    assert passed.seconds == 12.5


@virtual_time
async def test_the_time_of_one_call_is_not_that_of_the_next() -> None:
    connection, _ = await connected(lambda _, command: SILENCE if command[0] == b"B" else b"x")
    await connection.call([["A"]], 1)
    with Passed() as passed, pytest.raises(ReadTimeout):
        await connection.call([["B"]], 7)
    assert passed.seconds == 7


@pytest.mark.parametrize(("error", "text"), [(None, "EOF"), (ConnectionResetError("hunter2"), "ConnectionResetError")])
def test_a_lost_connection_ends_the_call(error: Exception | None, text: str) -> None:
    @virtual_time
    async def run() -> None:
        def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
            peer.hang_up(error)
            return SILENCE

        connection, _ = await connected(answer)
        with pytest.raises(ConnectionLost) as caught:
            await connection.call([["A"]], 1)
        assert str(caught.value) == text

    run()


@virtual_time
async def test_a_connection_that_is_lost_between_calls_is_not_usable() -> None:
    connection, redis = await connected(always("OK"))
    await connection.call([["A"]], 1)
    redis.opened[0].hang_up()
    await asyncio.sleep(0)
    assert not connection.usable


@virtual_time
async def test_a_server_that_speaks_no_resp_is_left() -> None:
    connection, redis = await connected(always(Raw(b"HTTP/1.1 400 hunter2\r\n")))
    with pytest.raises(ConnectionLost) as caught:
        await connection.call([["A"]], 1)
    assert str(caught.value) == "not a Redis server"
    assert redis.opened[0].is_closing()


@virtual_time
async def test_more_replies_than_commands_end_the_call() -> None:
    """The next caller would take the surplus for its own replies."""
    connection, redis = await connected(always(Raw(b"+a\r\n+b\r\n")))
    with pytest.raises(ConnectionLost) as caught:
        await connection.call([["A"]], 1)
    assert str(caught.value) == "more replies than commands"
    assert redis.opened[0].is_closing()


@virtual_time
async def test_a_reply_without_a_command_closes_the_connection() -> None:
    connection, redis = await connected(always("OK"))
    await connection.call([["A"]], 1)
    redis.opened[0].send(b"late")
    await asyncio.sleep(0)
    assert redis.opened[0].is_closing()
    assert not connection.usable


@virtual_time
async def test_a_reply_before_any_command_closes_the_connection() -> None:
    for sent in (b"+late\r\n", b"+la", b"?"):
        connection, _ = await connected(always("OK"))
        connection.data_received(sent)
        assert not connection.usable
        connection.connection_lost(None)


@virtual_time
async def test_a_cancelled_call_closes_the_connection() -> None:
    connection, redis = await connected(always(SILENCE))
    calling = asyncio.create_task(connection.call([["A"]], 5))
    await asyncio.sleep(1)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert redis.opened[0].is_closing()


@virtual_time
async def test_a_reply_after_the_call_was_cancelled_changes_nothing() -> None:
    """Both may come in one turn of the loop."""
    for late in (Raw(b"+OK\r\n"), Raw(b"+O"), Raw(b"?")):
        connection, redis = await connected(always(SILENCE))
        calling = asyncio.create_task(connection.call([["A"]], 5))
        await asyncio.sleep(1)
        calling.cancel()
        connection.data_received(late)
        connection.connection_lost(None)
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert redis.opened[0].is_closing()


@virtual_time
async def test_a_byte_at_the_moment_of_the_timeout_changes_nothing() -> None:
    errors: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    connection, _ = await connected(always(SILENCE))
    calling = asyncio.create_task(connection.call([["A"]], 4))
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 4, connection.data_received, b"+O")
    with pytest.raises(ReadTimeout):
        await calling
    assert errors == []


@virtual_time
async def test_closing_ends_the_call() -> None:
    connection, _ = await connected(always(SILENCE))
    calling = asyncio.create_task(connection.call([["A"]], 5))
    await asyncio.sleep(1)
    connection.close()
    with pytest.raises(ConnectionLost):
        await calling


@virtual_time
async def test_a_server_may_hang_up_on_a_command() -> None:
    connection, _ = await connected(always(HANG_UP))
    with pytest.raises(ConnectionLost):
        await connection.call([["A"]], 1)
