"""Metrics in the Prometheus text format 0.0.4; the only module that imports prometheus-client."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from tidewire.delivery.hub import Hub
from tidewire.monitoring.metrics import Distribution, Metric, collect, distributions

__all__ = ["CONTENT_TYPE", "exposition"]


async def exposition(hub: Hub) -> bytes:
    """Return the metrics of one hub; they are collected per scrape, so that counting an event stays one addition."""
    registry = CollectorRegistry()
    registry.register(_Collector(await collect(hub), tuple(distributions(hub))))
    return generate_latest(registry)


class _Collector:
    def __init__(self, metrics: Sequence[Metric], distributions: Sequence[Distribution]) -> None:
        self._metrics = metrics
        self._distributions = distributions

    def collect(self) -> Iterator[Family]:
        for kind, name, help, values, labels in self._metrics:
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, help, labels=labels)
            for label_values, value in values.items():
                family.add_metric(label_values, value)
            yield family
        for name, help, histogram in self._distributions:
            yield HistogramMetricFamily(name, help, buckets=list(histogram.buckets()), sum_value=histogram.sum)
