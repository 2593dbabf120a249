"""Warnings of retry loops, which may come many times a second: the first at once, then at most one a minute."""

import logging
import time
from collections.abc import Callable

SECONDS = 60.0
KINDS = 100  # texts that are told apart; past that the oldest are forgotten, and warn anew


class Repeated:
    """Logs a warning at once, and the same text again only after `SECONDS`, with the number that was left out."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # text: (when it may be logged again, how often it was not)

    def warn(self, text: str) -> None:
        """Log `text`, or count it."""
        now = self._clock()
        next_at, left_out = self._kinds.pop(text, (now, 0))
        if now < next_at:
            self._kinds[text] = (next_at, left_out + 1)
            return
        self._kinds[text] = (now + SECONDS, 0)
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        suffix = f" ({left_out} times more since the last such line)" if left_out else ""
        self._logger.warning("%s%s", text, suffix)
