"""How long to wait before trying again."""

import random


class Backoff:
    """Exponential backoff with full jitter: each wait is drawn from 0 to a limit that doubles up to `cap` seconds.

    Full jitter, because instances that lost the same server at the same moment must not come back together
    (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """

    def __init__(self, base: float = 0.05, cap: float = 5.0, rng: random.Random | None = None) -> None:
        self._base = base
        self._cap = cap
        self._random = (rng or random).random
        self._failures = 0

    def next(self) -> float:
        """Return the seconds to wait after one more failure."""
        limit = min(self._cap, self._base * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._random() * limit

    def reset(self) -> None:
        """Forget the failures: the last try succeeded."""
        self._failures = 0
