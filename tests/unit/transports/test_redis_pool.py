"""The pool of connections to Redis, against a server in this process that behaves as a test says."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tidewire.transports.errors import CommandError, ConnectionClosed, ConnectionLost, NotServing, ReadTimeout
from tidewire.transports.redis.address import Address
from tidewire.transports.redis.pool import CONNECTIONS, TIMEOUT, ConnectionPool

from tests.support.clocks import virtual_time
from tests.support.scripted_redis import HANG_UP, SILENCE, Answer, Peer, Reply, ScriptedRedis
from tests.support.waiting import spin

ADDRESS = Address.parse("redis://h")


class Rig:
    """A pool on a scripted server, and how often it has evicted connections that had worked."""

    def __init__(self, answer: Answer) -> None:
        self.redis = ScriptedRedis(answer).install()
        self.evicted = 0
        self.pool = ConnectionPool(ADDRESS, self._count)

    def _count(self) -> None:
        self.evicted += 1

    @property
    def open(self) -> list[bool]:
        """Whether each connection is open, in the order in which they were opened."""
        return [not peer.is_closing() for peer in self.redis.opened]

    async def send(self, *names: str) -> list[Any]:
        return await self.pool.send([[name] for name in names])

    def sending(self, *names: str) -> asyncio.Task[list[Any]]:
        return asyncio.create_task(self.send(*names))


def now() -> float:
    return asyncio.get_running_loop().time()


def echo(peer: Peer, command: Sequence[bytes]) -> Reply:
    return command[0]


def slow(peer: Peer, command: Sequence[bytes]) -> Reply:
    """Answer after a second."""
    asyncio.get_running_loop().call_later(1, peer.send, command[0])
    return SILENCE


def faulty(*faults: Callable[[Peer], Reply]) -> Answer:
    """Fail the first commands named `x`, each in its way; echo anything else."""
    left = list(faults)

    def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
        return left.pop(0)(peer) if command[0] == b"x" and left else command[0]

    return answer


def hang_up(_: Peer) -> Reply:
    return HANG_UP


def silence(_: Peer) -> Reply:
    return SILENCE


def read_only(_: Peer) -> Reply:
    return Exception("READONLY You can't write against a read only replica.")


@virtual_time
async def test_one_connection_serves_one_call_after_another() -> None:
    rig = Rig(echo)
    assert await rig.send("a", "b") == [b"a", b"b"]
    assert await rig.send("c") == [b"c"]
    assert rig.redis.commands == [[b"a"], [b"b"], [b"c"]]
    assert rig.open == [True]


@virtual_time
async def test_no_commands_need_no_connection() -> None:
    rig = Rig(echo)
    assert await rig.send() == []
    assert rig.open == []


@virtual_time
async def test_calls_at_once_use_a_connection_each() -> None:
    rig = Rig(slow)
    assert await asyncio.gather(*map(rig.send, ("a", "b"))) == [[b"a"], [b"b"]]
    assert now() == 1
    await rig.send("c")
    assert rig.open == [True, True]
    assert rig.redis.opened[1].commands == [[b"b"], [b"c"]], "the connection used last is used next"


@virtual_time
async def test_further_callers_wait_for_a_connection() -> None:
    rig = Rig(slow)
    await asyncio.gather(*(rig.send("a") for _ in range(3 * CONNECTIONS)))
    assert len(rig.open) == CONNECTIONS
    assert now() == 3


@virtual_time
async def test_a_caller_waits_for_a_connection_only_so_long() -> None:
    rig = Rig(lambda *_: SILENCE)
    crowd = [rig.sending("a") for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.5)
    late = rig.sending("b")
    with pytest.raises(ReadTimeout) as caught:
        await crowd[0]
    assert str(caught.value) == "no answer in time"
    assert now() == TIMEOUT
    await asyncio.gather(*crowd, return_exceptions=True)
    with pytest.raises(ReadTimeout):
        await late
    assert now() == 2 * TIMEOUT


@virtual_time
async def test_a_wait_for_a_connection_times_out() -> None:
    def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
        asyncio.get_running_loop().call_later(len(peer.commands), peer.send, b"x")
        return SILENCE

    rig = Rig(answer)
    crowd = [rig.sending(*["a"] * 8) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.5)
    with pytest.raises(ReadTimeout) as caught:
        await rig.send("b")
    assert str(caught.value) == "no connection became free in time"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert now() == 0.5 + TIMEOUT
    await asyncio.gather(*crowd)


@virtual_time
async def test_connecting_and_the_first_byte_share_one_timeout() -> None:
    rig = Rig(lambda *_: SILENCE)
    rig.redis.delay = 2
    with pytest.raises(ReadTimeout):
        await rig.send("a")
    assert now() == TIMEOUT


@virtual_time
async def test_a_reply_may_pause_for_a_timeout_after_its_first_byte() -> None:
    def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
        if command[0] == b"a":
            return b"a"
        asyncio.get_running_loop().call_later(TIMEOUT - 0.5, peer.send, b"b")
        return SILENCE

    rig = Rig(answer)
    rig.redis.delay = 2
    assert await rig.send("a", "b") == [b"a", b"b"]


@virtual_time
async def test_a_connection_that_does_not_open_is_given_up() -> None:
    rig = Rig(echo)
    rig.redis.delay = 60
    with pytest.raises(ReadTimeout):
        await rig.send("a")
    assert now() == TIMEOUT
    assert rig.evicted == 0


@virtual_time
async def test_a_lost_connection_is_tried_three_times() -> None:
    rig = Rig(faulty(hang_up, hang_up))
    assert await rig.send("x") == [b"x"]
    assert len(rig.open) == 3
    assert now() <= 0.02 + 0.04
    rig = Rig(faulty(hang_up, hang_up, hang_up))
    with pytest.raises(ConnectionLost):
        await rig.send("x")
    assert rig.open == [False] * 3


@virtual_time
async def test_a_server_that_refuses_connections_is_tried_thrice() -> None:
    rig = Rig(echo)
    rig.redis.failure = ConnectionRefusedError()
    with pytest.raises(ConnectionLost) as caught:
        await rig.send("a")
    assert str(caught.value) == "ConnectionRefusedError"
    assert rig.evicted == 0


@virtual_time
async def test_a_silent_server_is_not_tried_again() -> None:
    rig = Rig(faulty(silence))
    with pytest.raises(ReadTimeout):
        await rig.send("x")
    assert now() == TIMEOUT
    assert rig.open == [False]
    assert await rig.send("x") == [b"x"]


@pytest.mark.parametrize("fault", [hang_up, silence, read_only])
def test_one_bad_connection_evicts_the_others(fault: Callable[[Peer], Reply]) -> None:
    """A restart, a NAT or a failover has done the same to every connection that was opened before."""

    @virtual_time
    async def run() -> None:
        faults = faulty(fault)

        def answer(peer: Peer, command: Sequence[bytes]) -> Reply:
            return slow(peer, command) if command[0] == b"slow" else faults(peer, command)

        rig = Rig(answer)
        await asyncio.gather(*(rig.send("slow") for _ in range(3)))
        assert rig.open == [True] * 3
        using = rig.sending("slow")
        await spin(10)
        await asyncio.gather(rig.send("x"), return_exceptions=True)
        assert rig.open[:2] == [False, False]
        assert rig.evicted == 1
        assert await using == [b"slow"], "a call under way may end"
        assert rig.open[:3] == [False] * 3
        assert await rig.send("x") == [b"x"]
        assert rig.evicted == 1

    run()


@virtual_time
async def test_two_bad_connections_evict_once() -> None:
    """The second one was not reusable any more, so its failure says nothing of newer ones."""
    rig = Rig(slow)
    await asyncio.gather(rig.send("a"), rig.send("b"))
    first, second = rig.sending("a"), rig.sending("b")
    await spin(10)
    rig.redis.opened[0].hang_up()
    await spin(10)
    assert rig.evicted == 1
    await rig.send("new")
    rig.redis.opened[1].hang_up()
    await asyncio.gather(first, second)
    assert rig.evicted == 1


@virtual_time
async def test_a_connection_that_never_worked_evicts_only_idle_ones() -> None:
    rig = Rig(faulty(hang_up))
    assert await rig.send("x") == [b"x"]
    assert rig.evicted == 0


@virtual_time
async def test_a_refusal_by_a_replica_is_tried_elsewhere() -> None:
    rig = Rig(faulty(read_only, read_only))
    assert await rig.send("a", "x", "b") == [b"a", b"x", b"b"]
    assert rig.open == [False, False, True]
    rig = Rig(faulty(*[read_only] * 3))
    with pytest.raises(NotServing) as caught:
        await rig.send("x")
    assert caught.value.code == "READONLY"


@virtual_time
async def test_a_refused_command_is_a_reply() -> None:
    rig = Rig(faulty(lambda _: Exception("OOM command not allowed")))
    assert await rig.send("a") == [b"a"]
    refused, fine = await rig.send("x", "a")
    assert isinstance(refused, CommandError)
    assert fine == b"a"
    assert rig.open == [True]


@virtual_time
async def test_an_idle_connection_that_was_closed_is_replaced() -> None:
    rig = Rig(slow)
    await asyncio.gather(rig.send("a"), rig.send("b"))
    for peer in rig.redis.opened:
        peer.hang_up()
    assert await rig.send("c") == [b"c"]
    assert rig.open == [False, False, True]
    assert rig.evicted == 0


@virtual_time
async def test_a_replaced_connection_is_forgotten() -> None:
    """An instance lives for days, and its connections for minutes."""
    rig = Rig(echo)
    await rig.send("a")
    replaced = weakref.ref(rig.redis.opened[0].protocol)
    rig.redis.opened[0].hang_up()
    await rig.send("b")
    del rig.redis.opened[0]
    await spin(10)
    gc.collect()
    assert replaced() is None


@virtual_time
async def test_evicted_connections_are_closed_when_they_become_free() -> None:
    rig = Rig(slow)
    await asyncio.gather(rig.send("a"), rig.send("b"))
    using = rig.sending("c")
    await spin(10)
    rig.pool.evict()
    assert rig.open == [False, True]
    await using
    assert rig.open == [False, False]
    await rig.send("d")
    assert rig.open == [False, False, True]


@virtual_time
async def test_a_cancelled_call_costs_its_connection_alone() -> None:
    rig = Rig(slow)
    await asyncio.gather(rig.send("a"), rig.send("b"))
    calling = rig.sending("c")
    await spin(10)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    assert rig.open == [True, False]
    assert rig.evicted == 0
    assert await asyncio.gather(*(rig.send("d") for _ in range(CONNECTIONS))) == [[b"d"]] * CONNECTIONS


@virtual_time
async def test_closing_ends_every_call() -> None:
    """Neither a retry nor a waiting call may open another connection."""
    rig = Rig(lambda _, command: SILENCE if command[0] == b"x" else command[0])
    await rig.send("a")
    calls = [rig.sending("x") for _ in range(CONNECTIONS + 3)]
    await spin(10)
    await rig.pool.aclose()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {(type(error), str(error)) for error in ended} == {
        (ConnectionClosed, "the connections to Redis were closed")
    }
    assert isinstance(ended[0], ConnectionClosed)
    assert isinstance(ended[0].__cause__, ConnectionLost)
    assert len(rig.open) == CONNECTIONS
    assert not any(rig.open)
    assert rig.evicted == 0
    with pytest.raises(ConnectionClosed):
        await rig.send("a")
    assert len(rig.open) == CONNECTIONS


@virtual_time
async def test_closing_while_connecting_leaves_nothing_open() -> None:
    rig = Rig(echo)
    rig.redis.delay = 2
    calling = rig.sending("a")
    await spin(10)
    await rig.pool.aclose()
    with pytest.raises(ConnectionClosed):
        await calling
    assert rig.open == [False]
    assert rig.redis.commands == []


@virtual_time
async def test_closing_closes_idle_connections() -> None:
    rig = Rig(echo)
    await rig.send("a")
    await rig.pool.aclose()
    assert rig.open == [False]


@virtual_time
async def test_a_cancelled_call_of_a_closed_pool_is_cancelled() -> None:
    rig = Rig(slow)
    calling = rig.sending("a")
    await spin(10)
    calling.cancel()
    await rig.pool.aclose()
    await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()


@virtual_time
async def test_a_pool_needs_no_listener() -> None:
    ScriptedRedis(faulty(hang_up)).install()
    pool = ConnectionPool(ADDRESS)
    await pool.send([["a"]])
    assert await pool.send([["x"]]) == [b"x"]
