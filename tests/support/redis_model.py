"""As much of Redis as the log's commands need: a model in this process, which can fail as a test says."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tidewire.model.cursor import Position
from tidewire.model.event import Event
from tidewire.model.record import pack
from tidewire.transports.base import Retention
from tidewire.transports.log_base import chain
from tidewire.transports.redis.layout import APPEND, RANGE, SEEK, TAKE, Layout
from tidewire.transports.redis.streams import RedisStreams

from tests.contract.acts import Received
from tests.support.scripted_redis import SILENCE, Peer, Reply, ScriptedRedis

EPOCH = 1_764_000_000_000
START = Position(EPOCH, 0)

SCRIPTS = {one.sha.encode(): one for one in (APPEND, RANGE, SEEK, TAKE)}
LAYOUT = Layout("rt", Retention())


class Model:
    """Streams whose entries a test appends; commands as `RedisStreams` sends them."""

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
        return self._run(*command[1:]) if name == b"EVALSHA" else "OK"

    def _run(self, sha: bytes, count: bytes, *rest: bytes) -> Reply:
        keys, arguments = rest[: int(count)], rest[int(count) :]
        script = SCRIPTS[sha]
        if script is SEEK:
            return [self._seek(key, arguments[0]) for key in keys[::2]]
        if script is RANGE:
            first, last, maximum = arguments
            return self._range(keys[0], first, last, int(maximum))
        return 1_500 if script is TAKE else [[b"%d" % EPOCH, b"1", b"0000abcd", b"%d" % EPOCH, 0]]

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
