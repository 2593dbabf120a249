"""A circuit breaker for a store: while it is unavailable, calls fail at once, and one call at a time probes it."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import CIRCUIT_OPENED, CIRCUIT_REFUSED

log = logging.getLogger(__name__)

LOSSES = 3  # lost calls in a row that open the circuit: a single one may be a connection that broke
BASE = 0.05  # seconds: the first pause is drawn from 0 to this, and each failed try doubles the bound
CAP = 1.0  # seconds: the longest pause; a store that is back is found within two of these

Answer = TypeVar("Answer")


def _no_hold(_: Exception) -> float:
    return 0.0


class CircuitBreaker:
    """Lets calls through until `LOSSES` in a row are lost. Then it is open: calls fail at once, without a try.

    After a pause (backoff with full jitter) it is half open: one call is let through, and its outcome decides for all.
    A server that comes back under load must not meet every waiting call at once, and no caller waits for a time-out
    that another one has just waited for.

    `lost` are the exceptions that mean "unavailable"; any other one is an answer. `to_error` turns them into the
    caller's error, if they are not TransportUnavailable already. `hold` returns for how many seconds the store asked
    not to be called.
    """

    def __init__(
        self,
        lost: tuple[type[Exception], ...],
        to_error: Callable[[Exception], TransportUnavailable],
        hold: Callable[[Exception], float] = _no_hold,
    ) -> None:
        self._lost = lost
        self._to_error = to_error
        self._hold = hold
        self._backoff = Backoff(BASE, CAP)
        self._failure: TransportUnavailable | None = None  # None: closed
        self._until = 0.0  # on the monotonic clock: no call is let through before it
        self._held_until = 0.0  # and before this not even a health check
        self._probing = False
        self._losses = 0
        self._times_opened = 0  # the loss of a call that began before the circuit was opened last is no news

    @property
    def is_open(self) -> bool:
        """Whether the store is known to be unavailable."""
        return self._failure is not None

    @property
    def seconds_left(self) -> float:
        """Seconds until the next call may be let through."""
        return max(self._until - time.monotonic(), 0.0) if self.is_open else 0.0

    async def run(self, call: Callable[[], Awaitable[Answer]], *, even_if_open: bool = False) -> Answer:
        """Return the call's result; `even_if_open` is for health checks.

        Raises TransportUnavailable if the call is lost, or is not let through.
        """
        is_probe = self._enter(even_if_open)
        times_opened = self._times_opened
        try:
            answer = await call()
        except self._lost as error:
            if times_opened == self._times_opened:
                self._count_loss(error)
            raise self._unavailable(error) from error
        except Exception:
            self.close()  # the store answered, if not well
            raise
        finally:
            if is_probe:
                self._probing = False
        self.close()
        return answer

    def close(self) -> None:
        """Let calls through again: the store has answered, perhaps on another connection."""
        self._losses = 0
        if self._failure is None:
            return
        self._failure = None
        self._backoff.reset()
        log.info("the transport answers again")

    def _enter(self, even_if_open: bool) -> bool:
        """Let a call through, and return whether it is the probe; raises TransportUnavailable."""
        if self._failure is None or (even_if_open and time.monotonic() >= self._held_until):
            return False
        if self._probing or self.seconds_left > 0:
            CIRCUIT_REFUSED.add()
            retry_after = max(1, math.ceil(self.seconds_left))
            raise type(self._failure)(self._failure.detail, retry_after)  # of the same type: a refusal stays one
        self._probing = True
        return True

    def _count_loss(self, error: Exception) -> None:
        self._losses += 1
        hold = self._hold(error)
        if self._losses < LOSSES and not hold:
            return
        failure = self._unavailable(error)
        if self._failure is None:
            CIRCUIT_OPENED.add()
            log.warning("the transport is unavailable: calls fail at once until it answers: %s", failure.detail)
        self._failure = failure
        self._times_opened += 1
        now = time.monotonic()
        self._held_until = now + hold
        self._until = max(now + self._backoff.next(), self._held_until)

    def _unavailable(self, error: Exception) -> TransportUnavailable:
        return error if isinstance(error, TransportUnavailable) else self._to_error(error)
