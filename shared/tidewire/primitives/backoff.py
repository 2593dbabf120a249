"""Exponential backoff for reconnects and retries."""

import random


class Backoff:
    """Exponential backoff with full jitter: each delay is random between 0 and a limit that doubles up to `cap` (s).

    Full jitter, because instances that lost the same server at the same moment must not reconnect together (AWS
    Architecture Blog, "Exponential Backoff And Jitter").
    """

    def __init__(self, base: float = 0.05, cap: float = 5.0, rng: random.Random | None = None) -> None:
        self._base = base
        self._cap = cap
        self._random = (rng or random).random
        self._failures = 0

    def next(self) -> float:
        """Count a failure and return the delay in seconds."""
        limit = min(self._cap, self._base * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._random() * limit

    def reset(self) -> None:
        """Reset the failures after a success."""
        self._failures = 0
