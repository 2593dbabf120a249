"""Waiting for a condition; the error of a failed wait shows what there is instead."""

import asyncio
import inspect
from collections.abc import Callable

DEADLINE = 15.0  # seconds; only a failing test waits so long
POLL = 0.005  # seconds between two calls of a condition


class Growing:
    """Something that grows during a test, and whose growth a test can wait for."""

    def __init__(self) -> None:
        self._grown = asyncio.Event()

    def grow(self) -> None:
        """Let each waiter check its condition again."""
        self._grown.set()

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Return once the condition holds; raises AssertionError after the deadline."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"not within {seconds:g} s; there is {self}") from None


async def spin(turns: int = 1) -> None:
    """Give the other tasks this many turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


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
