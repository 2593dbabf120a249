"""The hub's interface for traces of events; `tidewire.monitoring.opentelemetry` implements it.

By default there is no tracer, and a hub checks one attribute per publish and per record.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tidewire.model.event import Event
from tidewire.model.record import Record
from tidewire.transports.base import Receipt


class Append(Protocol):
    """A publish that is under way."""

    events: Sequence[Event]
    """What is to be published: the events, which now name the span that appends them."""

    def took(self, receipts: Sequence[Receipt]) -> None:
        """Note what the transport has answered."""


class Answering(Protocol):
    """A request that is being answered."""

    trace_id: str
    """32 hex digits, for the log."""

    def answered(self, status: int) -> None:
        """Note the answer's status."""


class Tracer(Protocol):
    """Makes spans. Nothing here raises, waits or reads an event's data."""

    def answer(self, method: str, route: str, headers: Mapping[str, str]) -> AbstractContextManager[Answering]:
        """Open the span of a request, below the one that its `traceparent` names; a `traceparent` that is not valid is
        no error, but as if there was none (W3C Trace Context, section 4.3).
        """

    def append(self, events: Sequence[Event]) -> AbstractContextManager[Append]:
        """Open the span of a publish: below the request's, or below the one that the events came with."""

    def delivered(self, record: Record, matched: int, written: int, began: int, ended: int) -> None:
        """Tell that a record was written to `written` of the `matched` subscribers of this process; times in ns.

        One span for all of them, below the one that appended it; none where that is not known.
        """

    def flush(self) -> None:
        """Send what was told, for at most a second: this process may be frozen now."""

    async def aclose(self) -> None:
        """Send what was told, for at most a few seconds, and make no more spans."""
