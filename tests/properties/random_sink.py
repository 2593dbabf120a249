"""A client's connection that is writable at random."""

import asyncio
import random
from collections.abc import Awaitable


class RandomSink:
    """A client's connection: takes all, takes some and has no room for a while, takes nothing, or is gone."""

    def __init__(self, dice: random.Random) -> None:
        self.stream = b""
        self.fullness = dice.choice((0.0, 0.0, 0.1, 0.5))  # how often a write is the last for a while
        self.stalled = False
        self.gone = False
        self.ended = False
        self.faults: list[str] = []
        self._dice = dice
        self._room: asyncio.Future[None] | None = None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        if self.ended:
            self.faults.append(f"written to after its end: {chunk!r}")
        if self._room is not None:
            self.faults.append(f"written to without room: {chunk!r}")
        if self.gone:
            return None
        self.stream += chunk
        if not self.stalled and self._dice.random() >= self.fullness:
            return None
        loop = asyncio.get_running_loop()
        self._room = loop.create_future()
        if not self.stalled:
            loop.call_later(self._dice.choice((0.0, 0.0, 0.001, 0.05, 2.0)), self.release)
        return self._room

    def end(self, chunk: bytes) -> None:
        if self._room is None and not self.gone:
            self.stream += chunk
        self.ended = True

    def release(self) -> None:
        """Have room again."""
        self.stalled = False
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    @property
    def buffered(self) -> int:
        return 0
