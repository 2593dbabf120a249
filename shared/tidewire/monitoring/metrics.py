"""The metrics of a hub and its process as plain numbers, for Prometheus and CloudWatch.

docs/operate/README.md explains each metric and what to do about it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from tidewire.delivery.hub import Hub
from tidewire.model.record import GapReason
from tidewire.primitives import counters
from tidewire.primitives.counters import Histogram
from tidewire.transports.base import Backlog, Buffering, Fallible, Nodes, StoreNode, Transport

Labels = tuple[str, ...]


class Metric(NamedTuple):
    """A counter or a gauge; `values` maps label values to numbers. A counter's name lacks Prometheus' `_total`."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    values: dict[Labels, float]
    labels: Labels = ()


class Distribution(NamedTuple):
    """A histogram, in seconds."""

    name: str
    help: str
    histogram: Histogram


async def collect(hub: Hub) -> Sequence[Metric]:
    """Return all counters and gauges; reads the heads of the log once if there are subscribers."""
    behind = await hub.tail.records_behind()
    lag = (
        () if behind is None else (_gauge("realtime_tail_behind_records", "Records the tail has not read yet", behind),)
    )
    return [*collect_local(hub), *lag]


def collect_local(hub: Hub) -> Sequence[Metric]:
    """Return the counters and gauges that need no request to the log."""
    return [*_gauges(hub), *_counters(hub)]


def distributions(hub: Hub) -> Iterator[Distribution]:
    """Yield all histograms."""
    yield Distribution(
        "realtime_publish_seconds", "Time until the transport accepted the events of a publish", hub.publish_seconds
    )
    yield Distribution(
        "realtime_tail_lag_seconds", "Time from an append until the tail read the record", hub.fanout.tail_lag
    )
    yield Distribution(
        "realtime_delivery_seconds",
        "Time from an append until the record was written to every matching live subscriber",
        hub.fanout.delivery,
    )


def _gauges(hub: Hub) -> Iterator[Metric]:
    from tidewire.delivery.subscriber import State  # a function that only publishes starts without it

    now = hub.snapshot()
    yield Metric(
        "gauge",
        "realtime_subscribers",
        "Open streams by state",
        {(state.value,): now.subscribers.get(state, 0) for state in State if state is not State.CLOSED},
        ("state",),
    )
    yield _gauge("realtime_tail_running", "1 while the tail is reading, or is not needed", hub.tail_running)
    heard = hub.tail.bell_heard
    bell = "1 while the doorbell of a log over REST is heard, 0 while it polls"
    yield Metric("gauge", "realtime_bell_heard", bell, {} if heard is None else {(): heard})
    unavailable = isinstance(hub.transport, Fallible) and hub.transport.is_unavailable
    yield _gauge("realtime_transport_away", "1 while the transport is unavailable", unavailable)
    yield from _nodes(hub.transport)
    refused = "1 while the last append was refused for a lasting reason, for 30 s at most"
    yield _gauge("realtime_append_refused", refused, hub.refusal is not None)
    yield _gauge("realtime_draining", "1 once the instance drains its streams", hub.draining)
    yield _gauge("realtime_ring_records", "Records kept for subscribers slightly behind", now.fanout.ring_records)
    yield _gauge("realtime_ring_bytes", "Event data kept for subscribers slightly behind", now.fanout.ring_bytes)
    yield _gauge(
        "realtime_pending_bytes", "Frames to be written at the end of the event loop's turn", now.fanout.pending_bytes
    )
    yield _gauge(
        "realtime_socket_buffer_bytes", "Bytes written to streams that the kernel has not accepted yet", now.buffered
    )
    backlog = hub.transport.backlog if isinstance(hub.transport, Buffering) else Backlog(0, 0)
    yield _gauge("realtime_outbox_events", "Events in the outbox, in this process's memory", backlog.events)
    yield _gauge("realtime_outbox_bytes", "Memory used by the events in the outbox", backlog.bytes)


def _nodes(transport: Transport) -> Iterator[Metric]:
    """Yield the gauges of the servers that the transport uses now, which are few: the label needs no other bound."""
    nodes = transport.store_nodes() if isinstance(transport, Nodes) else ()

    def by_node(name: str, help: str, value: Callable[[StoreNode], float]) -> Metric:
        return Metric("gauge", name, help, {(node.name,): value(node) for node in nodes}, ("node",))

    yield by_node("realtime_node_up", "1 while a node of the store answers", lambda node: node.is_available)
    yield by_node("realtime_node_partitions", "Partitions followed at a node", lambda node: node.partitions)
    yield by_node(
        "realtime_node_tail_running", "1 while the tail reads at a node, or need not", lambda node: node.is_read
    )


def _counters(hub: Hub) -> Iterator[Metric]:
    fanout, stats = hub.fanout, hub.stats
    yield _counter("realtime_published", "Events accepted by the transport", hub.published)
    yield _counter("realtime_publish_refused", "Events answered with 503: the transport refused them", hub.refused)
    yield _counter("realtime_records", "Records received from the tail or delivered early", fanout.records)
    yield _counter("realtime_deliveries", "Live frames written to subscribers", fanout.deliveries)
    yield _counter("realtime_matched", "Pairs of a record and a matching live subscriber", fanout.matched)
    yield _counter(
        "realtime_filtered", "Pairs of a record and a live subscriber that it does not match", fanout.filtered
    )
    yield _counter("realtime_replays", "Reads of the log for one subscriber", stats.replays)
    yield _counter("realtime_replayed", "Events sent from the log", stats.replayed)
    yield _counter(
        "realtime_replay_filtered", "Records read from the log that did not match the reader", stats.filtered
    )
    yield _counter("realtime_slow_subscribers", "Times that a subscriber's send buffer was full", stats.slow)
    yield _counter(
        "realtime_back_to_log",
        "Times that a subscriber fell behind the ring and resumed from the log",
        stats.back_to_log,
    )
    gaps: dict[Labels, float] = {(why,): stats.gaps.get(why, 0) + fanout.gaps.get(why, 0) for why in REASONS}
    yield Metric("counter", "realtime_gaps", "Gaps announced to subscribers, by reason", gaps, ("reason",))
    for counter in counters.ALL:
        yield Metric("counter", counter.name, counter.help, dict(counter.values), counter.labels)


REASONS: tuple[GapReason, ...] = ("trimmed", "epoch", "no-log", "invalid")


def _gauge(name: str, help: str, value: float) -> Metric:
    return Metric("gauge", name, help, {(): value})


def _counter(name: str, help: str, value: float) -> Metric:
    return Metric("counter", name, help, {(): value})
