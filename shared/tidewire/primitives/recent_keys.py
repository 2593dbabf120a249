"""What was seen lately, as far as there is room for it: how a repetition is known where no log can be asked."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

MAX_REMEMBERED = 10_000
MAX_BYTES = 4 * 1024 * 1024  # of memory: a usual key takes 250, and one with a long source may take a megabyte
KEY_BYTES = 200  # a tuple, the heads of its texts, and its slot


class RecentKeys:
    """The keys of the last `window` seconds, `most` of them and `max_bytes` at most; the oldest leave first."""

    def __init__(
        self,
        window: float,
        maximum: int = MAX_REMEMBERED,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window = window
        self._most = maximum
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock
        self._times: OrderedDict[Hashable, float] = OrderedDict()  # a dict's front is slow to pop from, again and again

    def knows(self, keys: Iterable[Hashable]) -> bool:
        """Tell whether one of the keys was seen."""
        oldest = self._clock() - self._window
        return any(self._times.get(key, oldest) > oldest for key in keys)

    def add(self, key: Hashable) -> bool:
        """Remember a key; False where it is known."""
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
        while self._times and self._is_too_much(oldest):
            first, _ = self._times.popitem(last=False)
            self._bytes -= _size(first)
        return True

    def _is_too_much(self, oldest: float) -> bool:
        if len(self._times) > self._most or self._bytes > self._max_bytes:
            return True
        return next(iter(self._times.values())) <= oldest

    def add_all(self, keys: Iterable[Hashable]) -> bool:
        """Remember all of the keys; where one is known, none is added, and the answer is False."""
        keys = tuple(keys)
        if self.knows(keys):
            return False
        for key in keys:
            self.add(key)
        return True


def _size(key: Hashable) -> int:
    """How much memory a key takes: a text, or a tuple of texts."""
    texts = key if isinstance(key, tuple) else (key,)
    return KEY_BYTES + sum(len(text) * (1 if text.isascii() else 4) for text in texts if isinstance(text, str))
