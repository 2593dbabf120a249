"""The log on Redis Streams, its commands and what their replies mean, against a model of Redis."""

import asyncio

import pytest
from tidewire.errors import AppendRefused, TransportRefused, TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record_page import RecordPage
from tidewire.transports.base import Retention
from tidewire.transports.log_base import FIRST, PAGE_BYTES
from tidewire.transports.redis.layout import APPEND, RANGE, TAKE
from tidewire.transports.redis.pool import CONNECTIONS
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import at, contents, read
from tests.support.clocks import virtual_time
from tests.support.redis_model import EPOCH, START, Model
from tests.support.waiting import spin


@virtual_time
async def test_a_bucket_is_taken_from_in_one_round_trip() -> None:
    model = Model()
    log = RedisStreams("redis://h", "pre")
    assert await log.take("key", 2, 10, 1.5) == 1.5
    assert model.redis.commands == [[b"EVALSHA", TAKE.sha.encode(), b"1", b"{pre}:rate:key", b"2", b"10", b"1500"]]


@virtual_time
async def test_health_is_whether_an_append_would_be_accepted() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    await log.ping()
    assert model.redis.commands == [[b"SET", b"{rt}:health", b"1", b"XX"]]
    model.faults[b"SET"] = [Exception("OOM command not allowed")]
    with pytest.raises(TransportRefused, match=r"^Redis cannot be used now \(CommandError: OOM\)$"):
        await log.ping()
    assert not log.is_unavailable


@virtual_time
async def test_health_is_probed_while_redis_is_unavailable() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    model.redis.failure = ConnectionRefusedError()
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await log.ping()
    assert log.is_unavailable
    model.redis.failure = None
    await log.ping()
    assert not log.is_unavailable


@virtual_time
async def test_heads_of_control_partitions_share_a_call() -> None:
    """In a cluster the others may be on several nodes."""
    model = Model()
    (head,) = model.append("a", "1")
    log = RedisStreams("redis://h")
    found = await log.head(("realtime.x", "a", SCHEMES, "b"))
    assert found.positions == {
        "a": head,
        **dict.fromkeys(("b", "realtime.x", SCHEMES), START._replace(time=EPOCH)),
    }
    assert [command[3:] for command in model.redis.commands] == [
        [b"rt:realtime.x", b"{rt:realtime.x}:meta", b"rt:realtime.schemes", b"{rt:realtime.schemes}:meta", b"head"],
        [b"rt:a", b"{rt:a}:meta", b"head"],
        [b"rt:b", b"{rt:b}:meta", b"head"],
    ]
    assert len(model.redis.opened) == 1
    assert model.redis.opened[0].writes == 1


@virtual_time
async def test_positions_are_found_by_time() -> None:
    model = Model()
    model.append("a", "1", "2", "3")
    log = RedisStreams("redis://h")
    found = await log.seek(("a",), EPOCH + 3)
    assert found.positions["a"].offset == 2
    assert (await log.seek(("a",), None)).positions["a"].offset == 0
    assert [command[-1] for command in model.redis.commands] == [b"%d" % (EPOCH + 3), b"0"]


@virtual_time
async def test_a_refused_call_is_the_callers_error() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    for fault, error in (("NOPERM no permission", AppendRefused), ("OOM no memory", TransportRefused)):
        model.faults[b"EVALSHA"] = [Exception(fault)]
        with pytest.raises(error) as caught:
            await log.head(("a",))
        assert fault.partition(" ")[0] in caught.value.detail
        model.faults[b"XRANGE"] = [Exception(fault)]
        with pytest.raises(error) as caught:
            await read(log, at(START, "a"), at(START._replace(offset=1), "a"))
        assert fault.partition(" ")[0] in caught.value.detail
    assert not log.is_unavailable


@virtual_time
async def test_a_refusal_of_one_partition_refuses_the_call() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    model.faults[b"EVALSHA"] = [[[b"1", b"0", b"", b"1"]], Exception("OOM no memory")]
    with pytest.raises(TransportRefused):
        await log.head(("a", "b"))


@virtual_time
async def test_a_reply_without_each_position_is_an_error() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    for reply in ([], [[b"1", b"0", b"", b"1"]] * 2):
        model.faults[b"EVALSHA"] = [reply]
        with pytest.raises(ValueError, match="zip"):
            await log.head(("a",))


@virtual_time
async def test_a_lost_store_is_unavailable_after_some_calls() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    model.redis.failure = ConnectionRefusedError()
    lost = r"^Redis cannot be used now \(ConnectionLost: ConnectionRefusedError\)$"
    with pytest.raises(TransportUnavailable, match=lost):
        await log.head(("a",))
    with pytest.raises(TransportUnavailable, match=lost):
        await log.take("a", 1, 1, 1)
    with pytest.raises(TransportUnavailable, match=lost):
        await read(log, at(START, "a"), at(START._replace(offset=1), "a"))
    assert log.is_unavailable


@virtual_time
async def test_events_are_appended_by_the_script() -> None:
    model = Model()
    log = RedisStreams("redis://h", retention=Retention(age=1, events=2, idempotency_window=3))
    (receipt,) = await log.publish([Event("1", "t", b"1")])
    assert receipt.positions == {"all": Position(EPOCH, 1, "0000abcd", EPOCH)}
    (command,) = model.redis.commands
    assert command[:3] == [b"EVALSHA", APPEND.sha.encode(), b"5"]
    assert command[8:12] == [b"1000", b"2", b"3000", b""]


