"""The tail of the log on Redis Streams, against a model of Redis in virtual time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Position
from tidewire.model.partitions import SCHEMES
from tidewire.model.record import Gap
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.log_base import PAGE_BYTES
from tidewire.transports.redis import streams
from tidewire.transports.redis.layout import SEEK
from tidewire.transports.redis.pool import TIMEOUT
from tidewire.transports.redis.streams import BLOCK, CHECK_HEADS, RedisStreams

from tests.contract.acts import Received
from tests.support.clocks import virtual_time
from tests.support.redis_model import EPOCH, START, Model
from tests.support.scripted_redis import HANG_UP, SILENCE, Reply


@pytest.fixture(autouse=True)
def _unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log each warning, also one that another test has caused."""
    monkeypatch.setattr(streams, "warnings", ThrottledLog(streams.log))


@asynccontextmanager
async def tailing(log: RedisStreams, **positions: Position) -> AsyncIterator[tuple[Received, Any]]:
    """Open the tail; it follows these partitions, and they were read."""
    received = Received()
    async with asyncio.timeout(600):  # of virtual time
        async with log.on_message(received) as tail:
            if positions and (read := tail.follow(positions)) is not None:
                await read
            yield received, tail
        await log.aclose()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_the_tail_checks_heads_and_then_waits_for_records() -> None:
    model = Model()
    head = model.append("all", "1")[-1]
    log = RedisStreams("redis://h")
    async with tailing(log, all=head) as (received, tail):
        assert tail.running
        assert tail.failure is None
        await turns()
        (peer,) = model.redis.opened
        assert peer.commands == [
            [b"CLIENT", b"ID"],
            [b"EVALSHA", SEEK.sha.encode(), b"2", b"rt:all", b"{rt:all}:meta", b"head"],
            [b"XREAD", b"COUNT", b"100", b"STREAMS", b"rt:all", b"%d-1" % EPOCH],
            [b"XREAD", b"COUNT", b"100", b"BLOCK", b"%d" % (BLOCK * 1000), b"STREAMS", b"rt:all", b"%d-1" % EPOCH],
        ]
        model.append("all", "2", "3")
        await received.has(3)
        assert received.data == [2, 3]
        await turns()
        assert peer.commands[-1][-1] == b"%d-3" % EPOCH


@virtual_time
async def test_a_full_read_doubles_the_next_one() -> None:
    model = Model()
    model.append("all", *map(str, range(250)))
    async with tailing(RedisStreams("redis://h"), all=START) as (received, _):
        await received.has(249)
        await turns()
        counts = [command[2] for command in model.sent(b"XREAD")]
        assert counts == [b"100", b"200", b"100"]
        assert received.data == list(range(250))


@virtual_time
async def test_a_read_of_large_records_shrinks_the_next_one() -> None:
    model = Model()
    large = '"' + "x" * (PAGE_BYTES // 3) + '"'
    async with tailing(RedisStreams("redis://h"), all=START) as (received, _):
        model.append("all", large, large, "1")
        await received.has(1)
        await turns()
        assert model.sent(b"XREAD")[-1][2] == b"4"


@virtual_time
async def test_control_records_come_first() -> None:
    model = Model()
    model.append("all", '"a"')
    model.append(SCHEMES, '"s"')
    async with tailing(RedisStreams("redis://h"), **{"all": START, SCHEMES: START}) as (received, _):
        assert received.data == ["s", "a"]


@virtual_time
async def test_an_unreadable_entry_is_a_gap() -> None:
    model = Model()
    (position,) = model.append("all", "1")
    model.streams[b"rt:all"][0] = position, b"broken"
    async with tailing(RedisStreams("redis://h"), all=START) as (received, _):
        model.append("all", "2")
        await received.has(2)
        assert received.data == ["<trimmed>", 2]


@virtual_time
async def test_a_new_partition_interrupts_the_blocked_read() -> None:
    """A first read of it does not block, so that the hub can send `ready`."""
    model = Model()
    async with tailing(RedisStreams("redis://h"), all=START) as (received, tail):
        await turns()
        model.append("t", "1")
        started = now()
        waiting = tail.follow({"t": START, "all": START})
        await waiting
        assert now() - started < 0.1
        assert received.data == [1]
        await asyncio.sleep(1)
        tail_connection = model.redis.opened[0]
        assert [b"BLOCK" in command for command in tail_connection.commands[2:]] == [False, True, False, True]
        assert tail_connection.commands[-1][-4:] == [b"rt:all", b"rt:t", b"%d-0" % EPOCH, b"%d-1" % EPOCH]
        assert model.sent(b"CLIENT") == [[b"CLIENT", b"ID"], [b"CLIENT", b"UNBLOCK", b"1"]]
        assert tail.follow({"t": START}) is None
        await asyncio.sleep(1)
        assert len(model.sent(b"CLIENT")) == 2


@virtual_time
async def test_an_interruption_is_repeated_until_the_read_ends() -> None:
    """The read may be on its way to the server, not blocked yet."""
    model = Model()
    async with tailing(RedisStreams("redis://h"), all=START) as (_, tail):
        await turns()
        model.faults[b"UNBLOCK"] = [0, 0, Exception("ERR no"), Exception("ERR no")]
        started = now()
        await tail.follow({"t": START})
        assert now() - started < 0.1
        assert len([command for command in model.redis.commands if command[1] == b"UNBLOCK"]) == 5


@virtual_time
async def test_a_read_that_cannot_be_interrupted_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=10), all=START) as (_, tail):
        await asyncio.sleep(1)
        model.faults[b"UNBLOCK"] = [Exception("NOPERM no")] * 200
        with caplog.at_level(logging.WARNING):
            await tail.follow({"t": START})
        assert now() == pytest.approx(10)
        assert 9 / 0.5 < 200 - len(model.faults[b"UNBLOCK"]) < 100, "no busy loop"
    assert caplog.messages[0] == "cannot interrupt the tail's read, which ends by itself: CommandError: NOPERM"


