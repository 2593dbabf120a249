"""The log on Redis Streams, against a small model of Redis in this process that can fail as a test says."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tidewire.errors import AppendRefused, TransportRefused, TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap, pack
from tidewire.model.record_page import RecordPage
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Retention
from tidewire.transports.log_base import FIRST, PAGE_BYTES, chain
from tidewire.transports.redis import streams
from tidewire.transports.redis.layout import APPEND, RANGE, SEEK, TAKE, Layout
from tidewire.transports.redis.pool import CONNECTIONS, TIMEOUT
from tidewire.transports.redis.streams import BLOCK, CHECK_HEADS, RedisStreams

from tests.contract.acts import Received, at, read, contents
from tests.support.clocks import virtual_time
from tests.support.scripted_redis import HANG_UP, SILENCE, Peer, Reply, ScriptedRedis

EPOCH = 1_764_000_000_000
SCRIPTS = {one.sha.encode(): one for one in (APPEND, RANGE, SEEK, TAKE)}
LAYOUT = Layout("rt", Retention())


class Model:
    """As much of Redis as the log's commands need."""

    def __init__(self) -> None:
        self.redis = ScriptedRedis(self.answer).install()
        self.streams: dict[bytes, list[tuple[Position, bytes]]] = {}
        self.epochs: dict[bytes, int] = {}
        self.faults: dict[bytes, list[Reply]] = {}
        """Replies to the next commands of a name, instead of the right ones."""
        self.busy = 0.0
        """Seconds that an XRANGE takes."""
        self._blocked: dict[int, tuple[Peer, Sequence[bytes]]] = {}

    def append(self, partition: str, *data: str) -> list[Position]:
        stream = LAYOUT.stream(partition).encode()
        entries = self.streams.setdefault(stream, [])
        for one in data:
            event = Event(f"{partition}-{len(entries) + 1}", "t", one.encode())
            last = entries[-1][0] if entries else Position(self.epoch(stream), 0)
            position = Position(last.epoch, last.offset + 1, chain(last.check, event.chained), EPOCH + len(entries) + 1)
            entries.append((position, pack(event)))
        for client, (peer, command) in list(self._blocked.items()):
            if (found := self._read(command)) is not None:
                del self._blocked[client]
                peer.send(found)
        return [position for position, _ in entries[-len(data) :]]

    def epoch(self, stream: bytes) -> int:
        return self.epochs.get(stream, EPOCH)

    def peers(self, name: bytes) -> list[Peer]:
        """The connections on which a command of this name was sent."""
        return [peer for peer in self.redis.opened if any(command[0] == name for command in peer.commands)]

    def sent(self, name: bytes) -> list[list[bytes]]:
        return [command for command in self.redis.commands if command[0] == name]

    def answer(self, peer: Peer, command: Sequence[bytes]) -> Reply:
        name = command[0]
        if name == b"CLIENT":
            name = command[1]
        if faults := self.faults.get(name):
            return faults.pop(0)
        if name == b"ID":
            return self.redis.opened.index(peer) + 1
        if name == b"UNBLOCK":
            blocked = self._blocked.pop(int(command[2]), None)
            if blocked is not None:
                blocked[0].send(None)
            return int(blocked is not None)
        if name == b"XREAD":
            found = self._read(command)
            if found is not None or b"BLOCK" not in command:
                return found
            client = self.redis.opened.index(peer) + 1
            self._blocked[client] = peer, command
            seconds = int(command[command.index(b"BLOCK") + 1]) / 1000
            asyncio.get_running_loop().call_later(seconds, self._end_block, client, command)
            return SILENCE
        if name == b"XRANGE":
            found = self._range(command[1], command[2], command[3], int(command[5]))
            if self.busy:
                asyncio.get_running_loop().call_later(self.busy, peer.send, found)
                return SILENCE
            return found
        if name == b"EVALSHA":
            keys, arguments = command[3 : 3 + int(command[2])], command[3 + int(command[2]) :]
            if SCRIPTS[command[1]] is SEEK:
                return [self._seek(key, arguments[0]) for key in keys[::2]]
            if SCRIPTS[command[1]] is RANGE:
                return self._range(keys[0], *arguments[:2], int(arguments[2]))
            return 1_500 if SCRIPTS[command[1]] is TAKE else [[b"%d" % EPOCH, b"1", b"0000abcd", b"%d" % EPOCH, 0]]
        return "OK"

    def _end_block(self, client: int, command: Sequence[bytes]) -> None:
        if client in self._blocked and self._blocked[client][1] is command:
            self._blocked.pop(client)[0].send(None)

    def _read(self, command: Sequence[bytes]) -> Any:
        count = int(command[command.index(b"COUNT") + 1])
        names = command[command.index(b"STREAMS") + 1 :]
        found = []
        for stream, after in zip(names[: len(names) // 2], names[len(names) // 2 :], strict=True):
            epoch, _, offset = after.partition(b"-")
            entries = self.entries(stream, (int(epoch), int(offset) + 1))[:count]
            if entries:
                found.append([stream, entries])
        return found or None

    def _range(self, stream: bytes, first: bytes, last: bytes, count: int) -> Any:
        bounds = [(int(epoch), int(offset)) for epoch, _, offset in (one.partition(b"-") for one in (first, last))]
        return self.entries(stream, bounds[0], bounds[1])[:count]

    def entries(self, stream: bytes, first: tuple[int, int] = (0, 0), last: tuple[int, int] = (2**62, 0)) -> list[Any]:
        """The entries of a stream as Redis sends them."""
        return [
            [b"%d-%d" % at[:2], [b"e", at.check.encode() + b"%013d" % at.time + packed]]
            for at, packed in self.streams.get(stream, ())
            if first <= at[:2] <= last
        ]

    def _seek(self, stream: bytes, wanted: bytes) -> list[bytes]:
        entries = self.streams.get(stream, [])
        if wanted != b"head":
            entries = [entry for entry in entries if entry[0].time < int(wanted)]
        at = entries[-1][0] if entries else Position(self.epoch(stream), 0, "", EPOCH)
        return [b"%d" % at.epoch, b"%d" % at.offset, at.check.encode(), b"%013d" % at.time]


START = Position(EPOCH, 0)


@pytest.fixture(autouse=True)
def _unthrottled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log each warning, also one that another test has caused."""
    monkeypatch.setattr(streams, "warnings", ThrottledLog(streams.log))


@asynccontextmanager
async def tailing(log: RedisStreams, **positions: Position) -> AsyncIterator[tuple[Received, Any]]:
    """Open the tail; it follows these partitions, and they were read."""
    received = Received()
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
    assert not log.is_away


@virtual_time
async def test_health_is_probed_while_redis_is_away() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    model.redis.failure = ConnectionRefusedError()
    for _ in range(3):
        with pytest.raises(TransportUnavailable):
            await log.ping()
    assert log.is_away
    model.redis.failure = None
    await log.ping()
    assert not log.is_away


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
    assert not log.is_away


@virtual_time
async def test_a_refusal_of_one_partition_refuses_the_call() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    model.faults[b"EVALSHA"] = [[[b"1", b"0", b"", b"1"]], Exception("OOM no memory")]
    with pytest.raises(TransportRefused):
        await log.head(("a", "b"))


@virtual_time
async def test_a_lost_store_is_away_after_some_calls() -> None:
    model = Model()
    log = RedisStreams("redis://h")
    model.redis.failure = ConnectionRefusedError()
    with pytest.raises(TransportUnavailable):
        await log.head(("a",))
    with pytest.raises(TransportUnavailable):
        await log.take("a", 1, 1, 1)
    with pytest.raises(TransportUnavailable):
        await read(log, at(START, "a"), at(START._replace(offset=1), "a"))
    assert log.is_away


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
    await turns()
    await log.aclose()
    await asyncio.gather(reading, return_exceptions=True)
    assert all(peer.is_closing() for peer in model.redis.opened)
    assert reading.cancelled()


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
        (b"XREAD", Exception("UNBLOCKED force unblock"), "Redis cannot be used now (CommandError: UNBLOCKED)"),
        (b"XREAD", [[b"other", []]], "it failed, and the log of the server says why"),
    ],
    ids=["client", "hang-up", "malformed", "replica", "silent", "demoted", "bug"],
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
            while tail.failure is None:  # noqa: ASYNC110
                await asyncio.sleep(1e-5)  # far less than the pause before the next try
            assert not tail.running
            assert tail.failure == failure
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


@virtual_time
async def test_each_log_has_its_own_prefix_and_scheme() -> None:
    model = Model()
    log = RedisStreams("redis://h:9/2", "pre", Partitions(types=frozenset({"t"})))
    await log.head(("t",))
    assert model.redis.opened[0].address[:2] == ("h", 9)
    assert model.redis.commands[-1][3:] == [b"pre:t", b"{pre:t}:meta", b"head"]
    cursor = await log.head(("t", "all"))
    assert isinstance(cursor, Cursor)
