"""The log on Upstash's REST API: the streams and scripts of `RedisStreams`, for processes without a TCP connection.

REST cannot block, so the tail polls: every `POLL_MIN` seconds after a record, then less and less often, down to every
`POLL_MAX` seconds; without subscribers, not at all. A poll is one command, an XREAD of all followed streams. Commands
per hour and process, whatever the number of subscribers, with the defaults:

    no subscriber         0
    subscribed, idle    720    3600 / POLL_MAX
    constant traffic 14,400    3600 / POLL_MIN, at most
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import Partitions
from tidewire.model.record import Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.appending import Answer, Part
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.errors import CommandError
from tidewire.transports.log_base import PAGE, LogBase, PageSize
from tidewire.transports.log_follower import UNKNOWN_FAILURE, FollowingTail, TailPageSize, control_first
from tidewire.transports.redis.layout import (
    APPEND,
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

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

POLL_MIN = 0.25  # seconds: a delay that nobody notices, and at most 14,400 commands per hour
POLL_MAX = 5.0  # seconds: the first event after a silence is 2.5 s late on average, for 720 commands per hour

SLOWING = 1.5  # factor of the wait after a poll without records: 12 s from the fastest to the slowest poll
VERIFY = 60.0  # seconds: polls do not notice a store that fell back to an older state, and no connection breaks

_LARGE = (
    "The request is larger than Upstash takes: it refuses this again, but perhaps not its events one by one, or each to"
    " fewer users"
)

Entries = Sequence[tuple[str, Sequence[str]]]


class UpstashRest(LogBase["_PollingTail"]):
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
            tail.wake()
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

    async def read_after(
        self, positions: Mapping[str, Position], page_size: TailPageSize
    ) -> tuple[dict[str, Entries], bool]:
        """Return the streams' next entries after these positions, and whether there are more; one command."""
        names = {self.layout.stream(name): name for name in positions}
        ids = [f"{at.epoch}-{at.offset}" for at in positions.values()]
        found, count = await self._read(
            lambda count: ["XREAD", "COUNT", count, "STREAMS", *names, *ids], page_size.records, in_turn=False
        )
        entries = {names[stream]: entries for stream, entries in found or ()}
        full = any(len(read) >= count for read in entries.values())
        page_size.adjust([len(fields[1]) for read in entries.values() for _, fields in read], full=full)
        return entries, full

    def _make_tail(self, handler: Handler) -> "_PollingTail":
        return _PollingTail(self, handler, *self._poll)

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
            tail.note_heads(heads.positions)
        return heads

    async def _read_positions(self, partitions: Sequence[str], time: int | None) -> Cursor:
        # One call for all partitions, since each command is billed.
        keys = [key for partition in partitions for key in self.layout.keys(partition)]
        (positions,) = await self._run(SEEK, [(keys, ["head" if time is None else str(time)])])
        return Cursor({name: parse_position(at) for name, at in zip(partitions, positions, strict=True)})

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


class _PollingTail(FollowingTail):
    """Polls all followed streams at once; the pause depends on what the last poll found."""

    def __init__(self, rest: UpstashRest, handler: Handler, poll_min: float, poll_max: float) -> None:
        super().__init__(handler)
        self._rest = rest
        self._page_size = TailPageSize()
        self._unread = True  # a partition is followed of which no read was answered yet
        self._min = poll_min
        self._max = max(poll_min, poll_max)
        self._wake = asyncio.Event()
        self._verify_at = 0.0  # on the loop's clock

    async def verify(self) -> None:
        """Compare the tail's positions with heads read over new connections; see `Verifying`."""
        self._rest.session.evict()
        await self.follower.verify(self._rest.read_heads)

    def wake(self) -> None:
        """Poll soon: there may be new records."""
        self._wake.set()

    def note_heads(self, heads: Mapping[str, Position]) -> None:
        """Poll soon if these heads lie after the tail's positions."""
        if self.follower.ahead(heads):
            self.wake()

    async def run(self) -> None:
        """Poll until cancelled; a failure of any kind is logged and followed by another try."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff(cap=max(5.0, self._max))
        wait = self._min
        while True:
            await self.follower.wait_for_partitions()
            self._wake.clear()
            began = clock()
            try:
                found = await self._poll()
                self.running = True
                backoff.reset()
            except TransportUnavailable as error:
                self.failure = error.detail
                warnings.warn(f"tail lost, trying again: {error.detail}")
                await self._pause(backoff)
                continue
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = UNKNOWN_FAILURE
                warnings.exception("tail failed, trying again")
                await self._pause(backoff)
                continue
            wait = self._min if found else min(wait * SLOWING, self._max)
            if await self._is_woken(wait):
                wait = self._min
                if not self._unread:  # a new subscriber does not wait for the shortest pause
                    await asyncio.sleep(began + self._min - clock())

    async def _poll(self) -> bool:
        """Deliver new records, and return whether there were any."""
        clock = asyncio.get_running_loop().time
        found_any = False
        if clock() >= self._verify_at:  # instead of a poll: the heads also say whether there are new records
            partitions, self._unread = tuple(self.follower.positions), False
            found_any = await self.follower.verify(self._rest.read_heads)
            self._verify_at = clock() + VERIFY
            if not found_any and not self._unread:
                self.follower.mark_read(partitions)
                return False
        more = True
        while more and self.follower.positions:
            self._unread, partitions = False, tuple(self.follower.positions)
            found, more = await self._rest.read_after(self.follower.positions, self._page_size)
            self.follower.mark_read(partitions)
            for name in control_first(found):
                found_any = True
                self.follower.deliver(name, _parse(name, found[name]))
                epoch, _, offset = found[name][-1][0].partition("-")
                self.follower.skip_unreadable(name, int(epoch), int(offset))
        return found_any

    async def _pause(self, backoff: Backoff) -> None:
        self.running = False
        self._unread = True
        self._verify_at = 0.0
        RECONNECTS.add()
        await asyncio.sleep(self._rest.session.seconds_held + backoff.next())

    async def _is_woken(self, seconds: float) -> bool:
        """Wait so long, or until `wake` is called; return whether it was."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        return self._wake.is_set()

    def _on_followed(self, partitions: Iterable[str]) -> None:
        self._unread = True
        self.wake()


def _parse(partition: str, entries: Entries) -> list[Record]:
    """Return the records of stream entries in REST's form: nested lists of texts."""
    return parse_entries(partition, [(id.encode(), [field.encode() for field in fields]) for id, fields in entries])
