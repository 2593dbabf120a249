"""The tail of Upstash over REST: it reads the log when the doorbell rings, and polls while the bell is not heard."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from tidewire.errors import TransportUnavailable
from tidewire.model.cursor import Cursor, Position
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import RECONNECTS
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.transports.base import Handler
from tidewire.transports.log_follower import UNKNOWN_FAILURE, FollowingTail, NewRecords, TailPageSize, control_first
from tidewire.transports.upstash.bell import Bell
from tidewire.transports.upstash.session import Session

log = logging.getLogger(__name__)
warnings = ThrottledLog(log)

SLOWING = 1.5  # factor of the wait after a poll without records: 12 s from the fastest to the slowest poll
VERIFY = 60.0  # seconds: reads do not notice a store that fell back to an older state, and no connection breaks
AFTER_RING = 0.002
"""Seconds from a ring to the read: an append within the same millisecond of the store's clock does not ring again. The
second millisecond is for timers that fire early."""
OVERDUE = 1.0  # seconds after which a record that this process knows of should have rung
BURST = 10  # reads that rings may cause at once; on average at most one per POLL_MIN, since each is billed


class Source(Protocol):
    """The tail's log."""

    session: Session

    @property
    def bell(self) -> str:
        """The channel of the doorbell."""

    async def read_heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the heads."""

    async def read_heads_and_ring(self, partitions: Sequence[str]) -> tuple[Cursor, bool]:
        """Return the heads, and whether the reader's own ring was sent."""

    async def read_after(
        self, positions: Mapping[str, Position], page_size: TailPageSize
    ) -> tuple[dict[str, NewRecords], bool]:
        """Return the partitions' next records after these positions, and whether there are more."""


