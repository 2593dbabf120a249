"""The keys of recent events, for detecting duplicates without a log."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

MAX_REMEMBERED = 10_000
MAX_BYTES = 4 * 1024 * 1024  # of memory: a usual key takes 250, one with a long source up to a megabyte
KEY_BYTES = 200  # of a key's tuple, string headers and dict slot


class RecentKeys:
    """The keys of the last `window` seconds, at most `maximum` keys and `max_bytes`; the oldest are removed first."""

    def __init__(
        self,
        window: float,
        maximum: int = MAX_REMEMBERED,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._maximum = maximum
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock
        self._times: OrderedDict[Hashable, float] = OrderedDict()  # popping the first item of a dict is slow

    def knows(self, keys: Iterable[Hashable]) -> bool:
        """Whether one of the keys is known."""
        oldest = self._clock() - self._window
        return any(self._times.get(key, oldest) > oldest for key in keys)

    def add(self, key: Hashable) -> bool:
        """Add a key; False if it is already known."""
        now = self._clock()
        oldest = now - self._window
        known = self._times.get(key)
        if known is not None:
            if known > oldest:
                return False
            del self._times[key]
            self._bytes -= _size(key)
        self._times[key] = now
        self._bytes += _size(key)
        while self._times and self._must_evict(oldest):
            first, _ = self._times.popitem(last=False)
            self._bytes -= _size(first)
        return True

    def _must_evict(self, oldest: float) -> bool:
        if len(self._times) > self._maximum or self._bytes > self._max_bytes:
            return True
        return next(iter(self._times.values())) <= oldest

    def add_all(self, keys: Iterable[Hashable]) -> bool:
        """Add all of the keys; if one is already known, add none and return False."""
        keys = tuple(keys)
        if self.knows(keys):
            return False
        for key in keys:
            self.add(key)
        return True


def _size(key: Hashable) -> int:
    """Return the bytes of memory of a key: a string, or a tuple of strings."""
    texts = key if isinstance(key, tuple) else (key,)
    return KEY_BYTES + sum(len(text) * (1 if text.isascii() else 4) for text in texts if isinstance(text, str))
