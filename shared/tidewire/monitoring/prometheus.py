"""Readings as Prometheus text (exposition format 0.0.4)."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from tidewire.delivery.hub import Hub
from tidewire.monitoring.metrics import Distribution, Reading, distributions, read

__all__ = ["CONTENT_TYPE", "exposition"]


async def exposition(hub: Hub) -> bytes:
    """Return the metrics of one hub; they are read when asked for, so that counting costs an addition."""
    registry = CollectorRegistry()
    registry.register(_Collector(await read(hub), tuple(distributions(hub))))
    return generate_latest(registry)


class _Collector:
    def __init__(self, readings: Sequence[Reading], distributions: Sequence[Distribution]) -> None:
        self._readings = readings
        self._distributions = distributions

    def collect(self) -> Iterator[Metric]:
        for kind, name, help, values, labels in self._readings:
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, help, labels=labels)
            for label_values, value in values.items():
                family.add_metric(label_values, value)
            yield family
        for name, help, histogram in self._distributions:
            yield HistogramMetricFamily(name, help, buckets=list(histogram.buckets()), sum_value=histogram.sum)
