"""The tail of the log on Redis Streams: what it reads, against a model of Redis in virtual time."""

import asyncio
import gc

from tidewire.model.partitions import SCHEMES
from tidewire.transports.log_base import PAGE_BYTES
from tidewire.transports.redis.layout import SEEK
from tidewire.transports.redis.streams import BLOCK, CHECK_HEADS, RedisStreams

from tests.support.clocks import virtual_time
from tests.support.redis_model import EPOCH, START, Model, tailing
from tests.support.scripted_redis import SILENCE
from tests.support.waiting import spin


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
        await spin(20)
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
        assert {item.partition for item in received.items} == {"all"}
        await spin(20)
        assert peer.commands[-1][-1] == b"%d-3" % EPOCH


@virtual_time
async def test_a_full_read_doubles_the_next_one() -> None:
    model = Model()
    model.append("all", *map(str, range(250)))
    async with tailing(RedisStreams("redis://h"), all=START) as (received, _):
        await received.has(249)
        await spin(20)
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
        await spin(20)
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
        await spin(20)
        assert received.data == ["<trimmed>"]
        assert model.sent(b"XREAD")[-1][-1] == b"%d-1" % EPOCH, "it would be read again for ever"
        model.append("all", "2")
        await received.has(2)
        assert received.data == ["<trimmed>", 2]


@virtual_time
async def test_a_new_partition_interrupts_the_blocked_read() -> None:
    """A first read of it does not block, so that the hub can send `ready`."""
    model = Model()
    async with tailing(RedisStreams("redis://h"), all=START) as (received, tail):
        await spin(20)
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
        await spin(20)
        model.faults[b"UNBLOCK"] = [0, 0, 0, 0]
        started = now()
        await tail.follow({"t": START})
        assert now() - started < 0.1
        assert len([command for command in model.redis.commands if command[1] == b"UNBLOCK"]) == 5


@virtual_time
async def test_partitions_followed_together_are_one_interruption() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h"), all=START) as (_, tail):
        await spin(20)
        await asyncio.gather(*(tail.follow({name: START}) for name in "abc"))
        await asyncio.sleep(1)
        assert [command[1] for command in model.sent(b"CLIENT")] == [b"ID", b"UNBLOCK"]


@virtual_time
async def test_an_unfollowed_partition_is_read_no_more() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=5), all=START, t=START) as (received, tail):
        await spin(20)
        tail.unfollow(("t",))
        await asyncio.sleep(5)
        await spin(20)
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
async def test_the_check_of_a_silent_log_is_not_late() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=CHECK_HEADS / 2), all=START):
        await asyncio.sleep(CHECK_HEADS + 1)
        assert len(model.sent(b"EVALSHA")) == 2


@virtual_time
async def test_following_during_a_check_interrupts_nothing() -> None:
    """No read is blocked then, and the next one covers what was followed meanwhile."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    model = Model()
    async with tailing(RedisStreams("redis://h", block=CHECK_HEADS), all=START) as (_, tail):
        model.faults[b"EVALSHA"] = [SILENCE]
        await asyncio.sleep(CHECK_HEADS + 1)
        for name in "ab":
            tail.follow({name: START})
            await spin(20)
        gc.collect()
        model.redis.opened[0].send([[b"%d" % EPOCH, b"0", b"", b"%d" % EPOCH] for _ in "x"])
        await spin(20)
        assert len(model.sent(b"CLIENT")) == 1
    assert errors == []


@virtual_time
async def test_following_before_the_first_read_interrupts_nothing() -> None:
    model = Model()
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with tailing(RedisStreams("redis://h")) as (_, tail):
        model.faults[b"EVALSHA"] = [SILENCE]
        for name in "abc":
            tail.follow({name: START})
            await spin(20)
        gc.collect()
        assert len(model.sent(b"CLIENT")) == 1
    assert errors == []


@virtual_time
async def test_a_log_that_is_read_is_not_checked() -> None:
    model = Model()
    async with tailing(RedisStreams("redis://h", block=7), all=START) as (received, _):
        for number in range(20):
            await asyncio.sleep(6)
            model.append("all", str(number))
        await received.has(19)
        assert len(model.sent(b"EVALSHA")) == 1
