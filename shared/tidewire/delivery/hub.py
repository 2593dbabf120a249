"""The hub: one process's subscribers, one tail, and the way in."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self

from tidewire.delivery.early_delivery import Once
from tidewire.delivery.fanout import Fanout, Sink
from tidewire.delivery.known_schemes import KnownSchemes
from tidewire.delivery.replay import Stats
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.subscriber import Subscriber
from tidewire.delivery.tracer import Tracer
from tidewire.delivery.unread import Unread
from tidewire.errors import TransportRefused, TransportUnavailable, Unavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.event import Event
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import Histogram
from tidewire.protocol.sse import Format
from tidewire.transports.base import (
    Advising,
    Buffering,
    Explaining,
    Log,
    Receipt,
    Retention,
    Tail,
    Transport,
    Verifying,
)

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # for the first answer; the start waits so long
TRIES = 3  # to read heads that are not behind the tail; between two of them the tail finds out why they are
REFUSAL_SECONDS = 30.0
"""For how long a refused append counts against readiness. Not for ever: an instance that a load balancer has taken out
gets no publication that could succeed and prove that the store was mended."""
HEARTBEAT_SLOTS = 16  # the turns of one interval: not all subscribers are written to at once


class Hub:
    """Publishes to a transport and delivers what its tail brings to the subscribers of this process.

    Whoever assigns the order delivers the event: where the transport is a log, what `dispatch` published comes
    back by the tail; delivering it before would move cursors past records that are still on their way.
    """

    def __init__(
        self,
        transport: Transport,
        partitions: Partitions = Partitions(),
        *,
        heartbeat: float = 15.0,
        ring: Ring | None = None,
        window: float = Retention().idempotency_window,
        tracer: Tracer | None = None,
    ) -> None:
        self.transport = transport
        self.tracer = tracer
        self.partitions = partitions
        self.heartbeat = heartbeat
        self._log = transport if isinstance(transport, Log) else None
        ring = Ring() if ring is None else ring
        self.fanout = Fanout(ring, rereads=self._log is not None, tracer=tracer)
        self.stats = Stats()
        self.subscribers: set[Subscriber] = set()
        self.draining = False
        self.published = 0
        self.refused = 0  # events that were answered with 503
        self._refusal: tuple[str, float] | None = None  # why the last append was refused, and until when that counts
        self.publish_seconds = Histogram()
        self._deliver = self.fanout.broadcast  # where the tail's items go
        self._buffers = isinstance(transport, Buffering)
        if self._buffers:
            self.fanout.once = Once(window)
        self.schemes = KnownSchemes(transport, partitions, self._send_strays_away)
        self._control = () if self._log is None else (SCHEMES,)
        self._readers: dict[str, int] = {}
        self._context: AbstractAsyncContextManager[Tail] | None = None
        self._tail: Tail | None = None
        self._opening = asyncio.Lock()
        self._unread = Unread(LOOK_SECONDS)
        self._verifying: asyncio.Task[None] | None = None
        self._slots: list[dict[Subscriber, None]] = [{} for _ in range(HEARTBEAT_SLOTS)]
        self._slot = 0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def check_transport(self) -> None:
        """See whether the transport answers, and say so in the log where it does not: the instance starts anyway."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self.transport.ping()
        except (TimeoutError, TransportUnavailable) as error:
            why = error.detail if isinstance(error, TransportUnavailable) else f"no answer within {LOOK_SECONDS:g} s"
            meanwhile = "what is published is kept in memory" if self._buffers else "nothing can be published"
            logger.warning("started while the transport is away, until it is back %s: %s", meanwhile, why)

    async def dispatch(self, events: Sequence[Event]) -> list[Receipt]:
        """Publish the events; each reaches every matching subscriber of every process once.

        Raises TransportUnavailable; then some may have been taken, and the same ids can be sent again.
        """
        if self.tracer is None or not events:
            return await self._publish(events)
        with self.tracer.append(events) as append:
            receipts = await self._publish(append.events)
            append.took(receipts)
            return receipts

    async def _publish(self, events: Sequence[Event]) -> list[Receipt]:
        began = time.monotonic()
        try:
            receipts = await self.transport.publish(events)
        except TransportUnavailable as error:
            self.refused += len(events)
            if isinstance(error, TransportRefused):
                self._refusal = error.detail, time.monotonic() + REFUSAL_SECONDS
            raise
        self._refusal = None
        self.publish_seconds.observe(time.monotonic() - began)
        self.published += len(receipts)
        for event, receipt in zip(events, receipts, strict=True):
            if receipt.positions is None and not receipt.duplicate:
                for partition, part in self.partitions.route(event):
                    self._deliver(Record(part, partition, None))
        return receipts

    def subscribe(self, interest: Interest, start: Start, format: Format, *, patient: bool = False) -> "Subscription":
        """Open a subscription: `async with hub.subscribe(…) as subscriber: subscriber.start(sink)`.

        Entering raises TransportUnavailable where the log cannot be reached, and Unavailable while draining. A
        `patient` one waits for the log instead, where a fallback delivers meanwhile what is published here.
        """
        return Subscription(self, interest, start, format, patient)

    @property
    def tail_running(self) -> bool:
        """Whether the tail reads all that somebody is subscribed to, as far as its last answers say."""
        return self.tail_trouble is None

    @property
    def tail_trouble(self) -> str | None:
        """Why the tail does not read all that somebody is subscribed to; None where it does."""
        if self._tail is None or not self.subscribers:
            return None
        if not self._tail.running:
            why = self._tail.failure if isinstance(self._tail, Explaining) else None
            return "the tail is reconnecting" if why is None else f"the tail is reconnecting: {why}"
        return "the tail waits for the answer to its first read of a partition" if self._unread.is_late else None

    @property
    def advice(self) -> str | None:
        """Why the tail is slower than it should be, and what to do; None where it is not."""
        tail: object = self._tail
        return tail.advice if isinstance(tail, Advising) else None

    @property
    def refusal(self) -> str | None:
        """Why the store refuses appends; None once one has succeeded, and `REFUSAL_SECONDS` after the last one."""
        if self._refusal is None or time.monotonic() > self._refusal[1]:
            return None
        return self._refusal[0]

    async def behind(self) -> int | None:
        """Return how many records the log holds that the tail has not brought, of the partitions that it reads.

        A look at the heads, where somebody is subscribed; None where the log does not answer.
        """
        if self._log is None or not self.fanout.positions:
            return 0
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                heads = await self._log.head(tuple(self.fanout.positions))
        except (TimeoutError, TransportUnavailable):
            return None
        places = self.fanout.positions
        return sum(
            max(head.offset - (places[name].offset if places[name].epoch == head.epoch else 0), 0)
            for name, head in heads.positions.items()
            if name in places
        )

    async def replay(self, interest: Interest, start: Start, format: Format, sink: Sink) -> None:
        """Write what the log holds now to `sink`, once, without the tail: a poll costs one look at the log.

        Raises TransportUnavailable.
        """
        while True:
            partitions = self.schemes.partitions_for(interest)
            heads = Cursor({}) if self._log is None else await self.heads((*self._control, *partitions))
            await self.schemes.catch_up(heads.positions.get(SCHEMES))
            self.schemes.check()
            if self.schemes.partitions_for(interest) == partitions:
                break
        subscriber = self._make_subscriber(interest, format, partitions)
        await subscriber.prepare(start, heads)
        await subscriber.replay(sink)

    def drain(self) -> None:
        """Send every subscriber away to resume elsewhere, and take no new ones."""
        self.draining = True
        for subscriber in tuple(self.subscribers):
            subscriber.close("draining")

    async def aclose(self) -> None:
        """End every stream, the tail and the transport, and send the last traces."""
        self.drain()
        if self._timer is not None:
            self._timer.cancel()
        self.schemes.close()
        if self._context is not None:
            await self._context.__aexit__(None, None, None)
            self._context = None
        await self.transport.aclose()
        if self.tracer is not None:
            await self.tracer.aclose()

    async def add(self, interest: Interest, start: Start, format: Format, *, patient: bool = False) -> Subscriber:
        """Register a subscriber first, then read the head: nothing can fall between the two."""
        while True:
            partitions = self.schemes.partitions_for(interest)
            counted = (*self._control, *partitions)
            for name in counted:
                self._readers[name] = self._readers.get(name, 0) + 1
            try:
                try:
                    subscriber = await self._place(interest, start, format, partitions)
                except TransportUnavailable:
                    if not (patient and self._buffers):
                        raise
                    subscriber = self._make_subscriber(interest, format, partitions)
                    subscriber.wait_for_log(start, self._read_heads)
                if self.draining:  # since it came: nobody would send it away any more
                    raise Unavailable("This instance is going away; come back, and another one will answer")
            except BaseException:
                self._release(counted)
                raise
            if self.schemes.partitions_for(interest) == partitions:
                break
            self._release(counted)  # another partition scheme was announced meanwhile
        self.subscribers.add(subscriber)
        self._slots[self._slot][subscriber] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.heartbeat / HEARTBEAT_SLOTS, self._beat)
        return subscriber

    async def heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the log's heads, none of them behind what the tail has brought. Raises TransportUnavailable.

        Heads that are behind were read from a node that is not the primary any more, on a connection that a failover
        left open; or the log fell back to an older state, and the tail has not noticed yet. A subscriber who starts at
        such a head would go live past events that it was never sent.
        """
        assert self._log is not None
        backoff = Backoff(base=0.02, cap=0.2)
        for _ in range(TRIES):
            tail = {name: self.fanout.positions[name] for name in partitions if name in self.fanout.positions}
            heads = await self._log.head(partitions)
            if not self._lie_behind(heads, tail):
                return heads
            await self._verify_tail()
            await asyncio.sleep(backoff.next())
        raise TransportUnavailable("The log answered with a state that is older than what was read from it before")

    async def followed(self, partitions: Sequence[str]) -> None:
        """Return once the tail's read of these partitions was answered."""
        await self._unread.wait(partitions)

    async def _place(self, interest: Interest, start: Start, format: Format, partitions: tuple[str, ...]) -> Subscriber:
        heads = await self._follow((*self._control, *partitions))
        await self.schemes.catch_up(heads.positions.get(SCHEMES))
        if self._log is not None and start.names_more_than(partitions):
            # Perhaps of a scheme that the tail has not brought yet: what it reads then must not be left behind.
            await self.schemes.catch_up((await self.heads(self._control)).positions[SCHEMES])
        self.schemes.check()
        subscriber = self._make_subscriber(interest, format, partitions)
        known = heads.positions.keys() >= set(partitions)
        if self._log is not None and not (known and not self._lie_behind(heads, self.fanout.positions)):
            heads = await self.heads(partitions)
        await subscriber.prepare(start, heads)
        return subscriber

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the heads once the tail reads these partitions, for a subscriber who came while the log was away."""
        heads = await self._follow((*self._control, *partitions))
        await self.schemes.catch_up(heads.positions.get(SCHEMES))
        return await self.heads(partitions)

    def _lie_behind(self, heads: Cursor, tail: Mapping[str, Position]) -> bool:
        """Tell whether a head is behind a place of the tail from which it has not gone back meanwhile."""
        now = self.fanout.positions
        return any(
            name in tail and head[:2] < min(tail[name], now.get(name, tail[name]))[:2]
            for name, head in heads.positions.items()
        )

    async def _verify_tail(self) -> None:
        """Let the tail find out why heads lie behind it; one look for all who meet that at the same time."""
        if not isinstance(self._tail, Verifying):
            return
        if self._verifying is None or self._verifying.done():
            self._verifying = asyncio.ensure_future(self._tail.verify())
        await asyncio.shield(self._verifying)

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a subscriber; a partition that nobody else needs is no longer read."""
        subscriber.cancel()
        self.subscribers.discard(subscriber)
        for slot in self._slots:
            slot.pop(subscriber, None)
        self._release((*self._control, *subscriber.followed))

    def _make_subscriber(self, interest: Interest, format: Format, partitions: tuple[str, ...]) -> Subscriber:
        ours = (self.transport, self, self.fanout, self.stats)
        return Subscriber(*ours, interest, format, partitions, self.heartbeat, self.schemes)

    async def _follow(self, partitions: Sequence[str]) -> Cursor:
        """Make the tail read these partitions; return the heads that were read for the new ones."""
        async with self._opening:
            if self._context is None:
                self._context = self.transport.on_message(self._receive)
                self._tail = await self._context.__aenter__()
        assert self._tail is not None
        new = [name for name in partitions if name not in self.fanout.positions]
        if not new:
            return Cursor({})
        if self._log is None:
            if (listening := self._tail.follow(dict.fromkeys(new))) is not None:
                await listening  # before `ready`, which promises that whatever is published from then on arrives
            return Cursor({})
        heads = await self._log.head(new)
        # Another subscriber may have been faster.
        added = {name: head for name, head in heads.positions.items() if name not in self.fanout.positions}
        self.fanout.positions.update(added)
        if (answered := self._tail.follow(added)) is not None:
            self._unread.add(added, answered)
        return heads

    def _receive(self, item: Record | Gap) -> None:
        if item.partition != SCHEMES:
            self._deliver(item)
            return
        if item.position is not None and SCHEMES in self.fanout.positions:
            self.fanout.positions[SCHEMES] = item.position
        self.schemes.hear(item)

    def _send_strays_away(self) -> None:
        """End the streams that do not read all that the schemes in use need; they resume, and read it then."""
        for subscriber in tuple(self.subscribers):
            if not set(self.schemes.partitions_for(subscriber.interest)) <= set(subscriber.followed):
                subscriber.close("draining")

    def _release(self, partitions: Sequence[str]) -> None:
        for name in partitions:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
                self._unfollow(name)

    def _unfollow(self, name: str) -> None:
        self.fanout.positions.pop(name, None)
        self._unread.forget(name)
        if self._tail is not None:
            self._tail.unfollow((name,))

    def _beat(self) -> None:
        """Write the heartbeat of one slot."""
        self._timer = asyncio.get_running_loop().call_later(self.heartbeat / HEARTBEAT_SLOTS, self._beat)
        self._slot = (self._slot + 1) % HEARTBEAT_SLOTS
        beating: dict[tuple[Format, tuple[str, ...]], list[Subscriber]] = {}
        for subscriber in self._slots[self._slot]:
            if subscriber.live:
                beating.setdefault((subscriber.format, subscriber.partitions), []).append(subscriber)
        for (format, partitions), subscribers in beating.items():
            self.fanout.write(subscribers, format.heartbeat(self.fanout.cursor(partitions)))


class Subscription:
    """The lifetime of one subscriber in its hub."""

    __slots__ = ("_arguments", "_hub", "_patient", "_subscriber")

    def __init__(self, hub: Hub, interest: Interest, start: Start, format: Format, patient: bool) -> None:
        self._hub = hub
        self._arguments = (interest, start, format)
        self._patient = patient

    async def __aenter__(self) -> Subscriber:
        self._subscriber = await self._hub.add(*self._arguments, patient=self._patient)
        return self._subscriber

    async def __aexit__(self, *_: object) -> None:
        self._hub.remove(self._subscriber)
