"""Counts and distributions of this process: an addition where something happens, read when /api/metrics is asked.

What a hub knows of itself is read from the hub; here is what happens outside of one. A module counts with

    from tidewire.primitives.counters import WEBHOOKS
    WEBHOOKS.add(source, "accepted")

Labels are names that the deployment has chosen or that stand in the code, never what a client has sent: each new
value is a time series for good, and it is told to everyone who may read the metrics.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of what should take milliseconds, and may take as long as a time-out."""


class Counter:
    """A number that only grows, for each set of label values. `name` is without Prometheus' `_total`."""

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}

    def add(self, *labels: str, by: int = 1) -> None:
        """Count `by` more under these label values, in the order of `labels`."""
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
    """How often a value was at most each of `bounds`; to observe one costs a search among a dozen numbers."""

    __slots__ = ("_counts", "_worst", "bounds", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)
        self._worst = 0.0

    def observe(self, value: float) -> None:
        """Count one value; below 0, as where two clocks differ, it is 0."""
        value = max(value, 0.0)
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self._worst = max(self._worst, value)

    def take_worst(self) -> float:
        """Return the largest value since the last call, 0 where there was none."""
        worst, self._worst = self._worst, 0.0
        return worst

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Yield (upper bound, how many were at most that), as Prometheus wants them: cumulative, `+Inf` at the end."""
        total = 0
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield bound, total


WEBHOOKS = Counter(
    "realtime_webhooks", "Webhooks by source (of realtime.toml, or `unknown`) and verdict", ("source", "verdict")
)
RECONNECTS = Counter("realtime_tail_reconnects", "Times the tail was lost and tried again")

CIRCUIT_OPENED = Counter("realtime_circuit_opened", "Times the transport was found to be away")
CIRCUIT_REFUSED = Counter("realtime_circuit_refused", "Calls that failed at once, because the transport is away")
OUTBOX_TAKEN = Counter("realtime_outbox_taken", "Events taken into the outbox, because the log is away or was")
OUTBOX_APPENDED = Counter("realtime_outbox_appended", "Events that went from the outbox into the log")
OUTBOX_SET_ASIDE = Counter(
    "realtime_outbox_set_aside", "Events that were accepted as not durable, and that the log then refused for good"
)
OUTBOX_REFUSED = Counter("realtime_outbox_refused", "Events refused because the outbox had no room")

ALL = (
    *(WEBHOOKS, RECONNECTS, CIRCUIT_OPENED, CIRCUIT_REFUSED),
    *(OUTBOX_TAKEN, OUTBOX_APPENDED, OUTBOX_REFUSED, OUTBOX_SET_ASIDE),
)
"""Every counter that /api/metrics tells; one that is missing here is told to nobody."""
