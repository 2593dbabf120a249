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
    """The span of a publish."""

    events: Sequence[Event]
    """The events to publish, with the trace context of this span."""

    def took(self, receipts: Sequence[Receipt]) -> None:
        """Note the receipts of the transport."""


class Answering(Protocol):
    """The span of a request."""

    trace_id: str
    """32 hex digits, for the log."""

    def answered(self, status: int) -> None:
        """Note the response's status."""


class Tracer(Protocol):
    """Makes spans. Nothing here raises, waits or reads an event's data."""

    def answer(self, method: str, route: str, headers: Mapping[str, str]) -> AbstractContextManager[Answering]:
        """Open the span of a request, as a child of its `traceparent`.

        An invalid `traceparent` is ignored (W3C Trace Context, section 4.3).
        """

    def append(self, events: Sequence[Event]) -> AbstractContextManager[Append]:
        """Open the span of a publish, as a child of the request's or of the one that the events carry."""

    def delivered(self, record: Record, matched: int, written: int, began: int, ended: int) -> None:
        """Record that a record was written to `written` of the `matched` subscribers of this process; times in ns.

        One span for all of them, as a child of the span that appended it; none if that is unknown.
        """

    def flush(self) -> None:
        """Send the finished spans, for at most a second: this process may be frozen now."""

    async def aclose(self) -> None:
        """Send the finished spans, for at most a few seconds, and make no more."""
