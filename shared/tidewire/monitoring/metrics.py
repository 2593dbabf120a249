"""What a hub and its process can be asked about themselves, as plain numbers: for Prometheus and CloudWatch alike.

docs/operate/README.md says what each one means, and what to do.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from tidewire.delivery.hub import Hub
from tidewire.delivery.subscriber import State
from tidewire.model.record import GapReason
from tidewire.primitives import counters
from tidewire.primitives.counters import Histogram
from tidewire.transports.base import Backlog, Buffering, Fallible

Labels = tuple[str, ...]


class Reading(NamedTuple):
    """One metric: `values` by the values of its `labels`. A counter's name is without Prometheus' `_total`."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    values: dict[Labels, float]
    labels: Labels = ()


class Distribution(NamedTuple):
    """One histogram, in seconds."""

    name: str
    help: str
    histogram: Histogram


async def read(hub: Hub) -> Sequence[Reading]:
    """Return all numbers; where somebody is subscribed, the log is asked for its heads once."""
    behind = await hub.tail.records_behind()
    lag = (
        () if behind is None else (_gauge("realtime_tail_behind_records", "Records the tail has yet to bring", behind),)
    )
    return [*read_own(hub), *lag]


def read_own(hub: Hub) -> Sequence[Reading]:
    """Return the numbers for which nobody has to be asked."""
    return [*_gauges(hub), *_counters(hub)]


def distributions(hub: Hub) -> Iterator[Distribution]:
    """Yield all histograms."""
    yield Distribution("realtime_publish_seconds", "Time until the transport had taken a publish", hub.publish_seconds)
    yield Distribution(
        "realtime_tail_lag_seconds", "Time from an append until the tail brought the record", hub.fanout.tail_lag
    )
    yield Distribution(
        "realtime_delivery_seconds",
        "Time from an append until the record was written to all live subscribers it is for",
        hub.fanout.delivery,
    )


def _gauges(hub: Hub) -> Iterator[Reading]:
    now = hub.snapshot()
    yield Reading(
        "gauge",
        "realtime_subscribers",
        "Open streams by state",
        {(state.value,): now.subscribers.get(state, 0) for state in State if state is not State.CLOSED},
        ("state",),
    )
    yield _gauge("realtime_tail_running", "1 while the tail is reading, or nobody needs it to", hub.tail_running)
    away = isinstance(hub.transport, Fallible) and hub.transport.is_away
    yield _gauge("realtime_transport_away", "1 while the transport is known to be away", away)
    refused = "1 while the last append was refused for a reason that lasts, for 30 s at most"
    yield _gauge("realtime_append_refused", refused, hub.refusal is not None)
    yield _gauge("realtime_draining", "1 since the instance was asked to stop", hub.draining)
    yield _gauge("realtime_ring_records", "Records kept for subscribers a little behind", now.fanout.ring_records)
    yield _gauge("realtime_ring_bytes", "Event data kept for subscribers a little behind", now.fanout.ring_bytes)
    yield _gauge("realtime_pending_bytes", "Frames that wait for the end of the turn", now.fanout.pending_bytes)
    yield _gauge("realtime_socket_buffer_bytes", "Bytes written to streams that the kernel has not taken", now.buffered)
    backlog = hub.transport.backlog if isinstance(hub.transport, Buffering) else Backlog(0, 0)
    yield _gauge("realtime_outbox_events", "Events that wait for the log in this process's memory", backlog.events)
    yield _gauge("realtime_outbox_bytes", "Memory of the events that wait for the log", backlog.bytes)


def _counters(hub: Hub) -> Iterator[Reading]:
    fanout, stats = hub.fanout, hub.stats
    yield _counter("realtime_published", "Events that the transport took", hub.published)
    yield _counter("realtime_publish_refused", "Events answered with 503: the transport did not take them", hub.refused)
    yield _counter("realtime_records", "Records that came in: from the tail, or told early", fanout.records)
    yield _counter("realtime_deliveries", "Live frames written to subscribers", fanout.deliveries)
    yield _counter("realtime_matched", "Pairs of a record and a live subscriber that it was for", fanout.matched)
    yield _counter("realtime_filtered", "Pairs of a record and a live subscriber that it was not for", fanout.filtered)
    yield _counter("realtime_replays", "Reads of the log for one subscriber", stats.replays)
    yield _counter("realtime_replayed", "Events sent from the log", stats.replayed)
    yield _counter("realtime_replay_filtered", "Records read from the log that were not for the reader", stats.filtered)
    yield _counter("realtime_slow_subscribers", "Times a subscriber had no room", stats.slow)
    yield _counter("realtime_back_to_log", "Times a subscriber was dropped from the ring to the log", stats.back_to_log)
    gaps: dict[Labels, float] = {(why,): stats.gaps.get(why, 0) + fanout.gaps.get(why, 0) for why in REASONS}
    yield Reading("counter", "realtime_gaps", "Losses announced to subscribers, by reason", gaps, ("reason",))
    for counter in counters.ALL:
        yield Reading("counter", counter.name, counter.help, dict(counter.values), counter.labels)


REASONS: tuple[GapReason, ...] = ("trimmed", "epoch", "no-log", "invalid")


def _gauge(name: str, help: str, value: float) -> Reading:
    return Reading("gauge", name, help, {(): value})


def _counter(name: str, help: str, value: float) -> Reading:
    return Reading("counter", name, help, {(): value})
