"""The log on Upstash's REST API: the same streams and scripts as over TCP, for readers and publishers without a socket.

REST cannot block, so the tail polls: after a record every `POLL_MIN` seconds, then more and more slowly, down to
every `POLL_MAX` seconds; while nobody is subscribed, not at all. A poll is one command, an XREAD of all followed
streams. Commands an hour and process, however many subscribers it has, by the defaults:

    nobody subscribed     0
    subscribed, idle    720    3600 / POLL_MAX
    constant traffic 14,400    3600 / POLL_MIN, at most
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from tidewire.errors import EventRefused, TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.partition_schemes import Registry
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports import log_base
from tidewire.transports.appending import Answer, Part, Writer
from tidewire.transports.base import Handler, Receipt, Retention
from tidewire.transports.log_follower import BROKE, Following, TailPage, control_first, stop
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
    taking,
    trial,
)
from tidewire.transports.single_flight import SharedHead, SharedPages
from tidewire.transports.upstash.session import CONNECTIONS, TOO_LARGE, CommandError, Session, unavailable

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

POLL_MIN = 0.25  # seconds: what a person does not notice, and at worst 14,400 commands an hour
POLL_MAX = 5.0  # seconds: the first event after a silence is 2.5 s late on average, for 720 commands an hour

_SLOWING = 1.5  # each poll that brings nothing waits so much longer: 12 s from the fastest to the slowest
_VERIFY = 60.0  # seconds; polls do not notice a store that fell back to an older state, and no connection breaks

_LARGE = (
    "The request is larger than Upstash takes: it refuses this again, but perhaps not its events one by one, or each to"
    " fewer users"
)

Entries = Sequence[tuple[str, Sequence[str]]]


class UpstashRest:
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
        self.layout = Layout(prefix, retention)
        self._writer = Writer(partitions, retention, self._append)
        self.session = Session(url, token)
        self._heads = SharedHead(self._read_heads)
        self._pages = SharedPages(self._read_page, CONNECTIONS // 2)
        self._poll = (poll_min, poll_max)
        self._tails: set[_PollingTail] = set()
        self._page_size = log_base.PageSize()
        self._most = log_base.PAGE  # entries that fit an answer

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append all events, each partition's in one atomic script, all scripts in one request."""
        receipts = await self._writer.publish(events)
        for tail in self._tails:
            tail.ring()
        return receipts

    @asynccontextmanager
    async def on_message(self, handler: Handler) -> AsyncIterator["_PollingTail"]:
        """Open the tail: one poll for all that is followed, whatever the number of subscribers."""
        tail = _PollingTail(self, handler, *self._poll)
        self._tails.add(tail)
        task = asyncio.create_task(tail.run())
        try:
            yield tail
        finally:
            self._tails.discard(tail)
            await stop(task)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition, in one request."""
        return await self._heads(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before the first record at or after `time`, in one request."""
        return await self.places(partitions, str(time or 0))

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]`; see `Log.replay`."""
        return log_base.replay(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket of all processes, in one round trip; see `Buckets.take`."""
        (wait,) = await self._run(TAKE, [taking(self.layout.prefix, bucket, cost, capacity, seconds)], cold=True)
        return int(wait) / 1000

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `PagedLog`."""
        return log_base.pages(after, until, read_page=self._pages, seek=self.seek, forget=self._pages.forget)

    async def ping(self) -> None:
        """Return if Upstash takes the token, and would take an append."""
        (reply,) = await self.session.send([trial(self.layout.prefix)], ask=True, cold=True)
        if isinstance(reply, CommandError):
            raise unavailable(reply.code)

    @property
    def is_away(self) -> bool:
        """Whether Upstash is known to be away."""
        return self.session.is_away

    async def aclose(self) -> None:
        """Close every connection."""
        await self._heads.aclose()
        await self._pages.aclose()
        await self.session.aclose()

    async def places(self, partitions: Sequence[str], where: str) -> Cursor:
        """Return what the script `SEEK` finds for each partition; one command, since each is billed."""
        call: Call = ([key for partition in partitions for key in self.layout.keys(partition)], [where])
        (places,) = await self._run(SEEK, [call])
        return Cursor({name: parse_position(place) for name, place in zip(partitions, places, strict=True)})

    async def read_after(self, places: Mapping[str, Position], page: TailPage) -> tuple[dict[str, Entries], bool]:
        """Return what the streams hold after these places, and whether there is more; one command."""
        names = {self.layout.stream(name): name for name in places}
        ids = [f"{at.epoch}-{at.offset}" for at in places.values()]
        found, asked = await self._read(
            lambda count: ["XREAD", "COUNT", count, "STREAMS", *names, *ids], page.records, in_turn=False
        )
        entries = {names[stream]: entries for stream, entries in found or ()}
        full = any(len(read) >= asked for read in entries.values())
        page.note([len(fields[1]) for read in entries.values() for _, fields in read], full=full)
        return entries, full

    async def _append(self, expected: str, parts: Sequence[Part]) -> tuple[list[Answer], Registry | None]:
        appending = self.layout.append(expected, parts)
        try:
            return appending.answers(await self._run(APPEND, appending.calls, cold=True))
        except TransportUnavailable as error:
            if isinstance(error.__cause__, CommandError) and error.__cause__.code == TOO_LARGE:
                raise EventRefused(_LARGE) from error
            raise

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        heads = await self.places(partitions, "head")
        for tail in self._tails:
            tail.notice(heads)
        return heads

    async def _read_page(self, partition: str, after: Position, until: int) -> list[Record]:
        stream = self.layout.stream(partition)
        start, end = f"{after.epoch}-{after.offset + 1}", f"{after.epoch}-{until}"
        entries: Entries
        entries, asked = await self._read(
            lambda page: ["XRANGE", stream, start, end, "COUNT", page], self._page_size.records
        )
        if len(entries) < asked and (entries[-1][0] if entries else "") != end:
            # Not all that the primary's head promised: a replica that is behind must not pass for a loss.
            entries, _ = await self._read(
                lambda page: RANGE.whole(self.layout.keys(partition), [start, end, page]), asked
            )
        fitting = self._page_size.fit([len(fields[1]) for _, fields in entries])
        return _parse(partition, entries[:fitting])

    async def _read(self, command: Callable[[int], Arguments], page: int, *, in_turn: bool = True) -> tuple[Any, int]:
        """Return the reply to a command that reads a page of entries, and how many it asked for at last.

        That is fewer than `page` where so many do not fit an answer.
        """
        while True:
            page = min(page, self._most)
            (reply,) = await self.session.send([command(page)], in_turn=in_turn)
            if not isinstance(reply, CommandError):
                return reply, page
            if page == 1 or reply.code != TOO_LARGE:
                raise unavailable(reply.code)
            self._most = page // 2

    async def _run(self, script: Script, calls: Sequence[Call], *, cold: bool = False) -> list[Any]:
        """Run one script for each (keys, arguments), all in one request; a script is sent whole only once."""
        replies = await script.run(calls, functools.partial(self.session.send, cold=cold), _is_unknown)
        for reply in replies:
            if isinstance(reply, CommandError):
                raise unavailable(reply.code) from reply
        return replies


class _PollingTail:
    """Asks for all followed streams at once, sooner or later after what the last answer brought."""

    def __init__(self, rest: UpstashRest, handler: Handler, poll_min: float, poll_max: float) -> None:
        self.running = False
        self.failure: str | None = None
        self._rest = rest
        self._following = Following(handler)
        self._page = TailPage()
        self._unread = True  # something is followed that no read was answered for
        self._min = poll_min
        self._max = max(poll_min, poll_max)
        self._bell = asyncio.Event()
        self._verify_at = 0.0  # on the loop's clock

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        """Read these partitions too, from the next poll on, which comes at once."""
        read = self._following.follow(positions)
        if read is not None:
            self._unread = True
            self.ring()
        return read

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions, from the next poll on."""
        self._following.unfollow(partitions)

    async def verify(self) -> None:
        """Read heads by new connections, and compare; see `Verifying`."""
        self._rest.session.condemn()
        await self._following.verify(lambda names: self._rest.places(names, "head"))

    def ring(self) -> None:
        """Do not wait for the next poll: there is something to be read."""
        self._bell.set()

    def notice(self, heads: Cursor) -> None:
        """Ring where somebody has seen more of the log than the tail has."""
        at = self._following.at
        if any(name in at and head[:2] > at[name][:2] for name, head in heads.positions.items()):
            self.ring()

    async def run(self) -> None:
        """Poll until cancelled; a failure of any kind is logged and followed by another try."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff(cap=max(5.0, self._max))
        wait = self._min
        while True:
            await self._following.wanted()
            self._bell.clear()
            began = clock()
            try:
                heard = await self._poll()
                self.running = True
                backoff.reset()
            except TransportUnavailable as error:
                self.failure = error.detail
                warnings.warn(f"tail lost, trying again: {error.detail}")
                await self._stay_away(backoff)
                continue
            except Exception:  # noqa: BLE001 - `exception` logs it
                self.failure = BROKE
                warnings.exception("tail failed, trying again")
                await self._stay_away(backoff)
                continue
            wait = self._min if heard else min(wait * _SLOWING, self._max)
            if await self._is_rung(wait):
                wait = self._min
                if not self._unread:  # somebody waits for the first read of what was followed
                    await asyncio.sleep(began + self._min - clock())  # however often it is rung

    async def _poll(self) -> bool:
        """Hand over what is new, and tell whether anything was."""
        clock = asyncio.get_running_loop().time
        heard = False
        if clock() >= self._verify_at:  # instead of a poll: it tells as well whether there is more
            asked, self._unread = tuple(self._following.at), False
            heard = await self._following.verify(lambda names: self._rest.places(names, "head"))
            self._verify_at = clock() + _VERIFY
            if not heard and not self._unread:
                self._following.answered(asked)
                return False
        more = True
        while more and self._following.at:
            self._unread, asked = False, tuple(self._following.at)
            found, more = await self._rest.read_after(self._following.at, self._page)
            self._following.answered(asked)
            for name in control_first(found):
                heard = True
                self._following.deliver(name, _parse(name, found[name]))
                epoch, _, offset = found[name][-1][0].partition("-")
                self._following.step_over(name, int(epoch), int(offset))
        return heard

    async def _stay_away(self, backoff: Backoff) -> None:
        self.running = False
        self._unread = True
        self._verify_at = 0.0
        RECONNECTS.add()
        await asyncio.sleep(self._rest.session.held + backoff.next())

    async def _is_rung(self, seconds: float) -> bool:
        """Wait so long, or until the bell rings; tell whether it did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
        return self._bell.is_set()


def _parse(partition: str, entries: Entries) -> list[Record]:
    """Return the records of stream entries as REST answers them: nested lists of text."""
    return parse_entries(partition, [(id.encode(), [field.encode() for field in fields]) for id, fields in entries])


def _is_unknown(reply: Any) -> bool:
    return isinstance(reply, CommandError) and reply.code == "NOSCRIPT"
