"""Warnings for failures that may repeat many times a second: the first at once, then at most one per minute."""

import logging
import sys
import time
from collections.abc import Callable, Mapping

SECONDS = 60.0
KINDS = 100  # distinct texts that are tracked; the oldest is forgotten first


class ThrottledLog:
    """Logs a warning at once, and the same text again only after `SECONDS`, with the number of lines suppressed."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # text: (time of the next line, lines suppressed)

    def warn(self, text: str, *values: object, extra: Mapping[str, object] | None = None) -> None:
        """Log `text % values`, or suppress it; the throttle compares `text` alone."""
        if (suffix := self._turn(text)) is not None:
            line = text + suffix
            self._logger.warning(line, *values, extra=extra)

    def exception(self, text: str) -> None:
        """Log `text` as an error with the current exception's traceback, or suppress it."""
        if (suffix := self._turn(f"{text} {type(sys.exception()).__name__}")) is not None:
            self._logger.error("%s%s", text, suffix, exc_info=sys.exception())

    def _turn(self, kind: str) -> str | None:
        """Return the suffix of the line, which counts the suppressed ones; None to suppress it."""
        now = self._clock()
        next_at, suppressed = self._kinds.pop(kind, (now, 0))
        if now < next_at:
            self._kinds[kind] = (next_at, suppressed + 1)
            return None
        self._kinds[kind] = (now + SECONDS, 0)
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        return f" ({suppressed} times more since the last such line)" if suppressed else ""
