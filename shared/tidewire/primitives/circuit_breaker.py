"""The circuit before a store: while it is known to be away, nobody asks it but one, now and then."""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidewire.errors import TransportUnavailable
from tidewire.primitives.backoff import Backoff
from tidewire.primitives.counters import CIRCUIT_OPENED, CIRCUIT_REFUSED

log = logging.getLogger(__name__)

LOSSES = 3  # calls in a row: one may be a connection that broke, and is tried again at once
BASE = 0.05  # seconds without a call after the first failure, drawn from 0 to this; each failed try doubles it
CAP = 1.0  # seconds at most: what is back is found within two of these, and a publisher is told to come back after one

Answer = TypeVar("Answer")


def _no_hold(_: Exception) -> float:
    return 0.0


class Circuit:
    """Lets calls through to a store until `LOSSES` in a row are lost; then open: calls fail at once, without a try.

    When a moment of backoff with full jitter has passed, the next call is let through alone (half open), and what
    becomes of it decides for all: a server that comes back under load must not meet every waiting call at once, and a
    caller must not wait for a time-out that another has just waited for.

    `lost` are the exceptions that mean "away"; any other one is an answer. `tell` makes of them what callers are told,
    where they are not that already. `hold` is for how many seconds the store asks by one of them to be left alone.
    """

    def __init__(
        self,
        lost: tuple[type[Exception], ...],
        tell: Callable[[Exception], TransportUnavailable],
        hold: Callable[[Exception], float] = _no_hold,
    ) -> None:
        self._lost = lost
        self._tell = tell
        self._hold = hold
        self._backoff = Backoff(BASE, CAP)
        self._because: TransportUnavailable | None = None  # None: closed
        self._until = 0.0  # on the monotonic clock; no call before it, and before `_held_until` not even one that asks
        self._held_until = 0.0
        self._probing = False
        self._losses = 0
        self._opened = 0  # a call that began before the circuit was opened the last time tells nothing new

    @property
    def is_open(self) -> bool:
        """Whether the store is known to be away."""
        return self._because is not None

    @property
    def left(self) -> float:
        """Seconds until the next call may be let through."""
        return max(self._until - time.monotonic(), 0.0) if self.is_open else 0.0

    async def run(self, call: Callable[[], Awaitable[Answer]], *, ask: bool = False) -> Answer:
        """Return what the call does; `ask` lets it through also while the circuit is open, as health checks must be.

        Raises TransportUnavailable where the call is lost, or is not let through.
        """
        probes = self._enter(ask)
        opened = self._opened
        try:
            answer = await call()
        except self._lost as error:
            if opened == self._opened:
                self._lose(error)
            raise self._told(error) from error
        except Exception:
            self.close()  # an answer, if not a good one
            raise
        finally:
            if probes:
                self._probing = False
        self.close()
        return answer

    def close(self) -> None:
        """Let calls through again: the store has answered, to whomever."""
        self._losses = 0
        if self._because is None:
            return
        self._because = None
        self._backoff.reset()
        log.info("the transport answers again")

    def _enter(self, ask: bool) -> bool:
        """Let a call through, and tell whether it is the one that finds out; raises TransportUnavailable."""
        if self._because is None or (ask and time.monotonic() >= self._held_until):
            return False
        if self._probing or self.left > 0:
            CIRCUIT_REFUSED.add()
            raise type(self._because)(self._because.detail, max(1, math.ceil(self.left)))  # a refusal stays one
        self._probing = True
        return True

    def _lose(self, error: Exception) -> None:
        self._losses += 1
        hold = self._hold(error)
        if self._losses < LOSSES and not hold:
            return
        told = self._told(error)
        if self._because is None:
            CIRCUIT_OPENED.add()
            log.warning("the transport is away, calls fail at once until it answers: %s", told.detail)
        self._because = told
        self._opened += 1
        now = time.monotonic()
        self._held_until = now + hold
        self._until = max(now + self._backoff.next(), self._held_until)

    def _told(self, error: Exception) -> TransportUnavailable:
        return error if isinstance(error, TransportUnavailable) else self._tell(error)
