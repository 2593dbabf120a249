"""Metrics for CloudWatch: lines on standard output in the embedded metric format, so that nothing has to scrape.

Lambda freezes a function after its response, so no scrape reaches it: the function writes after each invocation what
changed since the previous one. aws-lambda-powertools, which writes the format, is imported with the first line.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self, TextIO

from tidewire.delivery.hub import Hub
from tidewire.monitoring.metrics import Labels, collect_local, distributions
from tidewire.settings.config import Settings


class Sample(NamedTuple):
    """One value of one metric, with label names and label values."""

    name: str
    unit: str
    value: float
    labels: tuple[Labels, Labels] = ((), ())


def write(namespace: str, function: str, samples: Sequence[Sample], *, output: TextIO | None = None) -> None:
    """Write one line per set of labels. The first call blocks for the import of aws-lambda-powertools."""
    if not samples:
        return
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    for labels in dict.fromkeys(sample.labels for sample in samples):
        line = AmazonCloudWatchEMFProvider(
            namespace=namespace, default_dimensions={"FunctionName": function, **dict(zip(*labels, strict=True))}
        )
        for sample in samples:
            if sample.labels == labels:
                line.add_metric(sample.name, sample.unit, sample.value)
        print(json.dumps(line.serialize_metric_set()), file=output or sys.stdout, flush=True)


class EmbeddedMetrics:
    """The metrics of one hub since the last report, under a namespace and a function name."""

    def __init__(self, hub: Hub, namespace: str, function: str, *, output: TextIO | None = None) -> None:
        self._hub = hub
        self._namespace = namespace
        self._function = function
        self._output = output
        self._reported: dict[tuple[str, Labels], float] = {}  # totals of counters and histograms at the last report
        self.take()  # counts of this process's earlier hubs were reported by those

    @classmethod
    def from_settings(cls, hub: Hub, settings: Settings, environ: Mapping[str, str]) -> Self | None:
        """Return the reporter for this hub, None without REALTIME_METRICS_NAMESPACE; `environ` is Lambda's."""
        if settings.metrics_namespace is None:
            return None
        return cls(hub, settings.metrics_namespace, environ.get("AWS_LAMBDA_FUNCTION_NAME", "local"))

    def report(self) -> None:
        """Write one line per set of labels whose metrics have changed since the last call."""
        write(self._namespace, self._function, self.take(), output=self._output)

    def take(self) -> list[Sample]:
        """Return the changes since the last call, for `write`."""
        return [*self._counters(), *self._means()]

    def _counters(self) -> Iterator[Sample]:
        for metric in collect_local(self._hub):
            if metric.kind == "counter":
                for values, total in metric.values.items():
                    grown = self._grown(metric.name, values, total)
                    if grown:
                        yield Sample(metric.name, "Count", grown, (metric.labels, values))

    def _means(self) -> Iterator[Sample]:
        for name, _, histogram in distributions(self._hub):
            count = self._grown(f"{name} count", (), histogram.count)
            total = self._grown(f"{name} sum", (), histogram.sum)
            if count:
                yield Sample(name, "Seconds", total / count)

    def _grown(self, name: str, values: Labels, total: float) -> float:
        before = self._reported.get((name, values), 0)
        self._reported[name, values] = total
        return total - before
