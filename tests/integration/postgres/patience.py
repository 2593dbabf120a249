"""Waiting for what has to be asked for again and again: a server's answer."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.support.waiting import DEADLINE

AGAIN = 0.02  # seconds between two looks


async def comes_true(ask: Callable[[], Awaitable[object]], seconds: float = DEADLINE) -> None:
    """Return once the answer is true; raises AssertionError where it does not become so."""
    try:
        async with asyncio.timeout(seconds):
            while not await ask():  # noqa: ASYNC110 — nothing here could set an event
                await asyncio.sleep(AGAIN)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s") from None
