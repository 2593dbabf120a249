"""Token buckets in this process, for transports without shared ones."""

import time
from collections.abc import Callable


class LocalBuckets:
    """Token buckets by name. There is one per configured publish key, so they are never removed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # (level, its time)

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take tokens; see `Buckets.take`."""
        now = self._clock()
        level, at = self._levels.get(bucket, (float(capacity), now))
        level = min(capacity, level + (now - at) * capacity / seconds)
        wanted = min(cost, capacity)
        if level < wanted:
            return (wanted - level) * seconds / capacity
        self._levels[bucket] = (level - wanted, now)
        return 0.0