@virtual_time
async def test_partitions_followed_together_are_one_interruption() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h"), all=START) as (_, tail):
        await turns()
        await asyncio.gather(*(tail.follow({name: START}) for name in "abc"))
        await asyncio.sleep(1)
        assert [command[1] for command in model.sent(b"CLIENT")] == [b"ID", b"UNBLOCK"]


@virtual_time
async def test_an_unfollowed_partition_is_read_no_more() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=5), all=START, t=START) as (received, tail):
        await turns()
        tail.unfollow(("t",))
        await asyncio.sleep(5)
        await turns()
        assert model.sent(b"XREAD")[-1][-2:] == [b"rt:all", b"%d-0" % EPOCH]
        model.append("all", "1")
        await received.has(1)


@virtual_time
async def test_no_connection_is_opened_while_nothing_is_followed() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h")) as (_, tail):
        await asyncio.sleep(100)
        assert model.redis.opened == []
        assert not tail.running


@virtual_time
async def test_a_silent_log_is_checked_every_minute() -> None:
    """A node that was demoted may keep the connection open."""
    model = Model()
    async with tailing(RedisStreams("redis://h", block=7), all=START) as (received, tail):
        await asyncio.sleep(CHECK_HEADS - 1)
        assert len(model.sent(b"EVALSHA")) == 1
        await asyncio.sleep(7)
        assert len(model.sent(b"EVALSHA")) == 2
        await asyncio.sleep(CHECK_HEADS - 7)
        assert len(model.sent(b"EVALSHA")) == 2
        model.faults[b"EVALSHA"] = [Exception("READONLY a replica")]
        await asyncio.sleep(8)
        assert len(model.redis.opened) == 2
        assert received.data == []
        await asyncio.sleep(1)
        assert tail.running
        assert tail.failure == "Redis cannot be used now (CommandError: READONLY)"


@virtual_time
async def test_a_log_that_is_read_is_not_checked() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=7), all=START) as (received, _):
        for number in range(20):
            await asyncio.sleep(6)
            model.append("all", str(number))
        await received.has(19)
        assert len(model.sent(b"EVALSHA")) == 1


@virtual_time
async def test_a_store_that_fell_back_is_a_gap() -> None:
    model = Model()
    positions = model.append("all", "1", "2", "3")
    async with tailing(RedisStreams("redis://h"), all=positions[-1]) as (received, tail):
        await turns()
        del model.streams[b"rt:all"][1:]
        await tail.verify()
        assert received.data == ["<epoch>"]
        (gap,) = received.items
        assert isinstance(gap, Gap)
        assert gap.position == positions[0]
        assert model.redis.opened[0].is_closing(), "its read waits for records after the lost ones"
        await asyncio.sleep(6)
        model.append("all", "4")
        await received.has(4)
        assert received.data == ["<epoch>", 4]


@virtual_time
async def test_verify_reads_heads_over_new_connections() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    async with tailing(log, all=START) as (_, tail):
        await log.ping()
        (pinged,) = model.peers(b"SET")
        await tail.verify()
        assert pinged.is_closing()
        assert model.peers(b"EVALSHA")[1] is not pinged


