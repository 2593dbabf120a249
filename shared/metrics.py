"""The hub's counters as Prometheus text (exposition format 0.0.4)."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from shared import counters
from shared.hub import Hub

__all__ = ["CONTENT_TYPE", "exposition"]


def exposition(hub: Hub) -> bytes:
    """Return the metrics of one hub; they are read when asked for, so that counting costs an addition."""
    registry = CollectorRegistry()
    registry.register(_HubCollector(hub))
    return generate_latest(registry)


class _HubCollector:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        hub, stats, fanout = self._hub, self._hub.stats, self._hub.fanout
        live = sum(subscriber.live for subscriber in hub.subscribers)
        subscribers = GaugeMetricFamily("realtime_subscribers", "Open streams by state", labels=["state"])
        subscribers.add_metric(["live"], live)
        subscribers.add_metric(["catching-up"], len(hub.subscribers) - live)
        yield subscribers
        yield GaugeMetricFamily("realtime_tail_running", "1 while the tail is reading", hub.tail_running)
        yield GaugeMetricFamily(
            "realtime_ring_bytes", "Event data kept for subscribers a little behind", fanout.ring.bytes
        )
        yield CounterMetricFamily("realtime_published", "Events that the transport took", hub.published)
        yield CounterMetricFamily("realtime_records", "Records that the tail brought", fanout.records)
        yield CounterMetricFamily("realtime_deliveries", "Live frames written to subscribers", fanout.deliveries)
        yield CounterMetricFamily("realtime_replays", "Reads of the log for one subscriber", stats.replays)
        yield CounterMetricFamily("realtime_replayed", "Events sent from the log", stats.replayed)
        yield CounterMetricFamily("realtime_slow_subscribers", "Times a subscriber had no room", stats.slow)
        yield CounterMetricFamily("realtime_back_to_log", "Times a subscriber went back to the log", stats.back_to_log)
        gaps = CounterMetricFamily("realtime_gaps", "Losses announced to subscribers, by reason", labels=["reason"])
        for reason in ("trimmed", "epoch", "no-log", "invalid"):
            gaps.add_metric([reason], stats.gaps.get(reason, 0))
        yield gaps
        for counter in counters.ALL:
            family = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
            for labels, value in counter.values.items():
                family.add_metric(labels, value)
            yield family