@virtual_time
async def test_a_page_is_read_with_one_command() -> None:
    model = Model()
    positions = model.append("a", *map(str, range(1, 6)))
    log = RedisStreams("redis://h")
    pages = [page async for page in log.replay_pages(at(positions[1], "a"), at(positions[-1], "a"))]
    assert [contents(page) for page in pages] == [[3, 4, 5]]
    assert isinstance(pages[0], RecordPage)
    assert pages[0].partition == "a"
    assert model.redis.commands == [
        [b"XRANGE", b"rt:a", b"%d-3" % EPOCH, b"%d-5" % EPOCH, b"COUNT", b"%d" % FIRST],
    ]


@virtual_time
async def test_a_full_page_is_read_with_one_command() -> None:
    model = Model()
    positions = model.append("a", *map(str, range(1, FIRST + 3)))
    log = RedisStreams("redis://h")
    items = await read(log, at(START, "a"), at(positions[-1], "a"))
    assert contents(items) == list(range(1, FIRST + 3))
    assert [command[0] for command in model.redis.commands] == [b"XRANGE", b"XRANGE"]
    assert int(model.redis.commands[1][-1]) > FIRST, "the next page may be larger"


@virtual_time
async def test_a_short_page_is_read_again_at_the_primary() -> None:
    """A replica that is behind must not pass for a loss."""
    model = Model()
    positions = model.append("a", *map(str, range(1, 5)))
    log = RedisStreams("redis://h")
    stream = model.streams[b"rt:a"]
    for replica in ([], stream[:3], stream[1:3]):
        primary, model.streams[b"rt:a"] = stream, list(replica)
        model.faults[b"XRANGE"] = [model.entries(b"rt:a")]
        model.streams[b"rt:a"] = primary
        assert contents(await read(log, at(START, "a"), at(positions[-1], "a"))) == [1, 2, 3, 4]
        assert model.redis.commands[-1] == [
            *(b"EVALSHA", RANGE.sha.encode(), b"2", b"rt:a", b"{rt:a}:meta"),
            *(b"%d-1" % EPOCH, b"%d-4" % EPOCH, model.redis.commands[-2][-1]),
        ]
        log = RedisStreams("redis://h")  # pages are kept for a while


@virtual_time
async def test_a_trimmed_page_is_a_gap() -> None:
    model = Model()
    positions = model.append("a", *map(str, range(1, 5)))
    model.streams[b"rt:a"] = []
    log = RedisStreams("redis://h")
    assert contents(await read(log, at(START, "a"), at(positions[-1], "a"))) == ["<trimmed>"]


@virtual_time
async def test_pages_of_large_records_are_short() -> None:
    model = Model()
    large = '"' + "x" * (PAGE_BYTES // 3) + '"'
    positions = model.append("a", *[large] * 6)
    log = RedisStreams("redis://h")
    pages = [page async for page in log.replay_pages(at(START, "a"), at(positions[-1], "a"))]
    assert [len(page) for page in pages] == [2, 2, 2]
    assert all(isinstance(page, RecordPage) for page in pages)


@virtual_time
async def test_readers_leave_connections_to_publishers() -> None:
    model = Model()
    model.busy = 1
    positions = model.append("a", *map(str, range(30)))
    log = RedisStreams("redis://h")
    await asyncio.gather(*(read(log, at(one, "a"), at(positions[-1], "a")) for one in positions[:-1]))
    assert len(model.redis.opened) == CONNECTIONS // 2


@virtual_time
async def test_closing_closes_every_connection() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    await log.ping()
    model.busy = 1
    reading = asyncio.create_task(read(log, at(START, "a"), at(START._replace(offset=1), "a")))
    await spin(20)
    await log.aclose()
    await asyncio.gather(reading, return_exceptions=True)
    assert all(peer.is_closing() for peer in model.redis.opened)
    assert reading.cancelled()
    closed = r"^Redis cannot be used now \(ConnectionClosed: the connections to Redis were closed\)$"
    with pytest.raises(TransportUnavailable, match=closed):
        await log.take("key", 1, 1, 1)


@virtual_time
async def test_evicting_closes_idle_connections() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    await log.ping()
    log.evict()
    assert model.redis.opened[0].is_closing()


@pytest.mark.parametrize("reply", [0, 1])
def test_unblocking_returns_whether_the_read_was_blocked(reply: int) -> None:
    @virtual_time
    async def run() -> None:
        model = Model()
        model.faults[b"UNBLOCK"] = [reply]
        assert await RedisStreams("redis://h").unblock(7) is bool(reply)
        assert model.redis.commands == [[b"CLIENT", b"UNBLOCK", b"7"]]

    run()


@virtual_time
async def test_each_log_has_its_own_prefix_and_scheme() -> None:
    model = Model()
    log = RedisStreams("redis://h:9/2", "pre", Partitions(types=frozenset({"t"})))
    await log.head(("t",))
    assert model.redis.opened[0].address[:2] == ("h", 9)
    assert model.redis.commands[-1][3:] == [b"pre:t", b"{pre:t}:meta", b"head"]
    cursor = await log.head(("t", "all"))
    assert isinstance(cursor, Cursor)