class RestTail(FollowingTail):
    """Reads all followed streams at once, whenever a ring names one of them.

    `running`: the last read was answered; while the bell is not heard, it was a poll.
    """

    def __init__(self, rest: Source, handler: Handler, poll_min: float, poll_max: float) -> None:
        super().__init__(handler)
        self._rest = rest
        self._bell = Bell(
            rest.session.subscribe,
            rest.bell,
            self._on_ring,
            on_subscribed=self._on_subscribed,
            on_change=self._on_bell_change,
        )
        self._page_size = TailPageSize()
        self._unread = True  # a partition is followed of which no read was answered yet
        self._min = poll_min
        self._max = max(poll_min, poll_max)
        self._wait = poll_min  # seconds until the next poll
        self._wake = asyncio.Event()
        self._bell_changed = False  # which alone woke the tail: it polls from now on, or not any more
        self._not_before = 0.0  # on the loop's clock, as the following: `AFTER_RING` after the last ring
        self._verify_at = 0.0  # the next read of the heads
        self._read_at = 0.0  # when the last answered read of records began
        self._rung: dict[str, Position] = {}  # partitions that rang since the last read began, and our positions then
        self._wanted: dict[str, Position] = {}  # heads that a read has not reached: the node that it read lags
        self._expected: dict[str, Position] = {}  # heads that this process knows of, and whose rings are on their way
        self._overdue: asyncio.TimerHandle | None = None
        self._reads = float(BURST)  # that may be made at once
        self._reads_at = 0.0  # when there were so many

    @property
    def advice(self) -> str | None:
        """Why the tail polls, and what to do; None while the bell is heard, or was lost by chance."""
        return self._bell.advice

    @property
    def bell_heard(self) -> bool:
        """Whether the tail reads on rings, and does not poll."""
        return self._bell.heard

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions; without any, the subscription ends too."""
        super().unfollow(partitions)
        self._bell.forget(partitions)
        if not self.follower.positions:
            self._bell.stop()

    def expect(self, heads: Mapping[str, Position]) -> None:
        """Read up to these heads: at once while polling, or soon, if no ring comes for them."""
        ahead = self.follower.ahead(heads)
        if not ahead:
            return
        if not self._bell.heard:
            self._read_soon()
        self._expected.update(ahead)
        if self._overdue is None:
            self._overdue = asyncio.get_running_loop().call_later(OVERDUE, self._on_overdue)

    async def verify(self) -> None:
        """Compare the tail's positions with heads read over new connections; see `Verifying`."""
        self._rest.session.evict()
        self._bell.doubt()
        await self.follower.verify(self._rest.read_heads)
        self._verify_at = 0.0
        self._read_soon()

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._bell.run(self.follower.wait_for_partitions))
                tasks.create_task(self._read_on())
        finally:
            self._bell.forget(list(self.follower.positions))
            if self._overdue is not None:
                self._overdue.cancel()

    async def _read_on(self) -> None:
        """Read until cancelled; a failure of any kind is logged and followed by another try."""
        backoff = Backoff(cap=max(5.0, self._max))
        while True:
            await self.follower.wait_for_partitions()
            self._wake.clear()
            if asyncio.get_running_loop().time() < self._not_before:
                self._read_soon()  # once more: a ring came during the wait, and its millisecond is not over
            try:
                found = await self._read()
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
            if not self.running:
                self.running = True
                self._bell.retry()
            backoff.reset()
            self._wait = self._min if found else min(self._wait * SLOWING, self._max)
            await self._rest_until_due()

    async def _rest_until_due(self) -> None:
        """Wait for a ring or another reason to read; while the bell is not heard, for the next poll."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wanted = self.follower.ahead(self._wanted)
            polls = not self._bell.heard or bool(self._wanted)
            due = clock() + self._wait if polls else max(self._verify_at, clock())
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            if not self._wake.is_set():
                return
            self._wait = self._min
            if not self._bell_changed:
                break
            self._bell_changed = False
            self._wake.clear()
        if not self._unread:  # a new subscriber does not wait
            await asyncio.sleep(max(self._not_before - clock(), self._seconds_until_allowed(), 0.0))

    def _seconds_until_allowed(self) -> float:
        """Take one of the reads that rings may cause; return the seconds until it may be made."""
        now = asyncio.get_running_loop().time()
        self._reads = min(BURST, self._reads + (now - self._reads_at) / self._min) - 1
        self._reads_at = now
        return -self._reads * self._min if self._reads < 0 else 0.0

    async def _read(self) -> bool:
        """Deliver new records, and return whether there were any."""
        clock = asyncio.get_running_loop().time
        was_read = not self._unread
        if clock() >= self._verify_at:  # instead of a poll: the heads also say whether there are new records
            partitions, self._unread = tuple(self.follower.positions), False
            rung, self._rung = self._rung, {}
            began = clock()
            self._verify_at = began + VERIFY  # it may be brought forward while the heads are read
            is_ahead = await self.follower.verify(self._read_heads)
            if not is_ahead and not self._unread:
                self.follower.mark_read(partitions)
                self._read_at = began
                return False
            self._rung = {**rung, **self._rung}
        found_any, more = False, True
        while more and self.follower.positions:
            partitions, was_read, self._unread = tuple(self.follower.positions), was_read and not self._unread, False
            rung, self._rung = self._rung, {}
            began = clock()
            found, more = await self._rest.read_after(self.follower.positions, self._page_size)
            self.follower.mark_read(partitions)
            if was_read:
                self._bell.expect_rings(found, self._read_at)
            was_read = True
            for name in control_first(found):
                found_any = True
                self.follower.deliver(name, found[name].records)
                self.follower.skip_unreadable(name, *found[name].last)
            if self._reached(rung, found) and not self.follower.ahead(self._wanted):
                self._read_at = began
        return found_any

    async def _read_heads(self, partitions: Sequence[str]) -> Cursor:
        """Return the heads; ring for ourselves in the same command, if nothing has shown lately that rings arrive."""
        if self._bell.wants_ring:
            sent_at = asyncio.get_running_loop().time()
            heads, rung = await self._rest.read_heads_and_ring(partitions)
            self._bell.note_own_ring(rung=rung, sent_at=sent_at)
        else:
            heads = await self._rest.read_heads(partitions)
        self._wanted = self.follower.ahead(heads.positions)
        return heads

    def _reached(self, rung: Mapping[str, Position], found: Mapping[str, object]) -> bool:
        """Return whether each partition that rang before a read has moved since. The heads are read sooner otherwise.

        A ring may come late or twice, or the node that was read lags; the heads are always the primary's. If the read
        before this one has moved it, that one has probably reached the ring, and there is no hurry.
        """
        now = asyncio.get_running_loop().time()
        for name in rung.keys() - found.keys():
            moved = self.follower.positions.get(name) is not rung[name]
            self._verify_at = min(self._verify_at, now + self._max if moved else 0.0)
        if self._verify_at <= now:
            self._read_soon()
            return False
        return True

    async def _pause(self, backoff: Backoff) -> None:
        self.running = False
        self._unread = True
        self._verify_at = 0.0
        self._bell.doubt()
        RECONNECTS.add()
        await asyncio.sleep(self._rest.session.seconds_held + backoff.next())

    def _on_ring(self, partition: str) -> bool:
        at = self.follower.positions.get(partition)
        if at is not None:
            self._rung[partition] = at
            self._not_before = asyncio.get_running_loop().time() + AFTER_RING
            self._read_soon()
        return at is not None

    def _on_subscribed(self) -> None:
        """Read the heads: what rang before was missed."""
        self._verify_at = 0.0
        self._read_soon()

    def _on_bell_change(self) -> None:
        """Poll from now on, or not any more; the first time soon, but the subscription may be back by then."""
        if not self._wake.is_set():
            self._bell_changed = True
            self._wake.set()

    def _read_soon(self) -> None:
        self._bell_changed = False
        self._wake.set()

    def _on_overdue(self) -> None:
        self._overdue = None
        self._expected = self.follower.ahead(self._expected)
        if self._expected:
            self._wanted.update(self._expected)
            self._expected = {}
            self._read_soon()

    def _on_followed(self, partitions: Iterable[str]) -> None:
        self._unread = True
        self._read_soon()
