"""The protocols of transports.

A `Transport` carries events from any process to every process (Redis Pub/Sub). A `Log` also keeps them, and can be read
from a cursor (memory, Redis Streams, Postgres): on a transport without a log, a subscriber that reconnects gets a gap.
What only some transports or tails can do has a protocol of its own.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, runtime_checkable

import msgspec

from tidewire.model.cursor import Cursor, Position
from tidewire.model.event import Event
from tidewire.model.record import Gap, Record

Handler = Callable[[Record | Gap], None]
"""Called for each record in the order of its partition. It must not block and must not raise."""


class Retention(msgspec.Struct, frozen=True):
    """A log keeps records younger than `age`, at most `events` of them per partition (0: no limit), and each event's
    id for `idempotency_window`; times in seconds.
    """

    age: float = 86_400
    events: int = 0
    idempotency_window: float = 86_400


class Receipt(msgspec.Struct, frozen=True):
    """The result for one published event; `positions` is None if no log keeps it.

    `duplicate`: the same event was appended before, within the idempotency window, and not again; the positions are the
    first append's. `durable`: False while the event is only in this process's memory, until the log is back; it is
    then unknown whether the log already knows its id.
    """

    id: str
    positions: Mapping[str, Position] | None
    duplicate: bool = False
    durable: bool = True


class Backlog(msgspec.Struct, frozen=True):
    """Events that a process has accepted and the log does not hold yet; `bytes` of memory."""

    events: int
    bytes: int


class Tail(Protocol):
    """The one live read of this process; it runs until the context that opened it ends.

    A tail is `running` once a read was answered, not when a request was sent: the answer may be a refusal that comes
    again each time (CROSSSLOT, NOPERM, a role that may not read).
    """

    def follow(self, positions: Mapping[str, Position | None]) -> Awaitable[None] | None:
        """Read these partitions too, from after the position (None: from now, if no log keeps positions).

        Records after the position reach the handler without a hole, whenever this is called. A partition that is
        followed already stays at its position.

        The result is done once the store has answered a read of these partitions: until then the hub sends no `ready`,
        and reports them as not followed. A lost or refused read leaves it pending, and so does `unfollow`. None: there
        is nothing to wait for (an answered read covers them all, or the log is in this process). A read that blocks
        until something is appended is not answered while it blocks: an adapter reads without blocking first. On a
        transport without a log, events arrive once the result was awaited, which raises TransportUnavailable.
        """

    def unfollow(self, partitions: Sequence[str]) -> None:
        """Stop reading these partitions; a record that was read already may still arrive."""

    @property
    def running(self) -> bool:
        """Whether the tail's last read was answered; False while it reconnects, and until the first answer.

        The same answered read resets the backoff of its reconnections; an open connection does not.
        """


@runtime_checkable
class Verifying(Tail, Protocol):
    """A tail whose store can fail over, so that several nodes may answer for the log."""

    async def verify(self) -> None:
        """Check the log after the hub has read heads behind the tail's positions; the hub then reads them again.

        Either the heads came from a node that is not the primary any more: close idle connections to it, so that the
        next call goes to where the store's address leads now. Or the log fell back to an older state: compare the
        tail's positions with heads read over a new connection, and give the handler a Gap. Raises TransportUnavailable.
        """


@runtime_checkable
class Explaining(Protocol):
    """A tail that can say why it is not running: every tail whose store can be unavailable, or can refuse a read."""

    @property
    def failure(self) -> str | None:
        """Why its last read failed, as public text without secrets; None if none has failed."""


@runtime_checkable
class Advising(Protocol):
    """A tail that knows when it has to work in a slow way."""

    @property
    def advice(self) -> str | None:
        """What is wrong, and how to correct it; None if nothing is."""


@runtime_checkable
class Ringing(Tail, Protocol):
    """A tail that a doorbell wakes, and that polls while it does not hear it."""

    @property
    def bell_heard(self) -> bool:
        """Whether the tail relies on the doorbell now."""


@runtime_checkable
class Dozing(Protocol):
    """A tail whose store may sleep while no subscriber and no publisher uses it."""

    @property
    def dozes(self) -> bool:
        """Whether this was configured: then nothing else should read from the store, such as a scrape of metrics."""


class Transport(Protocol):
    """Carries events from any process to every process."""

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        """Publish all events, or raise; receipts are in the order of the events.

        Raises TransportUnavailable if it is not known that all were accepted: some may have been, and publishing the
        same ids again is safe.
        """

    def on_message(self, handler: Handler) -> AbstractAsyncContextManager[Tail]:
        """Open the tail; records and gaps go to `handler` until the context ends.

        A lost connection is opened again with full-jitter backoff, and the tail resumes at its positions; if the log
        does not hold them any more, the handler gets a Gap.
        """

    async def ping(self) -> None:
        """Return if the transport answers and would accept an event; else raise TransportUnavailable."""

    async def aclose(self) -> None:
        """Close every connection; no other method may be called afterwards."""


@runtime_checkable
class Buckets(Protocol):
    """A transport whose store has token buckets that all processes share."""

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take `cost` from a token bucket that holds `capacity` and fills up in `seconds`; it is full at first.

        Return 0 if it was taken, else the seconds until there is enough. A cost above the capacity empties a full
        bucket. Raises TransportUnavailable.
        """


