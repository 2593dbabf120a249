"""What was seen lately, as far as there is room for it: how a repetition is known where no log can be asked."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

MAX_REMEMBERED = 10_000


class Seen:
    """The keys of the last `window` seconds, `most` of them at most; the oldest leave first."""

    def __init__(
        self, window: float, most: int = MAX_REMEMBERED, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._most = most
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
        self._times[key] = now
        while len(self._times) > self._most or next(iter(self._times.values())) <= oldest:
            self._times.popitem(last=False)
        return True

    def add_all(self, keys: Iterable[Hashable]) -> bool:
        """Remember all of the keys; where one is known, none is added, and the answer is False."""
        keys = tuple(keys)
        if self.knows(keys):
            return False
        for key in keys:
            self.add(key)
        return True
