"""Counters and histograms of this process, which GET /api/metrics exports.

The hub exports its own metrics; these count what happens outside it:

    from tidewire.primitives.counters import WEBHOOKS
    WEBHOOKS.add(source, "accepted")

Label values come from the deployment's settings or from the code, never from a client: each new value is a new time
series, and everyone with access to the metrics can read it.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Histogram bounds for durations that are usually milliseconds and at most a time-out."""


class Counter:
    """A counter per set of label values. `name` is without the suffix `_total` of Prometheus."""

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *labels: str, by: int = 1) -> None:
        """Add `by` to the counter of these label values, in the order of `labels`."""
        assert len(labels) == len(self.labels), f"{self.name} has the labels {self.labels}"
        self._values[labels] = self._values.get(labels, 0) + by

    def value(self, *labels: str) -> int:
        """Return the count under these label values."""
        return self._values.get(labels, 0)

    @property
    def values(self) -> Mapping[tuple[str, ...], int]:
        """All counts by label values."""
        return self._values


class Histogram:
    """Counts of values per upper bound; observing one is a binary search."""

    __slots__ = ("_counts", "_worst", "bounds", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)
        self._worst = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a negative one, from clocks that differ, counts as 0."""
        value = max(value, 0.0)
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self._worst = max(self._worst, value)

    def take_worst(self) -> float:
        """Return the largest value since the last call, 0 if there was none."""
        worst, self._worst = self._worst, 0.0
        return worst

    @property
    def count(self) -> int:
        """The number of values observed."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Yield (upper bound, cumulative count) in the format of Prometheus, `+Inf` last."""
        total = 0
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield bound, total


WEBHOOKS = Counter(
    "realtime_webhooks", "Webhooks by source (from realtime.toml, or `unknown`) and verdict", ("source", "verdict")
)
RECONNECTS = Counter("realtime_tail_reconnects", "Reconnects of the tail")
RINGS = Counter("realtime_bell_rings", "Rings of the doorbell received, of any partition (Upstash over REST)")
BELL_CUTS = Counter("realtime_bell_cuts", "Times the subscription to the doorbell ended or was refused")

CIRCUIT_OPENED = Counter(
    "realtime_circuit_opened", "Times the circuit breaker opened because the transport was unavailable"
)
CIRCUIT_REFUSED = Counter("realtime_circuit_refused", "Calls that the open circuit breaker refused")
OUTBOX_TAKEN = Counter("realtime_outbox_taken", "Events accepted into the outbox because the log was unavailable")
OUTBOX_APPENDED = Counter("realtime_outbox_appended", "Events appended to the log from the outbox")
OUTBOX_SET_ASIDE = Counter(
    "realtime_outbox_set_aside", "Events accepted as not durable that the log then refused permanently"
)
OUTBOX_REFUSED = Counter("realtime_outbox_refused", "Events refused because the outbox was full")

ALL = (
    *(WEBHOOKS, RECONNECTS, RINGS, BELL_CUTS, CIRCUIT_OPENED, CIRCUIT_REFUSED),
    *(OUTBOX_TAKEN, OUTBOX_APPENDED, OUTBOX_REFUSED, OUTBOX_SET_ASIDE),
)
"""Every counter that /api/metrics exports."""
