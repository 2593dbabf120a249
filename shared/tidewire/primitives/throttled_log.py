"""Warnings of what may come many times a second, such as retries: the first at once, then at most one a minute."""

import logging
import sys
import time
from collections.abc import Callable, Mapping

SECONDS = 60.0
KINDS = 100  # texts that are told apart; past that the oldest are forgotten, and warn anew


class ThrottledLog:
    """Logs a warning at once, and the same text again only after `SECONDS`, with the number that was left out."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # text: (when it may be logged again, how often it was not)

    def warn(self, text: str, *values: object, extra: Mapping[str, object] | None = None) -> None:
        """Log `text`, or count it; `values` are put into it as logging does, and make it no other text."""
        if (suffix := self._turn(text)) is not None:
            line = text + suffix
            self._logger.warning(line, *values, extra=extra)

    def exception(self, text: str) -> None:
        """Log `text` as an error with the traceback of the exception that is handled, or count it."""
        if (suffix := self._turn(f"{text} {type(sys.exception()).__name__}")) is not None:
            self._logger.error("%s%s", text, suffix, exc_info=sys.exception())

    def _turn(self, kind: str) -> str | None:
        """Return what the line is to say of those that were left out; None where it is left out itself."""
        now = self._clock()
        next_at, left_out = self._kinds.pop(kind, (now, 0))
        if now < next_at:
            self._kinds[kind] = (next_at, left_out + 1)
            return None
        self._kinds[kind] = (now + SECONDS, 0)
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        return f" ({left_out} times more since the last such line)" if left_out else ""
