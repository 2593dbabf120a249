"""The fallback to memory: while the log is unavailable, published events are kept in an outbox, and appended later.

For long-lived instances, with `REALTIME_FALLBACK=memory`. The publisher gets `durable: false`: if the process
ends before the log is back, its outbox is lost. The hub delivers the outbox's events to its own subscribers at once,
without moving a cursor, and recognizes them when the tail brings the records (`tidewire.delivery.early_delivery`).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from itertools import islice

from tidewire.errors import AppendRefused, EventRefused, TransportUnavailable
from tidewire.model.cursor import Cursor
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.model.record import Gap, Record
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import OUTBOX_APPENDED, OUTBOX_REFUSED, OUTBOX_SET_ASIDE, OUTBOX_TAKEN
from tidewire.primitives.throttled_log import ThrottledLog
from tidewire.primitives.token_bucket import LocalBuckets
from tidewire.transports.base import Backlog, Buckets, Fallible, Handler, Log, Nodes, Receipt, StoreNode, Tail
from tidewire.transports.fallback.outbox import Entry, Key, Outbox
from tidewire.transports.log_base import stop

log = logging.getLogger(__name__)

MAX_EVENTS = 10_000  # ten minutes at 1,000 events a minute
MAX_BYTES = 16 * 1024 * 1024  # of memory, including audience and ids
BATCH_EVENTS = 100  # of one append: the limits of one request
BATCH_BYTES = 1024 * 1024
GROWTH = (
    4  # each batch may be so many times the previous one; the first is one event, since the store has just come back
)
PROBES = 16  # events that are tried after a refused one, before the next pause
CAP = 1.0  # seconds: the longest pause between two tries, with full jitter, during which the outbox fills
LAST_FLUSH = 5.0  # seconds to append the rest at shutdown; most platforms kill a process 10 s after SIGTERM
LAST_PAUSE = 0.1  # seconds between two tries then


class Fallback:
    """A `Log` that accepts events also while the log below it is unavailable."""

    def __init__(
        self,
        inner: Log,
        partitions: Partitions = Partitions(),
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._log = inner
        self._scheme = partitions
        self._buckets = LocalBuckets()
        self._outbox = Outbox(self._keys, max_events, max_bytes)
        self._warnings = ThrottledLog(log)
        self._is_unavailable = False  # the last append was lost: publishers do not wait for the next one
        self._suspects: dict[
            Entry, str
        ] = {}  # refused while nothing else was accepted: either they are the cause, or the log is
        self._refusing: dict[
            str, str
        ] = {}  # partitions of events that were refused alone; nothing was accepted there since
        self._emptying: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append, or keep in the outbox while the log is unavailable: then the receipts are not durable.

        While the outbox is being appended, later events wait for their turn behind it. Raises TransportUnavailable if
        the outbox is full; then none of the events was kept, and the log may have accepted some, as after any such
        error. Raises EventRefused if the log refuses one of them for good.

        A full outbox whose events the log refuses takes the events of one more request as its overflow: without them,
        nothing might ever show that the log accepts other events. They are appended, or refused as the outbox is full.
        """
        if not self._outbox:
            try:
                receipts = await self._log.publish(events)
            except TransportUnavailable as error:
                if isinstance(error, AppendRefused) and self._are_refused(events):
                    raise _for_good(error.detail) from error
                self._note_away(error.detail)
            else:
                self._note_taken(events)
                return receipts
        taken = self._take(events)
        if self._is_unavailable and not self._outbox.overflow:  # its publisher, and one that repeats it, must wait
            for entry, _ in taken:
                entry.is_promised = True
            return [
                Receipt(event.id, None, known, durable=False) for event, (_, known) in zip(events, taken, strict=True)
            ]
        answers = [entry.outcome() for entry, _ in taken]
        await asyncio.wait(answers)  # does not cancel them: other publishers may wait for the same
        return [
            _receipt(event, answer.result(), known)
            for event, answer, (_, known) in zip(events, answers, taken, strict=True)
        ]

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        """Open the log's tail."""
        return self._log.on_message(handler)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the log's heads; events in the outbox are not before them."""
        return await self._log.head(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the log's result."""
        return await self._log.seek(partitions, time)

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield the log's records."""
        return self._log.replay(after, until)

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `Log.replay_pages`."""
        return self._log.replay_pages(after, until)

    async def ping(self) -> None:
        """Return if the log would accept an append: health reports an outage, although publishers are served."""
        await self._log.ping()

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from the shared bucket; from this process's own if the log is unavailable or has none."""
        if isinstance(self._log, Buckets) and not self.is_unavailable:
            with suppress(TransportUnavailable):  # the publish that follows finds the log unavailable too
                return await self._log.take(bucket, cost, capacity, seconds)
        return await self._buckets.take(bucket, cost, capacity, seconds)

    @property
    def is_unavailable(self) -> bool:
        """Whether the log is known to be unavailable."""
        return self._is_unavailable or (isinstance(self._log, Fallible) and self._log.is_unavailable)

    def store_nodes(self) -> Sequence[StoreNode]:
        """Return the servers of the log below; see `Nodes`."""
        return self._log.store_nodes() if isinstance(self._log, Nodes) else ()

    @property
    def backlog(self) -> Backlog:
        """The events that wait for the log."""
        return Backlog(len(self._outbox), self._outbox.bytes)

    async def aclose(self) -> None:
        """Append the rest within `LAST_FLUSH` seconds, log as an error how much is lost, and close the log."""
        self._closing.set()
        if (emptying := self._emptying) is not None:
            await asyncio.wait((emptying,), timeout=LAST_FLUSH)
            await stop(emptying)
        self._refuse(self._outbox.overflow)
        self._outbox.release_waiters()
        if self._outbox:
            log.error(
                "LOST: %d events (%d bytes of data), accepted as not durable: the log is still unavailable",
                len(self._outbox),
                sum(len(entry.event.data) for entry in self._outbox),
            )
            self._outbox = Outbox(self._keys, 0, 0)
        self._suspects.clear()
        await self._log.aclose()

    def _keys(self, event: Event) -> list[Key]:
        return [(partition, part.key) for partition, part in self._scheme.route(event)]

    def _take(self, events: Sequence[Event]) -> list[tuple[Entry, bool]]:
        try:
            taken = self._outbox.take(events, as_overflow=bool(self._suspects))
        except TransportUnavailable:
            OUTBOX_REFUSED.add(by=len(events))
            raise
        OUTBOX_TAKEN.add(by=sum(not known for _, known in taken))
        if self._emptying is None:
            self._emptying = asyncio.create_task(self._empty_outbox())
        return taken

    async def _empty_outbox(self) -> None:
        """Append the outbox in order until it is empty; a failure of any kind is followed by another try."""
        backoff = Backoff(cap=CAP)
        maximum = 1
        try:
            while batch := self._outbox.first(maximum, BATCH_BYTES):
                overflow = self._outbox.overflow
                error = await self._append(batch)
                if error is None:
                    self._suspects.clear()
                    maximum = min(maximum * GROWTH, BATCH_EVENTS)
                    backoff.reset()
                    continue
                maximum = 1
                if len(batch) > 1 and isinstance(error, EventRefused | AppendRefused):
                    continue  # one by one, to find which of them is refused
                if isinstance(error, EventRefused):
                    self._set_aside(batch[0], error)
                    continue
                if isinstance(error, AppendRefused) and await self._step_over(batch[0], error):
                    continue
                self._note_away(error.detail)
                self._refuse(overflow)  # not a later one, which may not have been tried
                await self._pause(backoff.next())
            self._note_back()
            log.info("the outbox is empty: the log holds all of its events")
        finally:
            self._emptying = None

    async def _append(self, batch: Sequence[Entry]) -> EventRefused | TransportUnavailable | None:
        """Append entries; return the error if they were not."""
        events = [entry.event for entry in batch]
        try:
            receipts = await self._log.publish(events)
        except (EventRefused, TransportUnavailable) as error:
            return error
        except Exception:  # noqa: BLE001 - `exception` logs it
            self._warnings.exception("the outbox cannot be appended, trying again")
            return AppendRefused("an append failed")
        self._note_taken(events)
        for entry, receipt in zip(batch, receipts, strict=True):
            self._remove(entry, receipt)
        OUTBOX_APPENDED.add(by=len(receipts))
        return None

    async def _step_over(self, oldest: Entry, why: AppendRefused) -> bool:
        """Return whether the log refuses the oldest entry alone; then it is set aside.

        If the log accepts an entry behind it, the oldest is tried once more, since the refusal may have ended in
        between: then it is in the log, after that one. If the log accepts none, it refuses everything, and the outbox
        keeps everything.
        """
        self._suspects.setdefault(oldest, why.detail)
        for entry, is_safe in islice(self._probes(), PROBES):
            error = await self._append([entry])
            if error is None:
                return await self._try_suspects()
            if isinstance(error, EventRefused):
                self._set_aside(entry, error)
                continue
            if not isinstance(error, AppendRefused):
                return False
            self._suspects[entry] = error.detail
            if not is_safe:
                return False
        return False

    def _probes(self) -> Iterator[tuple[Entry, bool]]:
        """Yield the entries to try behind the suspects, and whether others may be tried after each.

        First those that share no partition with an entry before them: they change no order. One that shares a partition
        overtakes if the refusal ends just before it is tried. So only one of them is tried per round, until the log has
        accepted some and refused others.
        """
        blocked: set[str] = set()
        behind: list[Entry] = []
        for entry in tuple(self._outbox):
            if entry not in self._suspects:
                if all(partition not in blocked for partition, _ in entry.keys):
                    yield entry, True
                else:
                    behind.append(entry)
            blocked.update(partition for partition, _ in entry.keys)
        yield from ((entry, bool(self._refusing)) for entry in behind)

    async def _try_suspects(self) -> bool:
        for entry in list(self._suspects):
            error = await self._append([entry])
            if isinstance(error, AppendRefused):
                self._refusing.update((partition, error.detail) for partition, _ in entry.keys)
                error = _for_good(error.detail)
            if isinstance(error, TransportUnavailable):
                return False  # unavailable: they stay suspects until the next append
            if error is not None:
                self._set_aside(entry, error)
        return True

    def _set_aside(self, entry: Entry, error: EventRefused) -> None:
        """Remove an entry that the log refuses, so that those behind it are appended."""
        self._remove(entry, error)
        if entry.is_promised:  # even if a publisher who repeated it waits, and gets the 422
            OUTBOX_SET_ASIDE.add()
            log.error(
                "SET ASIDE: the event %s was accepted as not durable, and will never be in the log: %s",
                entry.event.id,
                error.detail,
            )

    def _refuse(self, overflow: Sequence[Entry]) -> None:
        """Remove entries of the overflow, if the outbox is still full."""
        error = TransportUnavailable(
            "The log accepts nothing, and the outbox is full: nothing of this request was kept"
        )
        for entry in [entry for entry in self._outbox.overflow if entry in overflow]:
            self._remove(entry, error)
            OUTBOX_REFUSED.add()

    def _remove(self, entry: Entry, outcome: Receipt | EventRefused | TransportUnavailable) -> None:
        self._suspects.pop(entry, None)
        self._outbox.remove(entry, outcome)

    def _are_refused(self, events: Sequence[Event]) -> bool:
        return any(partition in self._refusing for event in events for partition, _ in self._keys(event))

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            await asyncio.sleep(LAST_PAUSE)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _note_away(self, why: str) -> None:
        self._outbox.release_waiters()
        if not self._is_unavailable:
            self._is_unavailable = True
            log.warning(
                "the log is unavailable: published events are kept in memory and not durable until it is back: %s", why
            )

    def _note_taken(self, events: Sequence[Event]) -> None:
        if self._refusing:
            for event in events:
                for partition, _ in self._keys(event):
                    self._refusing.pop(partition, None)
        self._note_back()

    def _note_back(self) -> None:
        if self._is_unavailable:
            self._is_unavailable = False
            log.warning("the log is back: appending the %d events that were kept in memory", len(self._outbox))


def _receipt(event: Event, appended: Receipt | None, known: bool) -> Receipt:
    """Return the receipt of an event that waited for its turn; `appended` None: the log was unavailable before that."""
    if appended is None:
        return Receipt(event.id, None, known, durable=False)
    return Receipt(event.id, appended.positions, appended.duplicate or known)


def _for_good(why: str) -> EventRefused:
    return EventRefused(
        f"The log takes other events and refuses this one; sent again as it is, it is refused again: {why}"
    )
