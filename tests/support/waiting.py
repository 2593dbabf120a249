"""Waiting for what must happen: as short as it takes, and with an account of what came instead where it does not."""

import asyncio
import inspect
from collections.abc import Callable

DEADLINE = 15.0  # seconds; only a failing test waits so long
POLL = 0.005  # seconds between two calls of a condition


class Growing:
    """Something that grows while a test runs, and that can be waited for."""

    def __init__(self) -> None:
        self._grown = asyncio.Event()

    def grow(self) -> None:
        """Let those who wait look again."""
        self._grown.set()

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Return once the condition holds; raises AssertionError, with what there is, where it does not."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds:g} s; there is {self}") from None


async def eventually(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Poll a condition, or a coroutine function, until it holds; raises AssertionError after the deadline."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                holds = condition()
                if inspect.isawaitable(holds):
                    holds = await holds
                if holds:
                    return
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s") from None
