"""Tokens that were revoked before their end: told through the log, and so to every instance, now and later.

A revocation is an event in a partition of its own. No subscriber reads that partition and no cursor names it; each hub
that asks for tokens does, from the oldest record kept, and acts on what it says.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from tidewire.delivery.hub import Hub
from tidewire.delivery.subscriber import Subscriber
from tidewire.errors import TransportUnavailable, Unauthorized
from tidewire.model.audience import Interest
from tidewire.model.cursor import Cursor, Position, Start
from tidewire.model.event import Event, new_id
from tidewire.model.partitions import SCHEMES
from tidewire.model.permissions import REVOCATIONS
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.protocol.sse import Format
from tidewire.transports.base import Log, Transport

logger = logging.getLogger(__name__)
warnings = ThrottledLog(logger)

PARTITION = (REVOCATIONS,)


class Revocation(msgspec.Struct, frozen=True, rename="camel"):
    """The tokens of a user that were issued before a time (s since 1970) hold no longer."""

    user_id: str
    before: float

    def event(self) -> Event:
        """Return the event that tells it to every instance."""
        return Event(new_id(), REVOCATIONS, msgspec.json.encode(self))


_decoder = msgspec.json.Decoder(Revocation)


class Revocations:
    """What has been revoked, as far as this process has heard; `keep` seconds of it, as the log does."""

    def __init__(self, transport: Transport, keep: float, act: Callable[[Revocation], None]) -> None:
        self._log = transport if isinstance(transport, Log) else None
        self._keep = keep
        self._act = act
        self._before: dict[str, float] = {}  # by user; the revocation that was heard of first is first
        self._since = time.time() - time.monotonic()  # the time without what the clock does meanwhile
        self._at: Position | None = None  # all up to here is known; None: nothing was read yet
        self._until: Position | None = None  # what lies before it is still to be read
        self._reading = asyncio.Lock()

    def check(self, user_id: str | None, issued_at: float) -> None:
        """Raise Unauthorized where a token of this user, issued at this time, was revoked."""
        if user_id is not None and issued_at < self._before.get(user_id, issued_at):
            raise Unauthorized("The token was revoked")

    def hear(self, item: Record | Gap) -> bool:
        """Take what the tail brings; False where something is missing, and all must be read again."""
        if isinstance(item, Gap):
            self._at, self._until = None, item.position
            return self._log is None
        self._take((item,))
        if self._until is None and item.position is not None:
            self._at = item.position
        return True

    async def catch_up(self, head: Position | None) -> None:
        """Read what this process has not heard up to `head`, or up to one that was told before; return when it has.

        Raises TransportUnavailable; then the next call tries again.
        """
        if self._log is None:
            return
        if head is not None and (self._at is None or self._at[:3] != head[:3]):
            self._until = head
        async with self._reading:
            until = self._until
            if until is None:
                return
            after = self._at
            if after is None:
                known = not until.offset  # nobody was ever revoked: the usual case costs no look at the log
                after = until if known else (await self._log.seek(PARTITION, None)).positions[REVOCATIONS]
            async for item in self._log.replay(Cursor({REVOCATIONS: after}), Cursor({REVOCATIONS: until})):
                if isinstance(item, Record):
                    self._take((item,))
            self._at = until
            if self._until == until:
                self._until = None

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            try:
                revocation = _decoder.decode(record.event.data)
            except msgspec.DecodeError:
                logger.error("a record of the partition %s is not a revocation", REVOCATIONS)  # noqa: TRY400 — its data
                continue
            before = max(revocation.before, self._before.pop(revocation.user_id, 0.0))
            self._before[revocation.user_id] = before
            self._act(revocation)
        oldest = self._since + time.monotonic() - self._keep  # a clock that jumps ahead would let tokens hold again
        while self._before:
            user_id, before = next(iter(self._before.items()))
            if before > oldest:
                break
            del self._before[user_id]


class GuardedHub(Hub):
    """A hub that sends away whose token was revoked. It follows the revocations while it has subscribers."""

    def __init__(self, *arguments: Any, keep: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.revocations = Revocations(self.transport, keep, self._send_away)
        self._deliver = self._hear
        self._again: asyncio.Task[None] | None = None

    async def add(self, interest: Interest, start: Start, format: Format, **options: Any) -> Subscriber:
        """Register a subscriber, once all revocations are known; `admit` comes next."""
        watched = (*PARTITION, *self._control)
        for name in watched:
            self._readers[name] = self._readers.get(name, 0) + 1
        try:
            try:
                await self._watch()
            except TransportUnavailable:
                if not (options.get("patient") and self._buffers):
                    raise
                self._try_again()  # who waits for the log is let in now, and sent away when it is back if need be
            return await super().add(interest, start, format, **options)
        except BaseException:
            self._release(watched)
            raise

    def admit(self, subscriber: Subscriber, issued_at: float) -> None:
        """Let a subscriber stay for as long as its token is not revoked; raises Unauthorized where it is already."""
        self.revocations.check(subscriber.interest.user_id, issued_at)
        subscriber.issued_at = issued_at

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a subscriber; after the last one, revocations are no longer followed."""
        super().remove(subscriber)
        self._release((*PARTITION, *self._control))

    async def refresh(self) -> None:
        """Know all revocations up to now without following them. Raises TransportUnavailable.

        Beside another look at heads in the same turn of the loop this costs no round trip: they share one.
        """
        if self._log is not None:
            await self.revocations.catch_up((await self.heads(PARTITION)).positions[REVOCATIONS])

    async def aclose(self) -> None:
        """End every stream, the tail and the transport."""
        if self._again is not None:
            self._again.cancel()
        await super().aclose()

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the heads once all revocations are known: a stream that was let in while the log was away is sent away
        before anything is replayed to it, not when `_read_again` happens to look.
        """
        await self._watch()
        return await super()._read_heads(partitions)

    async def _watch(self) -> None:
        watched = (*PARTITION, *self._control)  # together: both look at heads
        heads = await self._follow(watched)
        if REVOCATIONS not in self._readers:  # the last one left meanwhile
            for name in watched:
                self._unfollow(name)
        await self.schemes.catch_up(heads.positions.get(SCHEMES))
        await self.revocations.catch_up(heads.positions.get(REVOCATIONS))

    def _hear(self, item: Record | Gap) -> None:
        if item.partition != REVOCATIONS:
            self.fanout.broadcast(item)
            return
        if item.position is not None and REVOCATIONS in self.fanout.positions:
            self.fanout.positions[REVOCATIONS] = item.position
        if not self.revocations.hear(item):
            self._try_again()

    def _try_again(self) -> None:
        if self._again is None or self._again.done():
            self._again = asyncio.create_task(self._read_again())

    async def _read_again(self) -> None:
        backoff = Backoff()
        while REVOCATIONS in self._readers:
            try:
                await self._watch()
                return
            except TransportUnavailable as error:
                warnings.warn(f"revocations cannot be read, trying again: {error.detail}")
                await asyncio.sleep(backoff.next())

    def _send_away(self, revocation: Revocation) -> None:
        for subscriber in tuple(self.subscribers):
            if subscriber.interest.user_id == revocation.user_id and subscriber.issued_at < revocation.before:
                subscriber.close("revoked")
