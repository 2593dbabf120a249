"""The tail of the log on Redis Streams: its failures and reconnections, in virtual time."""

import asyncio
import logging

import pytest
from tidewire.errors import TransportUnavailable
from tidewire.model.record import Gap
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.redis import streams
from tidewire.transports.redis.pool import TIMEOUT
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import Received
from tests.support.clocks import virtual_time
from tests.support.redis_model import START, Model, tailing
from tests.support.scripted_redis import HANG_UP, SILENCE, Reply
from tests.support.waiting import spin


@pytest.fixture(autouse=True)
def _unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log each warning, also one that another test has caused."""
    monkeypatch.setattr(streams, "warnings", ThrottledLog(streams.log))


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_a_read_that_cannot_be_interrupted_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=30), all=START) as (_, tail):
        await asyncio.sleep(1)
        model.faults[b"UNBLOCK"] = [HANG_UP] * 500
        with caplog.at_level(logging.WARNING):
            await tail.follow({"t": START})
        assert now() == pytest.approx(30)
        # Each is sent twice: the first connection may have been idle for long.
        assert 150 < 500 - len(model.faults[b"UNBLOCK"]) < 400, "a pause is half a second or less, but no busy loop"
    assert caplog.messages[0] == "cannot interrupt the tail's read, which ends by itself: ConnectionLost: EOF"


@virtual_time
async def test_reads_are_short_where_none_can_be_interrupted(caplog: pytest.LogCaptureFixture) -> None:
    """Dragonfly and Google Memorystore have no CLIENT UNBLOCK: a new stream waited 30 s for the tail."""
    model = Model()
    async with tailing(RedisStreams("redis://h", block=30), all=START) as (_, tail):
        await asyncio.sleep(1)
        model.faults[b"UNBLOCK"] = [Exception("NOPERM no")]
        with caplog.at_level(logging.WARNING):
            await tail.follow({"t": START})
        assert now() < 1.1, "the first one is ended by a new connection"
        await asyncio.sleep(10.5)
        began = now()
        await tail.follow({"u": START})
        assert now() - began < 1
        assert [command[1] for command in model.sent(b"CLIENT")] == [b"ID", b"UNBLOCK", b"ID"], "it is tried once"
    assert caplog.messages[0] == "cannot interrupt reads (CommandError: NOPERM): the tail reads every 1 s"


@virtual_time
async def test_a_tail_without_a_connection_can_be_reconnected() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h")) as (_, tail):
        await tail.verify()
        model.redis.failure = ConnectionRefusedError()
        tail.follow({"all": START})
        await spin(20)
        found = [tail.running]
        tail.reconnect()
        model.redis.failure = None
        await asyncio.sleep(1)
        found.append(tail.running)
        model.redis.opened[-1].hang_up()
        model.redis.failure = ConnectionRefusedError()
        await spin(20)
        found.append(tail.running)
        tail.reconnect()
        assert found == [False, True, False]


def test_a_lost_tail_interrupts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    @virtual_time
    async def run() -> None:
        model = Model()
        async with tailing(RedisStreams("redis://h"), all=START) as (_, tail):
            model.redis.opened[-1].hang_up()
            model.redis.failure = ConnectionRefusedError()
            await asyncio.sleep(10)
            tail.follow({"t": START})
            await asyncio.sleep(10)

    run()
    assert all(line.startswith("tail lost") for line in caplog.messages)


@virtual_time
async def test_a_connection_that_does_not_open_is_given_up() -> None:
    model = Model()
    model.redis.delay = 1_000
    async with tailing(RedisStreams("redis://h")) as (_, tail):
        tail.follow({"all": START})
        await asyncio.sleep(TIMEOUT + 0.1)
        assert tail.failure == "Redis cannot be used now (ReadTimeout: no connection in time)"


@virtual_time
async def test_an_interruption_ends_with_the_tail() -> None:
    model = Model()
    async with RedisStreams("redis://h").on_message(Received()) as tail:
        read = tail.follow({"all": START})
        assert read is not None
        await read
        await spin(20)
        model.faults[b"UNBLOCK"] = [SILENCE]
        tail.follow({"t": START})
        await spin(20)
        assert len(model.redis.opened) == 2
    assert [peer.is_closing() for peer in model.redis.opened] == [True, True]


@virtual_time
async def test_a_store_that_fell_back_is_a_gap() -> None:
    model = Model()
    positions = model.append("all", "1", "2", "3")
    async with tailing(RedisStreams("redis://h"), all=positions[-1]) as (received, tail):
        await spin(20)
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
        await spin(20)
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
        (b"ID", SILENCE, "Redis cannot be used now (ReadTimeout: no answer in time)"),
        (b"ID", b"x", "it failed, and the log of the server says why"),
        (b"EVALSHA", Exception("READONLY no"), "Redis cannot be used now (CommandError: READONLY)"),
        (b"EVALSHA", SILENCE, "Redis cannot be used now (ReadTimeout: no answer in time)"),
        (b"EVALSHA", [], "it failed, and the log of the server says why"),
        (b"XREAD", Exception("UNBLOCKED force unblock"), "Redis cannot be used now (CommandError: UNBLOCKED)"),
        (b"XREAD", [[b"other", []]], "it failed, and the log of the server says why"),
    ],
    ids=["client", "hang-up", "silent-client", "malformed", "replica", "silent", "no-heads", "demoted", "bug"],
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
        async with log.on_message(received) as tail:
            tail.follow({"all": START})
            if reply is SILENCE:
                await asyncio.sleep(TIMEOUT - 1e-4)
            failures = [tail.failure]
            while failures[-1] is None and len(failures) < 1_000:
                await asyncio.sleep(1e-5)  # far less than the pause before the next try
                failures.append(tail.failure)
            assert (tail.running, failures[-1]) == (False, failure)
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
        await spin(20)
        model.faults[b"XREAD"] = [SILENCE]
        await asyncio.sleep(10)
        await spin(20)
        await asyncio.sleep(10 + TIMEOUT - 0.1)
        assert tail.failure is None
        await asyncio.sleep(0.2)
        assert tail.failure == "Redis cannot be used now (ReadTimeout: no answer in time)"


@virtual_time
async def test_a_first_read_times_out_soon() -> None:
    """It does not block."""
    model = Model()
    model.faults[b"XREAD"] = [SILENCE]
    async with tailing(RedisStreams("redis://h")) as (_, tail):
        tail.follow({"all": START})
        await asyncio.sleep(TIMEOUT + 0.1)
        assert tail.failure is not None


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
    assert log.is_unavailable
    async with tailing(log, all=START):
        assert not log.is_unavailable


@virtual_time
async def test_a_tail_ends_with_its_context() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    async with tailing(log, all=START) as (_, tail):
        await spin(20)
        model.faults[b"UNBLOCK"] = [0] * 1_000
        tail.follow({"t": START})
        await spin(20)
    assert all(peer.is_closing() for peer in model.redis.opened)
    sent = len(model.redis.commands)
    await asyncio.sleep(60)
    assert len(model.redis.commands) == sent
    assert not tail.running
