"""What the hub asks of a transport, and of one that remembers.

`memory` and `redis_streams` are a `Log`: they keep what was published and can be read again from a cursor. A
transport that only carries events to whoever listens at that moment (Redis Pub/Sub) is a `Transport` and no more;
a subscriber who comes back to it is told of a gap.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.record import Gap, Record

Handler = Callable[[Record | Gap], None]
"""Called for each record in the order of its partition. It must not block and must not raise."""


class Retention(msgspec.Struct, frozen=True):
    """What a log keeps: records younger than `age`, at most `events` of them a partition (0: no limit), and
    each event's id for `idempotency_window`; times in seconds.
    """

    age: float = 86_400
    events: int = 0
    idempotency_window: float = 86_400


class Receipt(msgspec.Struct, frozen=True):
    """The answer for one published event; `positions` is None where no log keeps it.

    `duplicate`: the same event was appended before, within the idempotency window, and nothing was now; the
    positions are the first append's. `durable`: False where the event is only kept in this process's memory, until
    the log is back; whether the log knows its id already cannot be told then.
    """

    id: str
    positions: Mapping[str, Position] | None
    duplicate: bool = False
    durable: bool = True


class Backlog(msgspec.Struct, frozen=True):
    """What a process has taken and the log does not hold yet; `bytes` of memory."""

    events: int
    bytes: int


class Tail(Protocol):
    """The one live read of this process; it goes on until the context that opened it ends.

    Progress is claimed when it was seen. An adapter that sends a request has no reason to call itself running: the
    answer may be a refusal that comes again each time (CROSSSLOT, NOPERM, a role that may not read).
    """

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        """Read these partitions too, from after the position (None: from now, where no log keeps positions).

        Records after the position reach the handler without a hole, whenever the call comes. A partition that
        is followed already stays where it is.

        The answer is done once a read that covers these partitions was answered by the store: until then the hub
        sends no `ready`, and reports the partitions as not followed. A lost or refused read leaves it open, and so
        does `unfollow`. None: nothing has to be waited for (all were covered by an answered read, or the log is in
        this process). A read that blocks until something is appended is no answer while it blocks: make one that
        returns at once first. Where no log keeps positions, what is published arrives once the answer has been
        awaited, which raises TransportUnavailable.
        """

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions; a record that is on its way may still arrive."""

    @property
    def running(self) -> bool:
        """Whether the last read of the tail was answered; False while it reconnects, and until the first answer.

        The back-off of its reconnections is reset by the same answered read, not by an open connection.
        """


@runtime_checkable
class Verifying(Tail, Protocol):
    """A tail of a log that several nodes may answer for: each one whose store can fail over."""

    async def verify(self) -> None:
        """Find out why heads that the hub has read lie behind the tail's place; the hub reads them again afterwards.

        Either they came from a node that is not the primary any more: close idle connections to it, so that the next
        call goes where the store's address leads now. Or the log fell back to an older state: compare the tail's
        places with heads that were read by such a new connection, and give the handler a Gap. Raises
        TransportUnavailable.
        """


@runtime_checkable
class Explaining(Protocol):
    """A tail that knows why it does not run: each one whose store can be away, or refuse it."""

    @property
    def failure(self) -> str | None:
        """Why its last try to read failed, in words that anybody may read; None where none has failed."""


@runtime_checkable
class Advising(Protocol):
    """A tail that knows when it has to work in a slower way than it should."""

    @property
    def advice(self) -> str | None:
        """What is wrong, and what to do; None where nothing is."""


class Transport(Protocol):
    """Carries events from any process to every process."""

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Hand over all events, or raise; receipts are in the order of the events.

        Raises TransportUnavailable where it cannot be told that all were taken: some may have been, and
        publishing the same ids again is safe.
        """

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        """Open the tail; records and gaps go to `handler` until the context ends.

        A lost connection is opened again with full-jitter backoff and goes on from where it was; where that
        place is gone, the handler gets a Gap.
        """

    async def ping(self) -> None:
        """Return if the transport answers; raise TransportUnavailable if not."""

    async def aclose(self) -> None:
        """Close every connection; nothing may be called afterwards."""


@runtime_checkable
class Buckets(Protocol):
    """A transport whose store counts for all processes together."""

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take `cost` from a token bucket that holds `capacity` and fills up in `seconds`; it is full at first.

        Return 0 where it was taken, else the seconds until there is enough. More than it holds is taken as all that
        it holds. Raises TransportUnavailable.
        """


@runtime_checkable
class Log(Transport, Protocol):
    """A transport that remembers."""

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the place after the last record of each partition.

        What was acknowledged before the call is before it. Raises TransportUnavailable.
        """

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the place before each partition's first record appended at or after `time` (ms since 1970).

        None is before the oldest record kept. Raises TransportUnavailable.
        """

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield what lies in `(after, until]` of each partition in `until`, in the order of each partition.

        Complete, or with a Gap where something is missing; gaps known at the start come before any record.
        Reads page by page, as the caller consumes. Raises TransportUnavailable; starting again after the last
        yielded position loses and repeats nothing.
        """


@runtime_checkable
class Fallible(Protocol):
    """A transport that remembers whether it could be reached the last time: all that are not in this process."""

    @property
    def is_away(self) -> bool:
        """Whether it is known to be away; asks nobody."""


@runtime_checkable
class Buffering(Fallible, Protocol):
    """A log that takes events while it is away: what is told early comes by the tail once more."""

    @property
    def backlog(self) -> Backlog:
        """What waits for the log."""


@runtime_checkable
class PagedLog(Log, Protocol):
    """A log that hands out whole pages as well: a replay to one subscriber then has no step of its own for each record.

    All logs here do; one that is written around another log need not.
    """

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncIterator[Sequence[Record | Gap]]:
        """Yield what `replay` does, page by page."""
