"""The spans of a publish and of a delivery, and their parents."""

import queue
import threading
from collections.abc import Sequence

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from tidewire.delivery.hub import Hub
from tidewire.errors import TransportUnavailable
from tidewire.model.event import Event
from tidewire.model.partitions import Partitions
from tidewire.monitoring import opentelemetry
from tidewire.monitoring.opentelemetry import Tracing
from tidewire.transports.base import Receipt
from tidewire.transports.memory import MemoryLog

from tests.contract.acts import event
from tests.integration.tracing.spans import Recorded, place
from tests.support.sinks import subscribed
from tests.support.waiting import DEADLINE

TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SPAN_ID = 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"


class Away(MemoryLog):
    """A log that cannot be reached."""

    async def publish(self, events: Sequence[Event]) -> list[Receipt]:
        raise TransportUnavailable("the log at hunter2 cannot be reached")


async def test_a_failed_append_is_a_span_with_the_error_s_name() -> None:
    """Without its text, which may contain anything."""
    recorded = Recorded()
    async with Hub(Away(), tracer=recorded.tracer) as hub:
        with pytest.raises(TransportUnavailable):
            await hub.dispatch([event(1)])
    (span,) = recorded.spans
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes["error.type"] == "TransportUnavailable"
    assert "hunter2" not in span.to_json()


async def test_the_span_of_a_retry_counts_no_append() -> None:
    recorded = Recorded()
    async with Hub(MemoryLog(), tracer=recorded.tracer) as hub:
        await hub.dispatch([event(1, id="a")])
        await hub.dispatch([event(1, id="a"), event(2, id="b")])
    duplicates = [(span.attributes or {}).get("realtime.duplicates") for span in recorded.spans]
    assert duplicates == [None, 1]


async def test_a_bus_event_s_trace_is_continued() -> None:
    recorded = Recorded()
    carried = msgspec.structs.replace(event(1), traceparent=TRACEPARENT, tracestate="vendor=1")
    async with Hub(MemoryLog(), tracer=recorded.tracer) as hub, subscribed(hub) as sink:
        await sink.ready()
        await hub.dispatch([carried])
        await sink.has(1)
    (append,), (deliver,) = recorded.named("append all"), recorded.named("deliver all")
    assert place(append.parent) == (TRACE_ID, SPAN_ID)
    assert place(deliver.parent) == place(append.context)
    assert deliver.context is not None
    assert deliver.context.trace_state == {"vendor": "1"}


async def test_a_cloudevent_s_own_trace_is_linked_or_continued() -> None:
    recorded = Recorded()
    own = msgspec.structs.replace(event(1), attributes={"traceparent": TRACEPARENT})
    log = MemoryLog()
    async with Hub(log, tracer=recorded.tracer) as hub, subscribed(hub) as sink:
        await sink.ready()
        await hub.dispatch([own])
        await sink.has(1)
        await log.publish([msgspec.structs.replace(own, id="untraced", data=b"2")])
        await log.publish([event(3)])
        await sink.has(3)
    (append,) = recorded.named("append all")
    first, second = recorded.named("deliver all")  # none of the last event: nothing is known of its publisher
    assert append.parent is None
    assert [link.context.span_id for link in append.links] == [SPAN_ID]
    assert place(first.parent) == place(append.context)
    assert [link.context.span_id for link in first.links] == [SPAN_ID]
    assert (place(second.parent), list(second.links)) == ((TRACE_ID, SPAN_ID), [])


async def test_names_of_spans_do_not_grow_with_the_users() -> None:
    partitions = Partitions(frozenset({"a"}), user_shards=64)
    recorded = Recorded(partitions)
    async with Hub(MemoryLog(partitions), partitions, tracer=recorded.tracer) as hub:
        await hub.dispatch([event(1, users=[f"u{n}" for n in range(100)])])
        await hub.dispatch([event(2, type="a", users=["u1"]), event(3)])
    assert [span.name for span in recorded.spans] == ["append all", "append several"]
    assert "u1" not in [str(value) for span in recorded.spans for value in (span.attributes or {}).values()]


def test_a_slow_flush_is_neither_awaited_nor_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opentelemetry, "FLUSH_SECONDS", 0.05)
    provider, free, flushed = TracerProvider(shutdown_on_exit=False), threading.Event(), queue.Queue[bool]()
    started: list[threading.Thread] = []

    def force_flush() -> None:
        started.append(threading.current_thread())
        flushed.put(free.wait(DEADLINE))

    monkeypatch.setattr(provider, "force_flush", force_flush)
    tracer = Tracing(provider, Partitions(), "memory")
    tracer.flush()
    tracer.flush()
    assert flushed.empty(), "both calls returned before the flush ended"
    free.set()
    assert flushed.get(timeout=DEADLINE)
    assert len(started) == 1, "the second call waited for the first flush"
