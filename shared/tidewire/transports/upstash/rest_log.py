"""The log on Upstash's REST API: the streams and scripts of `RedisStreams`, for processes without a TCP connection.

REST cannot block. So the tail subscribes to the doorbell that every append rings, and reads when it rings; while the
bell is not heard, it polls: every `POLL_MIN` seconds after a record, then less and less often, down to every `POLL_MAX`
seconds. Without subscribers it does neither. A read is one command, an XREAD of all followed streams. Commands per hour
and process, whatever the number of subscribers, with the defaults:

    no subscriber          0
    subscribed, idle      60    a read of the heads per minute, and 1 for each time the subscription is opened
    ... and not heard    720    3600 / POLL_MAX
    constant traffic  14,400    3600 / POLL_MIN, at most
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.transports.appending import Answer, Part
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.errors import CommandError
from tidewire.transports.log_base import PAGE, LogBase, PageSize
from tidewire.transports.log_follower import NewRecords, TailPageSize
from tidewire.transports.redis.layout import (
    APPEND,
    OWN_RING,
    RANGE,
    SEEK,
    TAKE,
    Arguments,
    Call,
    Layout,
    Script,
    parse_entries,
    parse_position,
    take_call,
    write_check,
)
from tidewire.transports.upstash.session import CONNECTIONS, TOO_LARGE, Session, unavailable

if TYPE_CHECKING:
    from tidewire.transports.upstash.tail import RestTail

POLL_MIN = 0.25  # seconds: a delay that nobody notices, and at most 14,400 commands per hour
POLL_MAX = 5.0  # seconds: the first event after a silence is 2.5 s late on average, for 720 commands per hour

_LARGE = (
    "The request is larger than Upstash takes: it refuses this again, but perhaps not its events one by one, or each to"
    " fewer users"
)

Entries = Sequence[tuple[str, Sequence[str]]]


class UpstashRest(LogBase["RestTail"]):
    """A `Log` on Upstash's REST API."""

    def __init__(
        self,
        url: str,
        token: str,
        prefix: str = "rt",
        partitions: Partitions = Partitions(),
        retention: Retention = Retention(),
        *,
        poll_min: float = POLL_MIN,
        poll_max: float = POLL_MAX,
    ) -> None:
        super().__init__(partitions, retention, reads_at_once=CONNECTIONS // 2)
        self.layout = Layout(prefix, retention)
        self.session = Session(url, token)
        self._poll = (poll_min, poll_max)
        self._page_size = PageSize()
        self._max_page = PAGE  # entries that fit into one reply

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events, each partition's in one atomic script, all scripts in one request."""
        receipts = await super().publish(events)
        for tail in self._tails:
            for receipt in receipts:
                tail.expect(receipt.positions or {})
        return receipts

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket that all processes share, in one round trip; see `Buckets.take`."""
        (wait,) = await self._run(TAKE, [take_call(self.layout.prefix, bucket, cost, capacity, seconds)], cold=True)
        return int(wait) / 1000

    async def ping(self) -> None:
        """Return if Upstash accepts the token, and would accept an append."""
        (reply,) = await self.session.send([write_check(self.layout.prefix)], even_if_open=True, cold=True)
        if isinstance(reply, CommandError):
            raise unavailable(reply) from reply

    @property
    def bell(self) -> str:
        """The channel of the doorbell."""
        return self.layout.bell("")

    @property
    def is_unavailable(self) -> bool:
        """Whether Upstash is known to be unavailable."""
        return self.session.is_unavailable

    async def aclose(self) -> None:
        """Close every connection."""
        await super().aclose()
        await self.session.aclose()

    async def read_heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the heads, without sharing the read with others."""
        return await self._read_positions(partitions, None)

    async def read_heads_and_ring(self, partitions: Sequence[str]) -> tuple[Cursor, bool]:
        """Return the heads, and whether the reader's own ring was sent; one command for both."""
        positions = await self._seek(partitions, ["head", self.bell, OWN_RING])
        return _cursor(partitions, positions[:-1]), positions[-1] == 1

    async def read_after(
        self, positions: Mapping[str, Position], page_size: TailPageSize
    ) -> tuple[dict[str, NewRecords], bool]:
        """Return the partitions' next records after these positions, and whether there are more; one command."""
        names = {self.layout.stream(name): name for name in positions}
        ids = [f"{at.epoch}-{at.offset}" for at in positions.values()]
        found, count = await self._read(
            lambda count: ["XREAD", "COUNT", count, "STREAMS", *names, *ids], page_size.records, in_turn=False
        )
        read = {names[stream]: entries for stream, entries in found or ()}
        full = any(len(entries) >= count for entries in read.values())
        page_size.adjust([len(fields[1]) for entries in read.values() for _, fields in entries], full=full)
        return {name: _new_records(name, entries) for name, entries in read.items()}, full

    def _make_tail(self, handler: Handler) -> "RestTail":
        from tidewire.transports.upstash.tail import RestTail  # a function that only publishes starts without it

        return RestTail(self, handler, *self._poll)

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        calls = self.layout.append(expected, parts)
        try:
            return calls.answers(await self._run(APPEND, calls.calls, cold=True))
        except TransportUnavailable as error:
            if isinstance(error.__cause__, CommandError) and error.__cause__.code == TOO_LARGE:
                raise EventRefused(_LARGE) from error
            raise

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        heads = await self.read_heads(partitions)
        for tail in self._tails:
            tail.expect(heads.positions)
        return heads

    async def _read_positions(self, partitions: Sequence[str], time: int | None) -> Cursor:
        return _cursor(partitions, await self._seek(partitions, ["head" if time is None else str(time)]))

    async def _seek(self, partitions: Sequence[str], arguments: Arguments) -> Sequence[Any]:
        # One call for all partitions, since each command is billed.
        keys = [key for partition in partitions for key in self.layout.keys(partition)]
        (positions,) = await self._run(SEEK, [(keys, arguments)])
        assert isinstance(positions, list)
        return positions

    async def _read_page(self, partition: str, after: Position, until: int) -> list[Record]:
        stream = self.layout.stream(partition)
        start, end = f"{after.epoch}-{after.offset + 1}", f"{after.epoch}-{until}"
        entries: Entries
        entries, count = await self._read(
            lambda count: ["XRANGE", stream, start, end, "COUNT", count], self._page_size.records
        )
        if len(entries) < count and (entries[-1][0] if entries else "") != end:
            # Fewer than the primary's head promised: a replica that is behind must not pass for a loss.
            entries, _ = await self._read(
                lambda count: RANGE.in_full(self.layout.keys(partition), [start, end, count]), count
            )
        fitting = self._page_size.fit([len(fields[1]) for _, fields in entries])
        return _parse(partition, entries[:fitting])

    async def _read(self, command: Callable[[int], Arguments], count: int, *, in_turn: bool = True) -> tuple[Any, int]:
        """Return the reply to a command that reads up to `count` entries, and the count that was requested at last.

        That one is lower if so many entries do not fit into a reply.
        """
        while True:
            count = min(count, self._max_page)
            (reply,) = await self.session.send([command(count)], in_turn=in_turn)
            if not isinstance(reply, CommandError):
                return reply, count
            if count == 1 or reply.code != TOO_LARGE:
                raise unavailable(reply) from reply
            self._max_page = count // 2

    async def _run(self, script: Script, calls: Sequence[Call], *, cold: bool = False) -> list[Any]:
        """Return the reply of each call of a script, all in one request."""
        replies = await script.run(calls, functools.partial(self.session.send, cold=cold))
        for reply in replies:
            if isinstance(reply, CommandError):
                raise unavailable(reply) from reply
        return replies


def _parse(partition: str, entries: Entries) -> list[Record]:
    """Return the records of stream entries in REST's form: nested lists of texts."""
    return parse_entries(partition, [(id.encode(), [field.encode() for field in fields]) for id, fields in entries])


def _cursor(partitions: Sequence[str], positions: Sequence[Any]) -> Cursor:
    return Cursor({name: parse_position(at) for name, at in zip(partitions, positions, strict=True)})


def _new_records(partition: str, entries: Entries) -> NewRecords:
    epoch, _, offset = entries[-1][0].partition("-")
    return NewRecords(_parse(partition, entries), (int(epoch), int(offset)))
