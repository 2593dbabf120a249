"""Clocks that a test controls."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, ParamSpec
from unittest.mock import patch

P = ParamSpec("P")


class Clock:
    """A wall clock (seconds since 1970) that stands still until it is moved."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time: when nothing else is to do, its clock jumps to the next timer.

    A wait that nothing would ever end raises at once instead of hanging.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("nothing is left that could happen: a wait would never end")
        if timeout > 0:
            self._jump(timeout)
        return ready


async def pass_time(seconds: float) -> None:
    """Let virtual time pass: everything that is due in the meantime runs, so an absent event is proven absent.

    Raises AssertionError in a loop of real time, where it would be a fixed sleep.
    """
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop), "the test has no @virtual_time"
    await asyncio.sleep(seconds)


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in virtual time: heartbeats, backoffs and deadlines of minutes pass at once."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with (
            asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
            # The fan-out rests for as long as its last flush took: nothing in virtual time, however busy the machine.
            patch("tidewire.delivery.fanout.time", SimpleNamespace(monotonic=runner.get_loop().time)),
        ):
            runner.run(test(*args, **kwargs))

    return run
