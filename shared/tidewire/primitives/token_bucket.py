"""Token buckets of this process, for stores that cannot count."""

import time
from collections.abc import Callable


class LocalBuckets:
    """Token buckets of this process; a bucket is made for a key that is known, so there are not many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # level and time

    async def take(self, bucket: str, cost: int, capacity: int, seconds: float) -> float:
        """Take from a bucket; see `Buckets.take`."""
        now = self._clock()
        level, at = self._levels.get(bucket, (float(capacity), now))
        level = min(capacity, level + (now - at) * capacity / seconds)
        wanted = min(cost, capacity)
        if level < wanted:
            return (wanted - level) * seconds / capacity
        self._levels[bucket] = (level - wanted, now)
        return 0.0
