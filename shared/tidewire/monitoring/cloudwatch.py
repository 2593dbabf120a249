"""Readings for CloudWatch: lines on standard output in its embedded metric format, which nobody has to scrape.

A function is frozen after its answer and cannot be asked later, so it tells after each one what has happened since the
one before. aws-lambda-powertools, which knows the format, is imported with the first line.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self, TextIO

from tidewire.delivery.hub import Hub
from tidewire.monitoring.metrics import Labels, distributions, read_own
from tidewire.settings.config import Settings


class Sample(NamedTuple):
    """One value of one metric, with the names and the values of its labels."""

    name: str
    unit: str
    value: float
    labels: tuple[Labels, Labels] = ((), ())


def write(namespace: str, function: str, samples: Sequence[Sample], *, output: TextIO | None = None) -> None:
    """Write a line for each set of labels; the first call takes its time to import what knows the format."""
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
    """What one hub has to tell, under a namespace and a function's name."""

    def __init__(self, hub: Hub, namespace: str, function: str, *, output: TextIO | None = None) -> None:
        self._hub = hub
        self._namespace = namespace
        self._function = function
        self._output = output
        self._told: dict[tuple[str, Labels], float] = {}  # of counters and histograms: only growth is told
        self.take()  # what other hubs of this process have counted is theirs

    @classmethod
    def from_settings(cls, hub: Hub, settings: Settings, environ: Mapping[str, str]) -> Self | None:
        """Return what tells of this hub, None where nobody asked for that; Lambda's `environ` names the function."""
        if settings.metrics_namespace is None:
            return None
        return cls(hub, settings.metrics_namespace, environ.get("AWS_LAMBDA_FUNCTION_NAME", "local"))

    def tell(self) -> None:
        """Write a line for each set of labels in which something has happened; none where nothing has."""
        write(self._namespace, self._function, self.take(), output=self._output)

    def take(self) -> list[Sample]:
        """Return what has happened since the last call, for `write`."""
        return [*self._counters(), *self._means()]

    def _counters(self) -> Iterator[Sample]:
        for reading in read_own(self._hub):
            if reading.kind == "counter":
                for values, total in reading.values.items():
                    grown = self._grown(reading.name, values, total)
                    if grown:
                        yield Sample(reading.name, "Count", grown, (reading.labels, values))

    def _means(self) -> Iterator[Sample]:
        for name, _, histogram in distributions(self._hub):
            count = self._grown(f"{name} count", (), histogram.count)
            total = self._grown(f"{name} sum", (), histogram.sum)
            if count:
                yield Sample(name, "Seconds", total / count)

    def _grown(self, name: str, values: Labels, total: float) -> float:
        before = self._told.get((name, values), 0)
        self._told[name, values] = total
        return total - before
