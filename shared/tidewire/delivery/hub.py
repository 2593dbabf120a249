"""The hub: one process's publishers and subscribers, on one transport with one tail."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from tidewire.delivery.control_partitions import ControlPartition, ControlPartitions
from tidewire.delivery.fanout import Fanout, FanoutSnapshot
from tidewire.delivery.followed_tail import FollowedTail
from tidewire.delivery.groups import Sink
from tidewire.delivery.known_schemes import KnownSchemes
from tidewire.delivery.replay import Place, Replay, SinkIsFullError, SinkOutlet, Stats
from tidewire.delivery.revocations import Revocation, Revocations
from tidewire.delivery.ring_buffer import Ring
from tidewire.delivery.start_place import find_place, start_of_outage
from tidewire.errors import TransportRefused, TransportUnavailable, Unavailable
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Start
from tidewire.model.event import Event
from tidewire.model.partitions import SCHEMES, Partitions
from tidewire.model.record import Gap, Record
from tidewire.primitives.counters import Histogram
from tidewire.protocol.sse import ClosingReason, Format
from tidewire.transports.base import Buffering, Log, Receipt, Retention, Transport

if TYPE_CHECKING:
    from tidewire.delivery.early_delivery import EarlyDelivery
    from tidewire.delivery.subscriber import Shared, State, Subscriber
    from tidewire.delivery.tracer import Tracer

logger = logging.getLogger(__name__)

PING_SECONDS = 2.0  # for the transport's first answer: the start waits no longer
REFUSAL_SECONDS = 30.0
"""How long a refused append counts against readiness. Not for ever: an instance that a load balancer has taken out gets
no publication that could succeed and prove that the store was mended."""
HEARTBEAT_SLOTS = 16  # the turns of one interval: not all subscribers are written to at once
DRAINING = "This instance is draining: send the request again, and another instance answers"


class HubSnapshot(NamedTuple):
    """What a hub holds now."""

    subscribers: Mapping["State", int]
    readers: Mapping[str, int]  # by followed partition
    buffered: int  # bytes written to streams that the kernel has not taken
    in_slots: int  # subscribers that get a heartbeat
    fanout: FanoutSnapshot


class Hub:
    """Publishes to a transport, and delivers what its tail brings to the subscribers of this process.

    If a log keeps an event, the log assigns the order, so only the tail delivers the event: an earlier delivery would
    move cursors past records that are still on their way. If no log keeps it yet, `dispatch` delivers it at once.
    """

    def __init__(
        self,
        transport: Transport,
        partitions: Partitions = Partitions(),
        *,
        heartbeat: float = 15.0,
        ring: Ring | None = None,
        window: float = Retention().idempotency_window,
        tracer: "Tracer | None" = None,
        revocations: Revocations | None = None,
    ) -> None:
        """`heartbeat` and `window` (in which the log knows an id again) are in seconds."""
        self.transport = transport
        self.partitions = partitions
        self.heartbeat = heartbeat
        self.tracer = tracer
        self.revocations = revocations
        self.subscribers: set[Subscriber] = set()
        self.draining = False
        self.published = 0
        self.refused = 0  # events that were answered with 503
        self.publish_seconds = Histogram()
        self.stats = Stats()
        self.schemes = KnownSchemes(transport, partitions, self._close_outdated)
        self._refusal: tuple[str, float] | None = None  # why the last append was refused, and until when that counts
        self._buffers = isinstance(transport, Buffering)
        self.fanout = Fanout(
            Ring() if ring is None else ring,
            rereads=isinstance(transport, Log),
            early=_make_early_delivery(window) if self._buffers else None,
            tracer=tracer,
        )
        self.tail = FollowedTail(transport, self.fanout.positions, self._on_item)
        control: list[ControlPartition] = [] if self.tail.log is None else [self.schemes]
        if revocations is not None:
            control.append(revocations)
            revocations.on_revoked = self._close_revoked
        self._control = ControlPartitions(self.tail, self.fanout.positions, control)
        self._shared: Shared | None = None
        self._slots: list[dict[Subscriber, None]] = [{} for _ in range(HEARTBEAT_SLOTS)]
        self._slot = 0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def check_transport(self) -> None:
        """Ping the transport, and log a warning if it does not answer: the instance starts anyway."""
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self.transport.ping()
        except (TimeoutError, TransportUnavailable) as error:
            why = error.detail if isinstance(error, TransportUnavailable) else f"no answer within {PING_SECONDS:g} s"
            meanwhile = "published events are kept in memory" if self._buffers else "nothing can be published"
            logger.warning("started while the transport is unavailable: until it is back, %s: %s", meanwhile, why)

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

    @asynccontextmanager
    async def subscribe(
        self,
        interest: Interest,
        start: Start,
        format: Format,
        *,
        issued_at: float = math.inf,
        wait_for_log: bool = False,
    ) -> AsyncIterator["Subscriber"]:
        """Subscribe for as long as the context lasts; see `add`."""
        subscriber = await self.add(interest, start, format, issued_at=issued_at, wait_for_log=wait_for_log)
        try:
            yield subscriber
        finally:
            self.remove(subscriber)

    async def add(
        self,
        interest: Interest,
        start: Start,
        format: Format,
        *,
        issued_at: float = math.inf,
        wait_for_log: bool = False,
    ) -> "Subscriber":
        """Return a new subscriber. Its `start` begins the delivery; `remove` must follow.

        It is registered before the heads are read: nothing can fall between the two. Raises TransportUnavailable if the
        log cannot be reached; with `wait_for_log`, behind a fallback, the subscriber waits for the log instead, and
        receives early what is published here. Raises Unavailable while draining, and Unauthorized if a token issued at
        `issued_at` (s since 1970) was revoked.
        """
        followed: tuple[str, ...] = ()
        try:
            while True:
                partitions = self.schemes.partitions_for(interest)
                needed = (*self._control.names, *partitions)
                self.tail.acquire(needed)
                self.tail.release(followed)
                followed = needed
                try:
                    subscriber = await self._make_subscriber(interest, start, format, partitions, issued_at)
                except TransportUnavailable:
                    if not (wait_for_log and self._buffers):
                        raise
                    subscriber = self._make_waiting_subscriber(interest, start, format, partitions, issued_at)
                if self.draining:  # since it came: nothing would close it any more
                    raise Unavailable(DRAINING)
                self.check_revoked(interest, issued_at)
                if self.schemes.partitions_for(interest) == partitions:  # no other scheme was announced meanwhile
                    break
        except BaseException:
            self.tail.release(followed)
            raise
        self.subscribers.add(subscriber)
        self._slots[self._slot][subscriber] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.heartbeat / HEARTBEAT_SLOTS, self._beat_again)
        return subscriber

    def remove(self, subscriber: "Subscriber") -> None:
        """Forget a subscriber; the tail no longer reads what only it needed."""
        subscriber.cancel()
        self.subscribers.discard(subscriber)
        for slot in self._slots:
            slot.pop(subscriber, None)
        self.tail.release((*self._control.names, *subscriber.partitions))

    async def read(
        self, interest: Interest, start: Start, format: Format, sink: Sink, *, issued_at: float = math.inf
    ) -> None:
        """Write what the log holds now to `sink`, until the sink is full. Without the tail: the heads cost one request.

        Raises TransportUnavailable, and Unauthorized as `add` does.
        """
        while True:
            partitions = self.schemes.partitions_for(interest)
            heads = Cursor({})
            if self.tail.log is not None:
                heads = await self.tail.heads((*self._control.names, *partitions))
            await self._control.catch_up(heads.positions)
            self.schemes.check()
            if self.schemes.partitions_for(interest) == partitions:
                break
        self.check_revoked(interest, issued_at)
        place = await self._find_place(interest, start, partitions, heads)
        with suppress(SinkIsFullError):
            outlet = SinkOutlet(sink)
            progress = Replay(self.tail.log, place, outlet, interest, format, self.stats, self.tail.heads)
            for gap in place.gaps:
                await progress.announce(gap)
            if self.tail.log is not None:
                await progress.run(place.until)
            progress.narrow_to(partitions)
            await outlet.write(format.ready(progress.cursor, progress.recovered, progress.events))

    def check_revoked(self, interest: Interest, issued_at: float) -> None:
        """Raise Unauthorized if a token of this user, issued at this time, is known to be revoked."""
        if self.revocations is not None:
            self.revocations.check(interest.user_id, issued_at)

    def beat(self) -> None:
        """Write the heartbeat of the next slot."""
        self._slot = (self._slot + 1) % HEARTBEAT_SLOTS
        beating: dict[tuple[Format, tuple[str, ...]], list[Subscriber]] = {}
        for subscriber in self._slots[self._slot]:
            if subscriber.live:
                beating.setdefault((subscriber.format, subscriber.partitions), []).append(subscriber)
        for (format, partitions), subscribers in beating.items():
            self.fanout.write(subscribers, format.heartbeat(self.fanout.cursor(partitions)))

    @property
    def tail_running(self) -> bool:
        """Whether the tail reads everything that the subscribers need, as far as its last answers say."""
        return self.tail_trouble is None

    @property
    def tail_trouble(self) -> str | None:
        """Why the tail does not read everything that the subscribers need; None if it does."""
        return self.tail.trouble if self.subscribers else None

    @property
    def advice(self) -> str | None:
        """Why the tail is slower than it should be, and what to do; None if it is not."""
        return self.tail.advice

    @property
    def refusal(self) -> str | None:
        """Why the store refuses appends; None once one has succeeded, and `REFUSAL_SECONDS` after the last one."""
        if self._refusal is None or time.monotonic() > self._refusal[1]:
            return None
        return self._refusal[0]

    def snapshot(self) -> HubSnapshot:
        """Return what the hub holds now."""
        return HubSnapshot(
            Counter(subscriber.state for subscriber in self.subscribers),
            dict(self.tail.readers),
            sum(subscriber.buffered for subscriber in self.subscribers),
            sum(map(len, self._slots)),
            self.fanout.snapshot(),
        )

    def drain(self) -> None:
        """Close every stream, so that its client resumes elsewhere, and accept no new ones."""
        self.draining = True
        self._close(lambda _: True, "draining")

    async def aclose(self) -> None:
        """End every stream, the tail and the transport, and send the last traces."""
        self.drain()
        if self._timer is not None:
            self._timer.cancel()
        self._control.close()
        await self.tail.aclose()
        await self.transport.aclose()
        if self.tracer is not None:
            await self.tracer.aclose()

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
                    self._on_item(Record(part, partition, None))
        return receipts

    def _on_item(self, item: Record | Gap) -> None:
        if not self._control.on_item(item):
            self.fanout.broadcast(item)

    async def _make_subscriber(
        self, interest: Interest, start: Start, format: Format, partitions: tuple[str, ...], issued_at: float
    ) -> "Subscriber":
        log = self.tail.log
        heads = await self._follow(partitions)
        if log is not None and start.names_more_than(partitions):
            # Perhaps of a scheme that the tail has not brought yet: what the tail reads then must not be left behind.
            await self.schemes.catch_up((await self.tail.heads((SCHEMES,))).positions[SCHEMES])
        self.schemes.check()
        subscriber = self._new_subscriber(interest, format, partitions, issued_at)
        # Heads that were read before may be behind what the tail has brought meanwhile, and that is not in the ring
        # from the subscriber's number on.
        if log is not None and (not heads.positions.keys() >= set(partitions) or self.tail.is_past(heads)):
            heads = await self.tail.heads(partitions)
        subscriber.begin_at(await self._find_place(interest, start, partitions, heads))
        return subscriber

    def _make_waiting_subscriber(
        self, interest: Interest, start: Start, format: Format, partitions: tuple[str, ...], issued_at: float
    ) -> "Subscriber":
        start = start_of_outage(start)

        async def find() -> Place:
            await self._follow(partitions)  # and so all revocations are known before anything is replayed
            return await self._find_place(interest, start, partitions, await self.tail.heads(partitions))

        from tidewire.delivery.subscriber import AwaitedLog  # see `_new_subscriber`

        subscriber = self._new_subscriber(interest, format, partitions, issued_at)
        # What the client sent is written back to it only if it is a cursor: an id could forge a frame.
        is_cursor = start.cursor is not None and Cursor.parse(start.cursor) is not None
        subscriber.begin_at(AwaitedLog(start.cursor if is_cursor else None, find))
        return subscriber

    async def _follow(self, partitions: tuple[str, ...]) -> Cursor:
        """Make the tail read these and the control partitions; return the heads that were read for the new ones."""
        heads = await self.tail.follow((*self._control.names, *partitions))
        await self._control.catch_up(heads.positions)
        return heads

    def _new_subscriber(
        self, interest: Interest, format: Format, partitions: tuple[str, ...], issued_at: float
    ) -> "Subscriber":
        # Imported here: a function that only publishes starts 2 ms earlier without it.
        from tidewire.delivery.subscriber import Shared, Subscriber

        if self._shared is None:
            self._shared = Shared(self.tail, self.fanout, self.stats, self.heartbeat)
        return Subscriber(self._shared, interest, format, partitions, issued_at)

    async def _find_place(self, interest: Interest, start: Start, partitions: tuple[str, ...], heads: Cursor) -> Place:
        return await find_place(self.tail.log, self.schemes, self.tail.heads, interest, start, partitions, heads)

    def _close_outdated(self) -> None:
        """End the streams that do not read everything that the schemes in use need; they resume, and read it then."""
        needs = self.schemes.partitions_for
        self._close(lambda each: not set(needs(each.interest)) <= set(each.partitions), "draining")

    def _close_revoked(self, revoked: Revocation) -> None:
        """End the streams of the user's revoked tokens."""
        self._close(
            lambda each: each.interest.user_id == revoked.user_id and each.issued_at < revoked.before, "revoked"
        )

    def _close(self, condition: Callable[["Subscriber"], bool], reason: ClosingReason) -> None:
        for subscriber in tuple(self.subscribers):
            if condition(subscriber):
                subscriber.close(reason)

    def _beat_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.heartbeat / HEARTBEAT_SLOTS, self._beat_again)
        self.beat()


def _make_early_delivery(window: float) -> "EarlyDelivery":
    from tidewire.delivery.early_delivery import EarlyDelivery  # only a process with a fallback needs it

    return EarlyDelivery(window)
