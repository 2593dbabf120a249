"""Connections to Redis that are used one call at a time: no call reads another's replies, and closed is closed."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from shared.errors import TransportUnavailable
from shared.event import Event
from shared.transports.redis_connection import CONNECTIONS, FAILURES, ClosedError, Connections
from shared.transports.redis_streams import RedisStreams
from tests.waiting import eventually

STEPS = 40  # turns of the loop: more than a call takes from its start to its last reply
BLOCKED = [["ECHO", "read"], ["BLPOP", "never", "0"], ["ECHO", "not read"]]


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def connections(redis_url: str) -> AsyncIterator[Connections]:
    connections = Connections(redis_url)
    yield connections
    await connections.aclose()


def opened(server: redis.Redis) -> set[str]:
    """The ids of all connections but the one that asks."""
    return {client["id"] for client in server.client_list()} - {str(server.client_id())}


async def blocked(connections: Connections, server: redis.Redis) -> asyncio.Task[list[object]]:
    """A call of which one reply was read and the next does not come."""
    call = asyncio.create_task(connections.send(BLOCKED))
    await eventually(lambda: any(client["cmd"] == "blpop" for client in server.client_list()))
    return call


async def test_a_call_that_was_cancelled_between_two_replies_leaves_the_rest_of_them_to_nobody(
    connections: Connections, server: redis.Redis
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


async def test_wherever_a_call_is_cancelled_the_next_one_reads_its_own_replies(connections: Connections) -> None:
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
    connections: Connections, server: redis.Redis
) -> None:
    before = opened(server)
    call = await blocked(connections, server)
    await connections.aclose()
    with pytest.raises(ClosedError):
        await asyncio.wait_for(call, 5)
    await eventually(lambda: opened(server) <= before)


async def test_wherever_a_call_is_when_it_is_closed_no_connection_is_left_or_opened(
    redis_url: str, server: redis.Redis
) -> None:
    before = opened(server)
    for step in range(STEPS):
        connections = Connections(redis_url)
        call = asyncio.create_task(connections.send([["ECHO", "a"], ["ECHO", "b"]]))
        for _ in range(step):
            await asyncio.sleep(0)
        await connections.aclose()
        answer = (await asyncio.gather(call, return_exceptions=True))[0]
        assert answer == [b"a", b"b"] or isinstance(answer, ClosedError), answer
    await eventually(lambda: opened(server) <= before)


async def test_calls_that_wait_for_their_turn_and_those_that_come_later_are_told_that_it_is_closed(
    connections: Connections, server: redis.Redis
) -> None:
    before = opened(server)
    calls = [asyncio.create_task(connections.send(BLOCKED)) for _ in range(CONNECTIONS + 4)]
    await eventually(lambda: sum(client["cmd"] == "blpop" for client in server.client_list()) == CONNECTIONS)
    await connections.aclose()
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert {type(answer) for answer in answers} == {ClosedError}
    with pytest.raises(FAILURES, match="the connections to Redis were closed"):
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
    with pytest.raises(TransportUnavailable, match="ClosedError"):
        await log.publish([Event("late", "t", b"1")])
    assert server.info("stats")["total_connections_received"] == accepted
    await eventually(lambda: opened(server) <= before)
