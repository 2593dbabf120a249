"""The fallback to memory: while the log is away, what is published here is kept in an outbox, and appended later.

For an instance that lives long and was told so (`REALTIME_FALLBACK=memory`). The publisher hears `durable: false`: a
process that dies before the log is back takes its outbox with it. The hub delivers what is in the outbox to its own
subscribers at once, without moving a cursor, and recognizes them when the tail brings the records
(`tidewire.delivery.early_delivery`).
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
from tidewire.transports.base import Backlog, Buckets, Fallible, Handler, Log, Receipt, Tail
from tidewire.transports.fallback.outbox import Entry, Key, Outbox
from tidewire.transports.log_base import stop

log = logging.getLogger(__name__)

MAX_EVENTS = 10_000  # ten minutes at 1,000 events a minute
MAX_BYTES = 16 * 1024 * 1024  # of memory, audience and ids included: an outage must not take more
BATCH_EVENTS = 100  # appended at once: what one request may hold, and within its bytes
BATCH_BYTES = 1024 * 1024
GROWTH = (
    4  # each batch may be so many times the one before; the first is one event, for a store that has just come back
)
PROBES = 16  # events that are tried behind a refused one, before the next pause
CAP = 1.0  # seconds at most between two tries, with full jitter: the longer, the fuller the outbox
LAST_FLUSH = 5.0  # seconds that the end of the process waits for the log; most platforms kill it 10 s after SIGTERM
HURRY = 0.1  # seconds between two tries then


class Fallback:
    """A `Log` that takes events also while the one below it is away."""

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
        self._is_away = False  # the last append was lost: who publishes now does not wait for the next one
        self._suspects: dict[Entry, str] = {}  # refused while nothing else went in: they are why, or the log is
        self._refusing: dict[str, str] = {}  # partitions of events that were refused alone; nothing went in since
        self._flushing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Append, or keep in the outbox where the log is away: then the receipts are not durable.

        While the outbox is being emptied, what is published waits for its turn behind it. Raises TransportUnavailable
        where the outbox has no room; then none of the events was kept, and the log may have taken some, as ever. Raises
        EventRefused where the log refuses one of them for good.

        A full outbox whose events the log refuses takes the events of one more request as guests: without them nothing
        might ever show that the log accepts others. They are appended, or there was no room for them.
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
        if self._is_away and not self._outbox.guests:  # whose publisher, and whoever repeats them, waits
            for entry, _ in taken:
                entry.is_promised = True
            return [
                Receipt(event.id, None, known, durable=False) for event, (_, known) in zip(events, taken, strict=True)
            ]
        answers = [entry.answer() for entry, _ in taken]
        await asyncio.wait(answers)  # which leaves them to the others where this publisher has gone
        return [
            _receipt(event, answer.result(), known)
            for event, answer, (_, known) in zip(events, answers, taken, strict=True)
        ]

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        """Open the log's own tail."""
        return self._log.on_message(handler)

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the log's heads; what is in the outbox is not before them."""
        return await self._log.head(partitions)

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return what the log does."""
        return await self._log.seek(partitions, time)

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what the log does."""
        return self._log.replay(after, until)

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        """Yield the same page by page; see `Log.replay_pages`."""
        return self._log.replay_pages(after, until)

    async def ping(self) -> None:
        """Return if the log answers: health is to tell that it does not, although publishers are served."""
        await self._log.ping()

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket of all processes, or of this one while the log is away or cannot count."""
        if isinstance(self._log, Buckets) and not self.is_away:
            with suppress(TransportUnavailable):  # what is published next hears of it, and is kept
                return await self._log.take(bucket, cost, capacity, seconds)
        return await self._buckets.take(bucket, cost, capacity, seconds)

    @property
    def is_away(self) -> bool:
        """Whether the log is known to be away."""
        return self._is_away or (isinstance(self._log, Fallible) and self._log.is_away)

    @property
    def backlog(self) -> Backlog:
        """What waits for the log."""
        return Backlog(len(self._outbox), self._outbox.bytes)

    async def aclose(self) -> None:
        """Append what still can be within `LAST_FLUSH` seconds, say loudly how much is lost, and close the log."""
        self._closing.set()
        if (flushing := self._flushing) is not None:
            await asyncio.wait((flushing,), timeout=LAST_FLUSH)
            await stop(flushing)
        self._dismiss(self._outbox.guests)
        self._outbox.give_up_waiting()
        if self._outbox:
            log.error(
                "LOST: %d events (%d bytes of data), accepted as not durable while the log was away; it is away still",
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
            taken = self._outbox.take(events, as_guests=bool(self._suspects))
        except TransportUnavailable:
            OUTBOX_REFUSED.add(by=len(events))
            raise
        OUTBOX_TAKEN.add(by=sum(not known for _, known in taken))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return taken

    async def _flush(self) -> None:
        """Append the outbox in its order until it is empty; a failure of any kind is followed by another try."""
        backoff = Backoff(cap=CAP)
        maximum = 1
        try:
            while batch := self._outbox.first(maximum, BATCH_BYTES):
                guests = self._outbox.guests
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
                self._dismiss(guests)  # not who came meanwhile, and may not have been tried
                await self._pause(backoff.next())
            self._note_back()
            log.info("the outbox is empty: the log holds all that was kept")
        finally:
            self._flushing = None

    async def _append(self, batch: Sequence[Entry]) -> EventRefused | TransportUnavailable | None:
        """Append entries; return why they were not."""
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
        """Find out whether the log refuses the oldest entry alone; return whether it did, and was set aside.

        If an entry behind it goes in, it is tried once more, for the refusal may have ended in between: then it is in
        the log, if behind that one. If none goes in, the log refuses everything, and the outbox keeps everything.
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
        """Yield the entries to try behind those that are suspected, and whether others may be tried after each.

        First those that share no partition with an entry before them, as they change no order. One that does share a
        partition overtakes, should the refusal end just before it is tried: so that is done once a round, until the
        log has proven to take some and to refuse others.
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
                return False  # away: they stay suspected until the next append
            if error is not None:
                self._set_aside(entry, error)
        return True

    def _set_aside(self, entry: Entry, error: EventRefused) -> None:
        """Take an entry out of the way of those behind it."""
        self._remove(entry, error)
        if entry.is_promised:  # even if somebody who sent it again waits, and is answered 422
            OUTBOX_SET_ASIDE.add()
            log.error(
                "SET ASIDE: the event %s was accepted as not durable, and will never be in the log: %s",
                entry.event.id,
                error.detail,
            )

    def _dismiss(self, guests: Sequence[Entry]) -> None:
        """Refuse guests for which there is no room still."""
        error = TransportUnavailable(
            "The log accepts nothing, and the outbox has no room for more: nothing of this request was kept"
        )
        for entry in [guest for guest in self._outbox.guests if guest in guests]:
            self._remove(entry, error)
            OUTBOX_REFUSED.add()

    def _remove(self, entry: Entry, outcome: Receipt | EventRefused | TransportUnavailable) -> None:
        self._suspects.pop(entry, None)
        self._outbox.remove(entry, outcome)

    def _are_refused(self, events: Sequence[Event]) -> bool:
        return any(partition in self._refusing for event in events for partition, _ in self._keys(event))

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            await asyncio.sleep(HURRY)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def _note_away(self, why: str) -> None:
        self._outbox.give_up_waiting()
        if not self._is_away:
            self._is_away = True
            log.warning(
                "the log is away: what is published is kept in memory and not durable until it is back: %s", why
            )

    def _note_taken(self, events: Sequence[Event]) -> None:
        if self._refusing:
            for event in events:
                for partition, _ in self._keys(event):
                    self._refusing.pop(partition, None)
        self._note_back()

    def _note_back(self) -> None:
        if self._is_away:
            self._is_away = False
            log.warning("the log is back: %d events that were kept in memory go into it", len(self._outbox))


def _receipt(event: Event, appended: Receipt | None, known: bool) -> Receipt:
    """Return the receipt of what waited for its turn; None: the log went away before it."""
    if appended is None:
        return Receipt(event.id, None, known, durable=False)
    return Receipt(event.id, appended.positions, appended.duplicate or known)


def _for_good(why: str) -> EventRefused:
    return EventRefused(
        f"The log takes other events and refuses this one; sent again as it is, it is refused again: {why}"
    )