@runtime_checkable
class Log(Transport, Protocol):
    """A transport that keeps what was published."""

    async def head(self, partitions: Sequence[str]) -> Cursor:
        """Return the position after the last record of each partition.

        Events acknowledged before the call are before it. Raises TransportUnavailable.
        """

    async def seek(self, partitions: Sequence[str], time: int | None) -> Cursor:
        """Return the position before each partition's first record appended at or after `time` (ms since 1970).

        None is before the oldest record kept. Raises TransportUnavailable.
        """

    def replay(self, after: Cursor, until: Cursor) -> AsyncIterator[Record | Gap]:
        """Yield the records in `(after, until]` of each partition in `until`, in the order of each partition.

        Missing records are a Gap; gaps known at the start come before any record. Pages are read as the caller
        consumes them. Raises TransportUnavailable; starting again after the last yielded position loses and repeats
        nothing.
        """

    def replay_pages(self, after: Cursor, until: Cursor) -> AsyncGenerator[Sequence[Record | Gap]]:
        """Yield the items of `replay` page by page; a RecordPage needs no step per record. The caller closes it."""


@runtime_checkable
class SeveralClocks(Log, Protocol):
    """A log whose partitions are on several servers, each of which dates its own records."""

    @property
    def clock_tolerance(self) -> int:
        """By how many milliseconds these clocks may differ, so that nothing is lost."""


Role = Literal["primary", "replica", "sentinel"]


class StoreNode(msgspec.Struct, frozen=True):
    """One server of a store; its name is `host:port`, which responses to the public must not contain.

    `partitions`: those that this process follows there. `behind` of a replica: bytes and seconds, as its primary counts
    them; None if that is not known.
    """

    name: str
    role: Role
    is_available: bool = True
    partitions: int = 0
    is_read: bool = True  # the tail reads there, or has nothing to read there
    behind: tuple[int, int] | None = None


class StoreProblem(msgspec.Struct, frozen=True):
    """What an operator should change in a store's servers; if `is_severe`, events are refused or arrive nowhere."""

    text: str
    remedy: str
    is_severe: bool = False


class Inspection(msgspec.Struct, frozen=True):
    """The answers of all servers of a store, to an operator's question."""

    nodes: Sequence[StoreNode]
    problems: Sequence[StoreProblem]


@runtime_checkable
class Nodes(Protocol):
    """A transport over several servers, which knows without a command in what state each is."""

    def store_nodes(self) -> Sequence[StoreNode]:
        """Return the servers to which this process has sent something since they joined."""


@runtime_checkable
class Fallible(Protocol):
    """A transport that knows whether the last call reached its store: every one whose store is not this process."""

    @property
    def is_unavailable(self) -> bool:
        """Whether the store is known to be unavailable; nothing is sent."""


@runtime_checkable
class Buffering(Fallible, Protocol):
    """A log that accepts events while it is unavailable. The tail repeats the events that were delivered early."""

    @property
    def backlog(self) -> Backlog:
        """The events that wait for the log."""