@virtual_time
async def test_a_bad_connection_of_the_pool_reconnects_the_tail() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    async with tailing(log, all=START) as (received, tail):
        await log.ping()
        await turns()
        model.faults[b"SET"] = [HANG_UP]
        await log.ping()
        assert model.redis.opened[0].is_closing()
        await asyncio.sleep(6)
        assert len(model.sent(b"CLIENT")) == 2
        assert tail.running
        model.append("all", "1")
        await received.has(1)


@pytest.mark.parametrize(
    ("command", "reply", "failure"),
    [
        (b"ID", Exception("NOPERM no"), "Redis cannot be used now (CommandError: NOPERM)"),
        (b"ID", HANG_UP, "Redis cannot be used now (ConnectionLost: EOF)"),
        (b"ID", b"x", "it failed, and the log of the server says why"),
        (b"EVALSHA", Exception("READONLY no"), "Redis cannot be used now (CommandError: READONLY)"),
        (b"EVALSHA", SILENCE, "Redis cannot be used now (ReadTimeout: no answer in time)"),
        (b"EVALSHA", [], "it failed, and the log of the server says why"),
        (b"XREAD", Exception("UNBLOCKED force unblock"), "Redis cannot be used now (CommandError: UNBLOCKED)"),
        (b"XREAD", [[b"other", []]], "it failed, and the log of the server says why"),
    ],
    ids=["client", "hang-up", "malformed", "replica", "silent", "no-heads", "demoted", "bug"],
)
def test_a_failed_tail_says_why_and_reconnects(
    command: bytes, reply: Reply, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of its own is logged with its traceback, and not shown to clients."""

    @virtual_time
    async def run() -> None:
        model = Model()
        model.append("all", "1")
        model.faults[command] = [reply]
        received = Received()
        log = RedisStreams("redis://h")
        before = RECONNECTS.value()
        async with log.on_message(received) as opened:
            tail: Any = opened
            tail.follow({"all": START})
            if reply is SILENCE:
                await asyncio.sleep(TIMEOUT - 1e-4)
            failures = [tail.failure]
            while failures[-1] is None and len(failures) < 1_000:
                await asyncio.sleep(1e-5)  # far less than the pause before the next try
                failures.append(tail.failure)
            assert not tail.running
            assert failures[-1] == failure
            assert received.data == []
            await asyncio.sleep(TIMEOUT)
            assert model.redis.opened[0].is_closing()
            assert received.data == [1]
            assert tail.running
            assert RECONNECTS.value() == before + 1

    run()
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    if failure.startswith("Redis"):
        assert line.getMessage() == f"tail lost, reconnecting: {failure}"
    else:
        assert line.getMessage() == "tail failed, reconnecting"
        assert line.exc_info is not None


@virtual_time
async def test_pauses_grow_until_a_read_was_answered() -> None:
    """An open connection proves nothing: a server may accept it, and refuse each read."""
    model = Model()
    model.faults[b"XREAD"] = [Exception("NOPERM no")] * 200
    received = Received()
    async with RedisStreams("redis://h").on_message(received) as tail:
        tail.follow({"all": START})
        await asyncio.sleep(60)
        assert 10 < len(model.redis.opened) < 60
        model.faults.clear()
        await asyncio.sleep(6)
        assert tail.running


@virtual_time
async def test_a_silent_read_times_out_after_its_block() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=10), all=START) as (_, tail):
        await turns()
        model.faults[b"XREAD"] = [SILENCE]
        await asyncio.sleep(10)
        await turns()
        await asyncio.sleep(10 + TIMEOUT - 0.1)
        assert tail.failure is None
        await asyncio.sleep(0.2)
        assert tail.failure == "Redis cannot be used now (ReadTimeout: no answer in time)"


@virtual_time
async def test_an_answered_read_closes_the_breaker() -> None:
    """Other calls need not wait for its probe."""
    model = Model()
    log = RedisStreams("redis://h")
    model.redis.failure = ConnectionRefusedError()
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await log.ping()
    model.redis.failure = None
    assert log.is_away
    async with tailing(log, all=START):
        assert not log.is_away


@virtual_time
async def test_a_tail_ends_with_its_context() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    async with tailing(log, all=START) as (_, tail):
        await turns()
        model.faults[b"UNBLOCK"] = [0] * 1_000
        tail.follow({"t": START})
        await turns()
    assert all(peer.is_closing() for peer in model.redis.opened)
    sent = len(model.redis.commands)
    await asyncio.sleep(60)
    assert len(model.redis.commands) == sent
    assert not tail.running
